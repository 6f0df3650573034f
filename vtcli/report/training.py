"""What `vt finetune` prints: the estimate of a dry run, a line per epoch, and a summary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vtcli.runtime.words import plural
from vtcli.training.features import views_per_video
from vtcli.training.plan import TrainPlan
from vtcli.training.results import TrainingEstimate


def print_estimate(estimate: TrainingEstimate, format: str) -> None:
    """Print the estimate of a dry run on standard output, as a table or JSON."""
    if format == "json":
        print(json.dumps(estimate.to_dict(), indent=2))
        return
    _print_rows(estimate_rows(estimate))


def estimate_rows(e: TrainingEstimate) -> list[tuple[str, str]]:
    """Names and values of the table."""
    return [
        ("model", f"{e.model}, {e.classes} classes, initialized from {e.init}"),
        ("data", f"{e.train_videos} training videos, {e.val_videos} validation videos"),
        ("parameters", f"{e.trainable_parameters:,} trainable of {e.parameters:,}"),
        ("recipe", f"{e.recipe}: {e.recipe_reason}" if e.recipe_reason else e.recipe),
        (
            "steps",
            f"{e.steps}: {e.epochs} epochs x {e.steps_per_epoch} optimizer steps of "
            f"{e.clips_per_step} clips",
        ),
        (
            "learning rate",
            f"classifier {e.head_lr:.3g}, backbone {e.lr:.3g} down to {e.lowest_lr:.3g} "
            f"({e.lr_base:.3g} for {e.lr_base_size} clips)",
        ),
        (
            "sum of rates",
            f"{e.sum_of_head_rates:.3g} over all steps of the classifier; it needs "
            f"{e.least_sum_of_rates:.2g}",
        ),
        *([("classifier", _start(e))] if e.start_clips else []),
        ("memory", f"{e.memory_bytes / 2**30:.2f} GiB ({e.device})"),
        (
            "time",
            f"{duration(e.total_time)} ({e.step_time:.2f} s per step, {e.data_fraction:.0%} of it "
            f"waiting for data), of which about {duration(e.epochs * e.validation_time)} are "
            "validation",
        ),
        *([("warning", e.warning)] if e.warning else []),
    ]


def _start(e: TrainingEstimate) -> str:
    return (
        f"fitted to features of {e.start_clips} clips before the first epoch, about "
        f"{duration(e.start_time)}"
    )


def print_outcome(outcome: Mapping[str, Any], format: str) -> None:
    """Print the result of a training on standard output, as a table or JSON."""
    if format == "json":
        print(json.dumps(outcome, indent=2))
        return
    best = outcome["best"]
    by_macro = outcome["best_epoch_by"] == "val_macro"
    how = ", by macro accuracy: the classes are unbalanced" if by_macro else ""
    how = ", by mean average precision" if "val_map" in best else how
    how += ": the classifier as fitted before the first epoch" if not best["epoch"] else ""
    _print_rows(
        [
            ("ended", outcome["ended"]),
            ("best epoch", f"{best['epoch']} of {outcome['epochs']}{how}"),
            ("top-1", f"{best['val_top1']:.1%} of {outcome['val_videos']} videos, one view each"),
            *macro_row(best, by_macro),
            *map_row(best),
            ("best", outcome["files"]["best"]),
            *_file_rows(outcome, "last", "history", "curve"),
            *(("warning", warning) for warning in outcome["warnings"]),
        ]
    )


def _file_rows(outcome: Mapping[str, Any], *kinds: str) -> list[tuple[str, str]]:
    files = outcome["files"]
    return [(kind, files[kind]) for kind in kinds if kind in files]


def macro_row(best: Mapping[str, Any], shown: bool) -> list[tuple[str, str]]:
    """The row of the macro accuracy, where it is `shown` and known."""
    if not shown or "val_macro" not in best:
        return []
    return [("macro accuracy", f"{best['val_macro']:.1%}, the mean over the classes")]


def map_row(best: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The row of the mean average precision, where each class is decided alone."""
    if "val_map" not in best:
        return []
    return [
        ("mAP", f"{best['val_map']:.1%}; classes from a probability of {best['val_threshold']:.3f}")
    ]


def print_head_plan(plan: TrainPlan, format: str) -> None:
    """Print what fitting the classifier to cached features would do, as a table or JSON."""
    train, validation = plan.split.train.samples, plan.split.validation.samples
    views = views_per_video(len(train))
    table = {
        "recipe": plan.recipe_name,
        "recipe_reason": plan.recipe_reason,
        "classes": len(plan.labels),
        "train_videos": len(train),
        "val_videos": len(validation),
        "views": views,
        "clips": views * len(train) + len(validation),
    }
    if format == "json":
        print(json.dumps(table, indent=2))
        return
    _print_rows(
        [
            ("data", f"{len(train)} training videos, {len(validation)} validation videos"),
            ("recipe", f"{plan.recipe_name}: {plan.recipe_reason}"),
            ("features", f"of {table['clips']} clips, {views} views of each training video"),
        ]
    )


def print_head_fit(outcome: Mapping[str, Any], format: str) -> None:
    """Print the result of fitting the classifier, as a table or JSON."""
    if format == "json":
        print(json.dumps(outcome, indent=2))
        return
    best, penalties = outcome["best"], outcome["l2"].values()
    curve = [_curve_row(point) for point in outcome["learning_curve"]]
    _print_rows(
        [
            ("ended", f"{outcome['ended']} in {duration(best['epoch_time'])}"),
            ("penalty", f"l2 = {', '.join(f'{l2:g}' for l2 in penalties)}, by cross-validation"),
            ("top-1", f"{best['val_top1']:.1%} of {outcome['val_videos']} videos, one view each"),
            *macro_row(best, outcome["unbalanced"]),
            *map_row(best),
            *curve,
            *_failed_row(best),
            ("best", outcome["files"]["best"]),
            *(("warning", warning) for warning in outcome["warnings"]),
        ]
    )


def _failed_row(best: Mapping[str, Any]) -> list[tuple[str, str]]:
    failed = best["failed_videos"] + best["val_failed_videos"]
    if not failed:
        return []
    where = "; see failed_videos.txt" if best["failed_videos"] else ""
    return [("failed", f"{plural(failed, 'video')} could not be read{where}")]


def _curve_row(point: Mapping[str, Any]) -> tuple[str, str]:
    value, metric = (point["map"], "mAP ") if point["top1"] is None else (point["top1"], "")
    interval = f"(95 % interval {point['low']:.1%} to {point['high']:.1%})"
    return f"{point['videos']} videos", f"{metric}{value:.1%} {interval}"


def _print_rows(rows: Sequence[tuple[str, str]]) -> None:
    """One row per line, however long: a wrapped path cannot be copied."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def epoch_line(row: Mapping[str, Any], epochs: int) -> str:
    """A line for a finished epoch, from its history row."""
    differs = row.get("val_macro", row["val_top1"]) != row["val_top1"]
    macro = f"macro {row['val_macro']:.1%}, " if differs else ""
    macro = f"mAP {row['val_map']:.1%}, " if "val_map" in row else macro
    line = (
        f"epoch {row['epoch']}/{epochs}: loss {row['train_loss']:.4f}, training "
        f"{row['train_top1']:.1%}, validation {row['val_top1']:.1%} ({macro}loss "
        f"{row['val_loss']:.4f}), "
        f"lr {row['lr']:.2g}, {duration(row['epoch_time'])}"
    )
    if failed := row["failed_videos"] + row["val_failed_videos"]:
        where = " (see failed_videos.txt)" if row["failed_videos"] else ""
        line += f", {failed} videos could not be read{where}"
    return line


def duration(seconds: float) -> str:
    """Seconds as 1 h 02 min, 3 min 20 s or 12 s."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
