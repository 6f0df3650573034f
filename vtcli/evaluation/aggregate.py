"""From a run directory to figures: no model needed, so that views can be chosen and averaged anew.

N samples read, V views, K classes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import DataError
from vtcli.evaluation.class_order import detect_class_permutation
from vtcli.evaluation.comparison import compare
from vtcli.evaluation.metrics import action_metrics, head_metrics, is_correct, worst_mistakes
from vtcli.evaluation.protocol import Protocol, Subset
from vtcli.evaluation.results import (
    Accuracy,
    Comparison,
    EvaluationReport,
    FailureRow,
    HeadResult,
    Misclassification,
    Published,
)
from vtcli.evaluation.run_directory import RunDirectory, RunSample, SampleFailure, Scores
from vtcli.runtime.files import atomic_write
from vtcli.video.pipeline import Pipeline, ViewFusion

# EPIC-Kitchens' answers are pairs of these.
PAIR = ("verb", "noun")


@dataclass(frozen=True)
class RunScores:
    """A run's fused scores, by head.

    scores [N,K]: what classes are ranked by; probabilities [N,K] in 0..1, ranked alike. `read` are
    the samples that these rows are of, `failed` the others, each with its reason.
    """

    labels: Mapping[str, tuple[str, ...]]
    read: Sequence[RunSample]
    failed: Sequence[tuple[RunSample, SampleFailure]]
    scores: Mapping[str, NDArray[np.float64]]
    probabilities: Mapping[str, NDArray[np.float64]]

    @property
    def expected(self) -> int:
        """All samples, read or not."""
        return len(self.read) + len(self.failed)

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads that samples are labeled for."""
        samples = [*self.read, *(sample for sample, _ in self.failed)]
        return tuple(
            head for place, head in enumerate(self.labels) if any(s.target[place] for s in samples)
        )

    def target(self, head: str) -> list[tuple[int, ...]]:
        """The right classes of each read sample."""
        place = list(self.labels).index(head)
        return [sample.target[place] for sample in self.read]

    def right(self) -> dict[str, bool]:
        """Sample id -> whether the answer is right: of several heads, all of them."""
        rows = [is_correct(self.scores[head], self.target(head)) for head in self.heads]
        alike = np.all(rows, axis=0)
        return {sample.id: bool(ok) for sample, ok in zip(self.read, alike, strict=True)}


def stored_protocol(about: Mapping[str, Any]) -> Protocol:
    """The protocol a run directory was made with."""
    table = dict(about["protocol"])
    return Protocol(**{**table, "pipeline": Pipeline.from_dict(table["pipeline"])})


def load_run_scores(
    run: RunDirectory, rule: ViewFusion | None = None, numbers: Sequence[int] = ()
) -> RunScores:
    """Fuse the views of every sample by `rule` (None: the protocol's), all or those of `numbers`.

    Raises `DataError` where the run is not finished.
    """
    about, samples, scores = run.about, run.samples(), run.scores()
    protocol = stored_protocol(about)
    numbers = numbers or range(protocol.views)
    labels = {head["name"]: tuple(head["labels"]) for head in about["heads"]}
    _require_finished(run, samples, scores, numbers)
    read = [sample for sample in samples if sample.key not in scores.failed]
    failed = [(s, scores.failed[s.key]) for s in samples if s.key in scores.failed]
    return RunScores(labels, read, failed, *_fuse(read, scores, labels, rule, numbers, protocol))


def _require_finished(
    run: RunDirectory, samples: Sequence[RunSample], scores: Scores, numbers: Sequence[int]
) -> None:
    wanted = set(numbers)
    unfinished = sum(
        sample.key not in scores.failed and not wanted <= scores.views.get(sample.key, {}).keys()
        for sample in samples
    )
    if unfinished:
        raise DataError(
            f"{run.folder} is not finished: {unfinished} of {len(samples)} samples are not scored "
            "yet; run the same vt eval command again to go on"
        )


def _fuse(
    read: Sequence[RunSample],
    scores: Scores,
    labels: Mapping[str, Sequence[str]],
    rule: ViewFusion | None,
    numbers: Sequence[int],
    protocol: Protocol,
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    import torch

    from vtcli.video.views import fuse_views, probabilities

    rule = rule or protocol.pipeline.view_fusion
    fused = {head: np.zeros((len(read), len(names))) for head, names in labels.items()}
    probs = {head: np.zeros((len(read), len(names))) for head, names in labels.items()}
    for row, sample in enumerate(read):
        for head, logits_VK in scores.logits(sample.key, numbers, list(labels)).items():
            tensor_VK = torch.from_numpy(logits_VK.copy())
            fused[head][row] = fuse_views(tensor_VK, rule).numpy()
            probs[head][row] = probabilities(tensor_VK, rule).numpy()
    return fused, probs


def head_results(found: RunScores) -> tuple[tuple[HeadResult, ...], Accuracy | None]:
    """The figures of each labeled head, and of verb and noun in pairs where there are both."""
    results = tuple(
        head_metrics(
            head, found.labels[head], found.scores[head], found.target(head), found.expected
        )
        for head in found.heads
    )
    if not set(PAIR) <= set(found.heads):
        return results, None
    verb, noun = (found.probabilities[head] for head in PAIR)
    target = list(zip(*(found.target(head) for head in PAIR), strict=True))
    return results, action_metrics(verb, noun, target, found.expected)


def class_order_warnings(results: Sequence[HeadResult]) -> list[str]:
    """A warning for each head whose answers look like renamed classes."""
    found = [(result, detect_class_permutation(result.confusion)) for result in results]
    return [suspicion.sentence(result.classes) for result, suspicion in found if suspicion]


def failure_rows(found: RunScores) -> tuple[FailureRow, ...]:
    """What could not be read, and why."""
    return tuple(FailureRow(s.id, s.path, why.reason, why.error) for s, why in found.failed)


def mistakes(found: RunScores, count: int) -> list[tuple[RunSample, Misclassification]]:
    """The wrong answers of the first head that are surest of themselves, without pictures."""
    head = found.heads[0]
    names, probs, target = found.labels[head], found.probabilities[head], found.target(head)
    rows = []
    for row, predicted in worst_mistakes(probs, target, count):
        sample, right = found.read[row], target[row]
        rows.append(
            (
                sample,
                Misclassification(
                    id=sample.id,
                    path=sample.path,
                    target=" or ".join(names[index] for index in right),
                    predicted=names[predicted],
                    score=float(probs[row, predicted]),
                    target_score=float(max(probs[row, index] for index in right)),
                ),
            )
        )
    return rows


def rescore_run(run: RunDirectory, subset: Subset, average: str | None) -> EvaluationReport:
    """The figures of some of the stored views, averaged as asked (`prob`, `logit`; None: as
    stored).

    Raises `DataError` (see `load_run_scores`).
    """
    about = run.about
    protocol = stored_protocol(about)
    rule: ViewFusion = protocol.pipeline.view_fusion
    if average is not None:
        rule = "mean_prob" if average == "prob" else "mean_logit"
    found = load_run_scores(run, rule, subset.numbers)
    results, action = head_results(found)
    how = rule.replace("_", " of ").replace("prob", "probabilities").replace("logit", "logits")
    return EvaluationReport(
        title=f"{about['model']} on {about['dataset']}",
        model=about["model"],
        dataset=about["dataset"],
        split=about["split"],
        protocol=f"{subset.words}, {how}, of a run with {protocol.in_words()}",
        differs="figures of chosen views of a stored run, not of a protocol of its own",
        published=None,
        expected=found.expected,
        read=len(found.read),
        failed=len(found.failed),
        heads=results,
        action=action,
        warnings=tuple(class_order_warnings(results)),
        failures=failure_rows(found),
    )


def compare_runs(run_a: RunDirectory, run_b: RunDirectory) -> Comparison:
    """A paired test of two runs over the samples that both read.

    Raises `DataError` for runs of different datasets, and see `load_run_scores`.
    """
    about_a, about_b = run_a.about, run_b.about
    if (about_a["dataset"], about_a["split"]) != (about_b["dataset"], about_b["split"]):
        raise DataError(
            f"{run_a.folder} is of {_set_of(about_a)} and {run_b.folder} of {_set_of(about_b)}; "
            "compare runs of the same samples"
        )
    a, b = load_run_scores(run_a), load_run_scores(run_b)
    names = {
        sample.id: a.labels[a.heads[0]][target[0]]
        for sample, target in zip(a.read, a.target(a.heads[0]), strict=True)
    }
    return compare(a.right(), b.right(), names)


def _set_of(about: Mapping[str, Any]) -> str:
    return f"{about['dataset']} {about['split']}".strip()


def published_figures(top1: float | None, top5: float | None, source: str) -> Published | None:
    """What is printed for the checkpoint; None where nothing is."""
    return None if top1 is None else Published(top1, top5, source)


def write_predictions(found: RunScores, path: Path) -> None:
    """One line per sample that was read: target, answer, its probability; a column set per head."""
    columns = ["id", "path"]
    for head in found.heads:
        columns += [f"{head}_target", f"{head}_predicted", f"{head}_score", f"{head}_right"]
    _write_csv(path, columns, _prediction_rows(found))


def _prediction_rows(found: RunScores) -> Iterable[list[Any]]:
    right = {head: is_correct(found.scores[head], found.target(head)) for head in found.heads}
    target = {head: found.target(head) for head in found.heads}
    for row, sample in enumerate(found.read):
        line: list[Any] = [sample.id, sample.path]
        for head in found.heads:
            names, best = found.labels[head], int(found.scores[head][row].argmax())
            score = f"{found.probabilities[head][row, best]:.6f}"
            wanted = "; ".join(names[index] for index in target[head][row])
            line += [wanted, names[best], score, int(right[head][row])]
        yield line


def write_failures(found: RunScores, path: Path) -> None:
    """One line per sample that could not be read."""
    rows = ([row.id, row.path, row.reason, row.error] for row in failure_rows(found))
    _write_csv(path, ["id", "path", "reason", "error"], rows)


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with (
        atomic_write(path) as part,
        part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
