"""The videos of an evaluation that a human should look at again, and why.

uncertain      the two most probable classes are close
views          the views of a video disagree on its class
label          its label is improbable to a classifier that has not seen it: logistic regression on
               the logits of the run, cross-validated over the videos
duplicate      another video looks the same and has another label

Shape legend: N videos, V views, K classes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vtcli.data.fingerprint import DUPLICATE_RMSE, VideoFingerprint, inspect, thumbnail_rmse
from vtcli.errors import DataError
from vtcli.evaluation.aggregate import RunScores, load_run_scores, stored_protocol
from vtcli.evaluation.run_directory import RunDirectory
from vtcli.runtime.logistic import fit_logistic
from vtcli.runtime.worker_pool import imap_with_timeout
from vtcli.training.linear_probe import FOLDS
from vtcli.video import TIMEOUT_SECONDS

Kind: TypeAlias = Literal["uncertain", "views", "label", "duplicate"]
Floats: TypeAlias = NDArray[np.float64]
TITLES: Mapping[Kind, str] = {
    "label": "Labels that may be wrong",
    "duplicate": "Near-duplicates with different labels",
    "views": "Views that disagree",
    "uncertain": "Uncertain predictions",
}
PENALTY = 0.01
"""L2 of the classifier; its inputs, the logits, are informative and few."""
CANDIDATES = 100
"""Pairs of similar logits and different labels whose frames are compared."""


@dataclass(frozen=True)
class ReviewItem:
    """A video to look at: why, how much (higher is first within a kind), and a sentence on it."""

    kind: Kind
    row: int
    score: float
    detail: str


@dataclass(frozen=True)
class Review:
    """What to look at in a run; `predicted` and `score` are by row of the run's videos."""

    model: str
    dataset: str
    ids: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[str, ...]
    predicted: tuple[str, ...]
    scores: tuple[float, ...]
    items: tuple[ReviewItem, ...]
    notes: tuple[str, ...]

    def of_kind(self, kind: Kind) -> list[ReviewItem]:
        """The items of a kind, the most urgent first."""
        return [item for item in self.items if item.kind == kind]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def review_run(run: RunDirectory, most: int, workers: int = 1) -> Review:
    """The `most` most urgent videos of every kind in a finished run, by its first head.

    Raises `DataError` for a run that is not finished, without videos, or of a model whose classes
    do not exclude each other.
    """
    scores = load_run_scores(run)
    if not scores.read:
        raise DataError(f"no video of {run.folder} could be read; see its failures.csv")
    if scores.threshold is not None:
        raise DataError("a review needs classes that exclude each other")
    head = scores.heads[0]
    names, p_NK = scores.labels[head], scores.probabilities[head]
    logits = _logits(run, scores, head)
    mean_NK = np.array([logits_VK.mean(0) for logits_VK in logits])
    target = [labels[0] for labels in scores.target(head)]
    paths = [sample.path for sample in scores.read]
    notes = []
    items = [*_uncertain(p_NK, names), *_views(logits, names)]
    if stored_protocol(run.info).views == 1:
        notes.append("one view per video: add --views 4x1 to vt eval for views that disagree")
    if found := _cross_validated(mean_NK, target):
        items += _improbable_labels(*found, target, names)
    else:
        notes.append("too few videos of every class to judge labels by cross-validation")
    items += _duplicates(mean_NK, target, paths, names, workers)
    kept = [item for kind in TITLES for item in _most(items, kind, most)]
    best = p_NK.argmax(1)
    return Review(
        run.info["model"],
        f"{run.info['dataset']} {run.info['split']}".strip(),
        tuple(sample.id for sample in scores.read),
        tuple(paths),
        tuple(names[label] for label in target),
        tuple(names[k] for k in best),
        tuple(p_NK.max(1).tolist()),
        tuple(kept),
        tuple(notes),
    )


def _most(items: Sequence[ReviewItem], kind: Kind, most: int) -> list[ReviewItem]:
    return sorted((i for i in items if i.kind == kind), key=lambda item: -item.score)[:most]


def _logits(run: RunDirectory, scores: RunScores, head: str) -> list[Floats]:
    """The logits [V,K] of every video that was read."""
    stored, views = run.scores(), range(stored_protocol(run.info).views)
    found = (stored.logits(sample.key, views, list(scores.labels)) for sample in scores.read)
    return [logits[head].astype(np.float64) for logits in found]


def _uncertain(p_NK: Floats, names: Sequence[str]) -> Iterator[ReviewItem]:
    """Videos whose second class is at least half as probable as the first."""
    if p_NK.shape[1] < 2:
        return
    for row, p_K in enumerate(p_NK):
        second, first = np.argsort(p_K, kind="stable")[-2:]
        if p_K[second] >= 0.5 * p_K[first]:
            detail = f"{names[first]} {p_K[first]:.0%}, {names[second]} {p_K[second]:.0%}"
            yield ReviewItem("uncertain", row, float(p_K[second] - p_K[first]), detail)


def _views(logits: Sequence[Floats], names: Sequence[str]) -> Iterator[ReviewItem]:
    """Videos whose views have different top-1 classes, by the Jensen-Shannon divergence."""
    for row, logits_VK in enumerate(logits):
        counts = Counter(logits_VK.argmax(1).tolist())
        if len(counts) > 1:
            p_VK = _softmax(logits_VK)
            divergence = float(_entropy(p_VK.mean(0)) - _entropy(p_VK).mean())
            parts = (f"{names[k]} in {n}" for k, n in counts.most_common(3))
            detail = f"{', '.join(parts)} of {len(logits_VK)} views"
            yield ReviewItem("views", row, divergence, detail)


def _softmax(logits_NK: Floats) -> Floats:
    exp_NK = np.exp(logits_NK - logits_NK.max(-1, keepdims=True))
    return np.asarray(exp_NK / exp_NK.sum(-1, keepdims=True))


def _entropy(p_NK: Floats) -> Floats:
    return np.asarray(-(p_NK * np.log(np.maximum(p_NK, 1e-300))).sum(-1))


def _cross_validated(mean_NK: Floats, target: Sequence[int]) -> tuple[Floats, list[int]] | None:
    """Probabilities [n,K] of the rows whose class has two videos or more, and those rows.

    Each row's is by a classifier that was fitted to the other folds.
    """
    import torch

    sizes = Counter(target)
    rows = [row for row, label in enumerate(target) if sizes[label] >= 2]
    if len({target[row] for row in rows}) < 2:
        return None
    turns: Counter[int] = Counter()
    folds = []
    for row in rows:
        folds.append(turns[target[row]] % FOLDS)
        turns[target[row]] += 1
    fold_N = torch.tensor(folds)
    x_NK = torch.from_numpy(mean_NK[rows])
    y_NK = torch.zeros(len(rows), mean_NK.shape[1], dtype=torch.float64)
    y_NK[range(len(rows)), [target[row] for row in rows]] = 1.0
    p_NK = np.zeros((len(rows), mean_NK.shape[1]))
    for fold in fold_N.unique().tolist():
        held_N = fold_N == fold
        fit = fit_logistic(x_NK[~held_N], y_NK[~held_N], PENALTY)
        p_NK[held_N.numpy()] = fit.logits(x_NK[held_N]).softmax(1).numpy()
    return p_NK, rows


def _improbable_labels(
    p_NK: Floats, rows: Sequence[int], target: Sequence[int], names: Sequence[str]
) -> Iterator[ReviewItem]:
    """Videos to which another class is the most probable, by the loss of their label."""
    for p_K, row in zip(p_NK, rows, strict=True):
        best, label = int(p_K.argmax()), target[row]
        if best != label:
            loss = -math.log(max(float(p_K[label]), 1e-12))
            detail = f"labeled {names[label]} ({p_K[label]:.0%}), looks like {names[best]} "
            yield ReviewItem("label", row, loss, f"{detail}({p_K[best]:.0%})")


def _duplicates(
    mean_NK: Floats,
    target: Sequence[int],
    paths: Sequence[str],
    names: Sequence[str],
    workers: int,
) -> Iterator[ReviewItem]:
    """Pairs with different labels whose frames are the same, among those of similar logits."""
    pairs = _similar_pairs(mean_NK, target)
    wanted = dict.fromkeys(Path(paths[row]) for _, *pair in pairs for row in pair)
    looks: dict[str, bytes] = {}
    with closing(imap_with_timeout(inspect, list(wanted), workers, TIMEOUT_SECONDS)) as outcomes:
        for path, found in outcomes:
            if isinstance(found, VideoFingerprint):
                looks[str(path)] = found.thumbnails
    for _, a, b in pairs:
        one, other = (looks.get(str(Path(paths[row]))) for row in (a, b))
        if one and other and (rmse := thumbnail_rmse(one, other)) <= DUPLICATE_RMSE:
            detail = (
                f"labeled {names[target[a]]}; looks like {paths[b]}, labeled {names[target[b]]}"
            )
            yield ReviewItem("duplicate", a, -rmse, detail)


def _similar_pairs(mean_NK: Floats, target: Sequence[int]) -> list[tuple[float, int, int]]:
    """(distance, row, row) of the nearest pairs with different labels, nearest first.

    For every video, the nearest one of another label is looked at.
    """
    label_N = np.array(target)
    pairs: dict[tuple[int, int], float] = {}
    for row, logits_K in enumerate(mean_NK):
        distance_N = np.abs(mean_NK - logits_K).max(1)
        distance_N[label_N == label_N[row]] = np.inf
        other = int(distance_N.argmin())
        if np.isfinite(distance_N[other]):
            pairs[min(row, other), max(row, other)] = float(distance_N[other])
    return sorted((distance, a, b) for (a, b), distance in pairs.items())[:CANDIDATES]
