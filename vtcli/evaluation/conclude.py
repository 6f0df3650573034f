"""The end of a run: its metrics, written into the run directory for people and for programs.

summary.json     the report
predictions.csv  a line per sample that was read
failures.csv     a line per sample that was not
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from vtcli._version import __version__
from vtcli.evaluation.aggregate import (
    RunScores,
    class_order_warnings,
    failure_rows,
    head_results,
    load_run_scores,
    misclassifications,
)
from vtcli.evaluation.chance import chance_warnings
from vtcli.evaluation.metrics import is_correct
from vtcli.evaluation.plan import EvalPlan
from vtcli.evaluation.results import EvaluationReport, Misclassification, ReportedMetrics, as_json
from vtcli.evaluation.run_directory import RunDirectory
from vtcli.evaluation.thumbnails import frame_strips
from vtcli.runtime.csv_cells import write_csv
from vtcli.runtime.files import atomic_write

MISCLASSIFICATIONS_SHOWN = 24


def conclude(plan: EvalPlan, run: RunDirectory, seconds: float = 0.0) -> EvaluationReport:
    """Compute the metrics of a finished run and write summary.json, predictions.csv, failures.csv.

    seconds: how long the run took, 0 if unknown. Raises `DataError` if the run is not finished.
    """
    scores = load_run_scores(run)
    results, action = head_results(scores)
    found = class_order_warnings(results) or chance_warnings(results)
    report = EvaluationReport(
        title=f"{plan.name} on {plan.dataset.name}",
        model=plan.name,
        dataset=plan.dataset.name,
        split=plan.dataset.split,
        protocol=plan.protocol.describe(),
        differs=plan.differs,
        reported=_reported_metrics(plan),
        expected=scores.expected,
        read=len(scores.read),
        failed=len(scores.failed),
        heads=results,
        action=action,
        warnings=(*plan.warnings, *found),
        failures=failure_rows(scores),
        misclassifications=tuple(_with_frames(plan, scores)),
        seconds=seconds,
        settings=_settings(plan, run),
    )
    text = as_json(report.to_dict())
    with atomic_write(run.folder / "summary.json", len(text)) as part:
        part.write_text(text, encoding="utf-8")
    _write_predictions(scores, run.folder / "predictions.csv")
    _write_failures(scores, run.folder / "failures.csv")
    return report


def _reported_metrics(plan: EvalPlan) -> ReportedMetrics | None:
    """What is reported for the checkpoint on this dataset, if anything."""
    checkpoint = plan.checkpoint
    if plan.dataset.name != checkpoint.dataset or checkpoint.top1 is None:
        return None
    return ReportedMetrics(checkpoint.top1, checkpoint.top5, checkpoint.metric_source)


def _with_frames(plan: EvalPlan, scores: RunScores) -> Iterator[Misclassification]:
    shown = misclassifications(scores, MISCLASSIFICATIONS_SHOWN)
    by_id = {sample.id: sample for sample in plan.dataset.samples}
    strips = frame_strips(plan.reader, {mistake.id: by_id[mistake.id] for mistake in shown})
    for mistake in shown:
        strip = strips[mistake.id]
        yield replace(mistake, frames=strip.frames, times=strip.times)


def _settings(plan: EvalPlan, run: RunDirectory) -> dict[str, str]:
    """What is needed to reproduce the run."""
    return {
        "checkpoint": plan.name,
        "weights (sha256)": str(run.info["model_sha256"]),
        "dataset": plan.dataset.summary,
        "views": f"{plan.protocol.clips}x{plan.protocol.crops}",
        "precision": plan.protocol.precision,
        "vtcli": __version__,
    }


def _write_predictions(scores: RunScores, path: Path) -> None:
    """Columns: id, path, and per head the label, the prediction, its probability, 0 or 1."""
    columns = ["id", "path"]
    for head in scores.heads:
        columns += [f"{head}_label", f"{head}_pred", f"{head}_prob", f"{head}_correct"]
    _write_csv(path, columns, _prediction_rows(scores))


def _prediction_rows(scores: RunScores) -> Iterator[list[Any]]:
    target = {head: scores.target(head) for head in scores.heads}
    correct = {head: is_correct(scores.scores[head], target[head]) for head in scores.heads}
    for row, sample in enumerate(scores.read):
        line: list[Any] = [sample.id, sample.path]
        for head in scores.heads:
            names, best = scores.labels[head], int(scores.scores[head][row].argmax())
            label = "; ".join(names[index] for index in target[head][row])
            probability = f"{scores.probabilities[head][row, best]:.6f}"
            line += [label, names[best], probability, int(correct[head][row])]
        yield line


def _write_failures(scores: RunScores, path: Path) -> None:
    rows = ([row.id, row.path, row.reason, row.error] for row in failure_rows(scores))
    _write_csv(path, ["id", "path", "reason", "error"], rows)


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with (
        atomic_write(path) as part,
        part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        write_csv(file, chain([columns], rows))
