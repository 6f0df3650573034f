"""What `vt finetune` prints: the estimate of a dry run, a live progress line, a line per epoch, and
a summary.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from vtcli.training.features import views_per_video
from vtcli.training.plan import TrainPlan
from vtcli.training.results import TrainingEstimate, TrainProgress


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
        ("memory", f"{e.memory_bytes / 2**30:.2f} GiB ({e.device})"),
        (
            "time",
            f"{duration(e.total_time)} ({e.step_time:.2f} s per step, {e.data_fraction:.0%} of it "
            "waiting for data), without validation",
        ),
        *([("warning", e.warning)] if e.warning else []),
    ]


def print_outcome(outcome: Mapping[str, Any], format: str) -> None:
    """Print the result of a training on standard output, as a table or JSON."""
    if format == "json":
        print(json.dumps(outcome, indent=2))
        return
    best = outcome["best"]
    _print_rows(
        [
            ("ended", outcome["ended"]),
            ("best epoch", f"{best['epoch']} of {outcome['epochs']}"),
            ("top-1", f"{best['val_top1']:.1%} of {outcome['val_videos']} videos, one view each"),
            ("best", outcome["files"]["best"]),
            ("last", outcome["files"]["last"]),
        ]
    )


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
    curve = [
        (
            f"{point['videos']} videos",
            f"{point['top1']:.1%} (95 % interval {point['low']:.1%} to {point['high']:.1%})",
        )
        for point in outcome["learning_curve"]
    ]
    _print_rows(
        [
            ("ended", f"{outcome['ended']} in {duration(best['epoch_time'])}"),
            ("penalty", f"l2 = {', '.join(f'{l2:g}' for l2 in penalties)}, by cross-validation"),
            ("top-1", f"{best['val_top1']:.1%} of {outcome['val_videos']} videos, one view each"),
            *curve,
            ("best", outcome["files"]["best"]),
        ]
    )


@contextmanager
def show_rows(shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a live line on standard error, where that is a terminal: the clips whose features are
    computed, of all clips.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    visible = shown and sys.stderr.isatty()
    with Progress(console=console, disable=not visible, transient=True) as bars:
        task = bars.add_task("features", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _print_rows(rows: Sequence[tuple[str, str]]) -> None:
    """One row per line, however long: a wrapped path cannot be copied."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def epoch_line(row: Mapping[str, Any], epochs: int) -> str:
    """A line for a finished epoch, from its history row."""
    line = (
        f"epoch {row['epoch']}/{epochs}: loss {row['train_loss']:.4f}, training "
        f"{row['train_top1']:.1%}, validation {row['val_top1']:.1%} (loss {row['val_loss']:.4f}), "
        f"lr {row['lr']:.2g}, {duration(row['epoch_time'])}"
    )
    if failed := row["failed_videos"] + row["val_failed_videos"]:
        where = " (see failed_videos.txt)" if row["failed_videos"] else ""
        line += f", {failed} videos could not be read{where}"
    return line


@contextmanager
def show_progress(shown: bool) -> Iterator[Callable[[TrainProgress], None]]:
    """Show a live line on standard error, where that is a terminal: loss, accuracy, learning rate,
    seconds per step, the fraction of time spent waiting for data, and the time left.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    description = TextColumn("{task.description}", markup=False)
    metrics = TextColumn("{task.fields[metrics]}", markup=False)
    bars = Progress(
        description,
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        metrics,
        console=Console(stderr=True),
        disable=not (shown and sys.stderr.isatty()),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    )
    with bars:
        task = bars.add_task("", total=None, metrics="")

        def show(progress: TrainProgress) -> None:
            text = (
                f"loss {progress.loss:.4f} · top-1 {progress.top1:.1%} · lr {progress.lr:.2g} · "
                f"{progress.step_time:.2f} s/step, {progress.data_fraction:.0%} data · "
                f"{duration(progress.seconds_left)} left"
            )
            bars.update(
                task,
                description=f"epoch {progress.epoch + 1}/{progress.epochs}",
                total=progress.steps,
                completed=progress.step,
                metrics=text,
            )

        yield show


def duration(seconds: float) -> str:
    """Seconds as 1 h 02 min, 3 min 20 s or 12 s."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
