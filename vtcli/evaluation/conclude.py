"""TODO-HEAD"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vtcli._version import __version__
from vtcli.evaluation.aggregate import (
    class_order_warnings,
    failure_rows,
    head_results,
    load_run_scores,
    mistakes,
    published_figures,
    write_failures,
    write_predictions,
)
from vtcli.evaluation.results import EvaluationReport, as_json
from vtcli.evaluation.thumbnails import frame_strip
from vtcli.report.html import write_html
from vtcli.runtime.files import atomic_write

if TYPE_CHECKING:
    pass
from vtcli.evaluation.evaluator import Evaluator


def conclude(evaluator: Evaluator, mistakes_shown: int = 24) -> EvaluationReport:
    """The figures of a finished run, written into its directory: summary.json, predictions.csv,
    failures.csv and report.html.
    """
    plan, run = evaluator.plan, evaluator.run_dir
    found = load_run_scores(run)
    results, action = head_results(found)
    samples = {sample.id: sample for sample in plan.dataset.samples}
    shown = [
        replace(mistake, frames=frames, times=times)
        for sample, mistake in mistakes(found, mistakes_shown)
        for frames, times in [frame_strip(plan.reader, samples[sample.id])]
    ]
    known = plan.known
    fits = plan.dataset.name == known.dataset
    report = EvaluationReport(
        title=f"{plan.name} on {plan.dataset.name}",
        model=plan.name,
        dataset=plan.dataset.name,
        split=plan.dataset.split,
        protocol=plan.protocol.in_words(),
        differs=plan.differs,
        published=published_figures(known.top1, known.top5, known.metric_source) if fits else None,
        expected=found.expected,
        read=len(found.read),
        failed=len(found.failed),
        heads=results,
        action=action,
        warnings=(*plan.warnings, *class_order_warnings(results)),
        failures=failure_rows(found),
        mistakes=tuple(shown),
        seconds=evaluator.seconds if evaluator.done == found.expected else 0.0,
        settings=_settings(evaluator),
    )
    text = as_json(report.to_dict())
    with atomic_write(run.folder / "summary.json", len(text)) as part:
        part.write_text(text, encoding="utf-8")
    write_predictions(found, run.folder / "predictions.csv")
    write_failures(found, run.folder / "failures.csv")
    write_html(report, run.folder / "report.html")
    return report


def _settings(evaluator: Evaluator) -> dict[str, str]:
    """What a reader of the report needs to run it again."""
    plan = evaluator.plan
    return {
        "checkpoint": plan.name,
        "weights (sha256)": str(evaluator.about["model_sha256"]),
        "dataset": plan.dataset.summary,
        "views": f"{plan.protocol.clips}x{plan.protocol.crops}",
        "precision": plan.protocol.precision,
        "vtcli": __version__,
    }
