"""From a run directory to metrics, without a model: views can be selected and fused anew.

Shape legend: N samples that were read, V views, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import DataError, UsageError
from vtcli.evaluation.calibration import confidence_metrics
from vtcli.evaluation.chance import chance_warnings
from vtcli.evaluation.class_order import detect_class_permutation, warning_message
from vtcli.evaluation.comparison import compare
from vtcli.evaluation.metrics import (
    action_metrics,
    head_metrics,
    is_correct,
    worst_misclassifications,
)
from vtcli.evaluation.multi_label import multi_label_metrics
from vtcli.evaluation.protocol import Protocol, Subset, describe_fusion
from vtcli.evaluation.results import (
    Accuracy,
    Comparison,
    EvaluationReport,
    FailureRow,
    HeadResult,
    Misclassification,
)
from vtcli.evaluation.run_directory import RunDirectory, RunSample
from vtcli.evaluation.scores import SampleFailure, Scores
from vtcli.runtime.progress import ProgressCallback, no_progress
from vtcli.video.pipeline import MULTI_LABEL, Pipeline, ViewFusion

ACTION_HEADS = ("verb", "noun")
"""EPIC-Kitchens actions are pairs of these."""

HeadScores = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class RunScores:
    """The fused scores of a run, by head.

    scores [N,K]: what classes are ranked by; probabilities [N,K] in 0..1, in the same order.
    `read` are the samples of the rows, `failed` the other samples with their failures.
    threshold: the probability from which a class is predicted, where they do not exclude each
    other.
    """

    labels: Mapping[str, tuple[str, ...]]
    read: Sequence[RunSample]
    failed: Sequence[tuple[RunSample, SampleFailure]]
    scores: HeadScores
    probabilities: HeadScores
    threshold: float | None = None

    @property
    def expected(self) -> int:
        """Number of all samples, read or failed."""
        return len(self.read) + len(self.failed)

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads that samples are labeled for."""
        samples = [*self.read, *(sample for sample, _ in self.failed)]
        return tuple(
            head for index, head in enumerate(self.labels) if any(s.target[index] for s in samples)
        )

    def target(self, head: str) -> list[tuple[int, ...]]:
        """The correct classes of each sample that was read."""
        index = list(self.labels).index(head)
        return [sample.target[index] for sample in self.read]

    def correct(self) -> dict[str, bool]:
        """Sample id -> whether the prediction is correct; with several heads, all of them."""
        rows = [is_correct(self.scores[head], self.target(head)) for head in self.heads]
        correct_N = np.all(rows, axis=0)
        return {sample.id: bool(ok) for sample, ok in zip(self.read, correct_N, strict=True)}


def stored_protocol(info: Mapping[str, Any]) -> Protocol:
    """The protocol of a run, from `RunDirectory.info`."""
    table = dict(info["protocol"])
    return Protocol(**{**table, "pipeline": Pipeline.from_dict(table["pipeline"])})


def load_run_scores(
    run: RunDirectory,
    rule: ViewFusion | None = None,
    numbers: Sequence[int] = (),
    on_video: ProgressCallback = no_progress,
) -> RunScores:
    """Fuse the views of every sample.

    rule: None for the one of the protocol. numbers: the views to use, by default all. on_video:
    called with the videos whose scores are read. Raises `DataError` if the run is not finished.
    """
    info, samples, scores = run.info, run.samples(), run.scores()
    protocol = stored_protocol(info)
    failures = {
        s.key: failure for s in samples if (failure := scores.failure(s.key, protocol.views))
    }
    read = [sample for sample in samples if sample.key not in failures]
    failed = [(sample, failures[sample.key]) for sample in samples if sample.key in failures]
    numbers = numbers or range(protocol.views)
    _require_finished(run, len(samples), read, scores, set(numbers))
    labels = {head["name"]: tuple(head["labels"]) for head in info["heads"]}
    rule = rule or protocol.pipeline.view_fusion
    threshold = info["heads"][0].get("threshold", 0.5) if rule == MULTI_LABEL else None
    fused = _fuse(read, scores, labels, rule, numbers, on_video)
    return RunScores(labels, read, failed, *fused, threshold)


def _require_finished(
    run: RunDirectory, total: int, read: Sequence[RunSample], scores: Scores, numbers: set[int]
) -> None:
    unfinished = sum(not numbers <= scores.views.get(sample.key, {}).keys() for sample in read)
    if unfinished:
        raise DataError(
            f"{run.folder} is not finished: {unfinished} of {total} samples are not scored yet; "
            "run the same vt eval command again to resume it"
        )


def _fuse(
    read: Sequence[RunSample],
    scores: Scores,
    labels: Mapping[str, Sequence[str]],
    rule: ViewFusion,
    numbers: Sequence[int],
    on_video: ProgressCallback,
) -> tuple[HeadScores, HeadScores]:
    """Scores and probabilities [N,K] per head."""
    import torch

    from vtcli.video.views import fuse_views, probabilities

    fused = {head: np.zeros((len(read), len(names))) for head, names in labels.items()}
    probs = {head: np.zeros((len(read), len(names))) for head, names in labels.items()}
    for row, sample in enumerate(read):
        for head, logits_VK in scores.logits(sample.key, numbers, list(labels)).items():
            tensor_VK = torch.from_numpy(logits_VK.copy())
            fused[head][row] = fuse_views(tensor_VK, rule).numpy()
            probs[head][row] = probabilities(tensor_VK, rule).numpy()
        on_video("reading the scores", row + 1, len(read))
    return fused, probs


def head_results(run: RunScores) -> tuple[tuple[HeadResult, ...], Accuracy | None]:
    """The metrics of each labeled head, and of verb-noun pairs if there are both."""
    results = tuple(_head_result(run, head) for head in run.heads)
    if not set(ACTION_HEADS) <= set(run.heads):
        return results, None
    verb, noun = (run.probabilities[head] for head in ACTION_HEADS)
    target = list(zip(*(run.target(head) for head in ACTION_HEADS), strict=True))
    return results, action_metrics(verb, noun, target, run.expected)


def _head_result(run: RunScores, head: str) -> HeadResult:
    target = run.target(head)
    result = head_metrics(head, run.labels[head], run.scores[head], target, run.expected)
    if run.threshold is not None:
        scores = (run.labels[head], run.probabilities[head], target, run.threshold)
        return replace(result, multi_label=multi_label_metrics(*scores))
    return replace(result, confidence=confidence_metrics(run.probabilities[head], target))


def class_order_warnings(results: Sequence[HeadResult]) -> list[str]:
    """A warning for each head whose predictions look as if its classes were permuted."""
    exclusive = [result for result in results if result.multi_label is None]
    found = [(result, detect_class_permutation(result.confusion)) for result in exclusive]
    return [warning_message(warning, result.classes) for result, warning in found if warning]


def failure_rows(run: RunScores) -> tuple[FailureRow, ...]:
    """The samples that could not be read."""
    return tuple(
        FailureRow(sample.id, sample.path, failure.reason, failure.error)
        for sample, failure in run.failed
    )


def misclassifications(run: RunScores, count: int) -> list[Misclassification]:
    """The most confident wrong predictions of the first head, without frames."""
    head = run.heads[0]
    names, probs, target = run.labels[head], run.probabilities[head], run.target(head)
    rows = []
    for row, predicted in worst_misclassifications(probs, target, count):
        sample = run.read[row]
        rows.append(
            Misclassification(
                id=sample.id,
                path=sample.path,
                target=" or ".join(names[index] for index in target[row]),
                predicted=names[predicted],
                score=float(probs[row, predicted]),
                target_score=float(max(probs[row, index] for index in target[row])),
            )
        )
    return rows


def rescore_run(
    run: RunDirectory,
    subset: Subset,
    average: str | None,
    on_video: ProgressCallback = no_progress,
) -> EvaluationReport:
    """The metrics of a finished run over some of its stored views.

    average: what is averaged over the views, `prob` or `logit`; None for the run's own fusion.
    Raises `DataError` (see `load_run_scores`).
    """
    info = run.info
    protocol = stored_protocol(info)
    rule: ViewFusion = protocol.pipeline.view_fusion
    if average is not None:
        if rule == MULTI_LABEL:
            raise UsageError("--average is for classes that exclude each other; leave it out")
        rule = "mean_prob" if average == "prob" else "mean_logit"
    scores = load_run_scores(run, rule, subset.numbers, on_video)
    results, action = head_results(scores)
    return EvaluationReport(
        title=f"{info['model']} on {info['dataset']}",
        model=info["model"],
        dataset=info["dataset"],
        split=info["split"],
        protocol=(
            f"{subset.description}, {describe_fusion(rule)}, of a run with {protocol.describe()}"
        ),
        differs="these metrics are of selected views of a stored run, not of a published protocol",
        reported=None,
        expected=scores.expected,
        read=len(scores.read),
        failed=len(scores.failed),
        heads=results,
        action=action,
        warnings=tuple(class_order_warnings(results) or chance_warnings(results)),
        failures=failure_rows(scores),
    )


def compare_runs(
    run_a: RunDirectory, run_b: RunDirectory, on_video: ProgressCallback = no_progress
) -> Comparison:
    """A paired test of two runs over the samples that both have read.

    Raises `DataError` for runs on different datasets; see also `load_run_scores`.
    """
    info_a, info_b = run_a.info, run_b.info
    if (info_a["dataset"], info_a["split"]) != (info_b["dataset"], info_b["split"]):
        raise DataError(
            f"{run_a.folder} is a run on {_dataset_name(info_a)} and {run_b.folder} one on "
            f"{_dataset_name(info_b)}; compare runs on the same samples"
        )
    a, b = (load_run_scores(run, on_video=on_video) for run in (run_a, run_b))
    names = {
        sample.id: a.labels[a.heads[0]][target[0]]
        for sample, target in zip(a.read, a.target(a.heads[0]), strict=True)
    }
    return compare(a.correct(), b.correct(), names)


def _dataset_name(info: Mapping[str, Any]) -> str:
    return f"{info['dataset']} {info['split']}".strip()
