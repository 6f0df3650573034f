"""When `vtcli.inference.adaptive` may stop scoring views, learned from a finished run.

The spread after v views is the root mean square, over videos and classes, of the change of the mean
score from v to all views. A threshold is the number of spreads that the gap between the two highest
scores must have. It is wrong on a video whose first class, when views stop, is not that of all.

Thresholds are tested from the most careful one on, each with the one-sided Clopper-Pearson bound at
level `DELTA`, until one fails: fixed-sequence testing, which needs no correction for their number
(Angelopoulos et al., "Learn then Test", arXiv 2110.01052). With probability 1 - DELTA over
calibration sets, the last that passes is wrong on at most `RISK` of new videos, as far as the V - 1
numbers of the spread, which come from the same videos, are right. No labels are used.

Shape legend: N videos, V views, K classes, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import DataError
from vtcli.evaluation.calibration import binomial_cdf

Floats = NDArray[np.float64]

RISK = 0.01
"""The largest fraction of videos whose first class may differ from that of all views."""
DELTA = 0.05
"""Probability, over calibration sets, that more than that do."""
FEWEST = math.ceil(math.log(DELTA) / math.log1p(-RISK))
"""Videos that prove `RISK` where none differs: 299."""
THRESHOLDS = tuple(2.0 ** (step / 16) for step in range(160, -161, -1))


@dataclass(frozen=True)
class StopTrial:
    """What a threshold does to stored scores: `mean_views` is the mean number of views per video,
    `agreement` the fraction of videos with the first class of all views.
    """

    mean_views: float
    agreement: float


@dataclass(frozen=True)
class StopFit:
    """The threshold, and what it does to the videos that it was chosen on."""

    views: str
    samples: int
    threshold: float
    spread: Mapping[str, Sequence[float]]
    mean_views: float
    agreement: float

    @property
    def total(self) -> int:
        """Views of the full protocol."""
        return math.prod(map(int, self.views.split("x")))

    def entry(self) -> dict[str, Any]:
        """`adaptive_views` of a model card."""
        return {**asdict(self), "risk": RISK, "delta": DELTA}


class StoredViews:
    """The scores of all views of N videos: first classes, gaps and spreads after each view.

    `scores` are those of each head, [N,V,K]: what the pipeline fuses, probabilities or logits.
    """

    def __init__(self, scores: Mapping[str, Floats]) -> None:
        means = {head: _running_mean(scores_NVK) for head, scores_NVK in scores.items()}
        self.first_NVH = np.stack([mean_NVK.argmax(2) for mean_NVK in means.values()], 2)
        self.gap_NV = {head: _gap(mean_NVK) for head, mean_NVK in means.items()}
        self.spread_V = {head: _spread(mean_NVK) for head, mean_NVK in means.items()}

    def try_threshold(self, threshold: float, spread: Mapping[str, Sequence[float]]) -> StopTrial:
        """What this threshold does, with a spread for each view of a head but the last."""
        N, V, _ = self.first_NVH.shape
        settled = [
            self.gap_NV[head][:, :-1] >= threshold * np.asarray(spread[head]) for head in spread
        ]
        stops_NV = np.concatenate([np.all(settled, 0), np.ones((N, 1), bool)], 1)
        stop_N = stops_NV.argmax(1)
        same_N = (self.first_NVH[np.arange(N), stop_N] == self.first_NVH[:, -1]).all(1)
        return StopTrial(float(stop_N.mean() + 1), float(same_N.mean()))


def fit_threshold(stored: StoredViews, views: str) -> StopFit:
    """The lowest threshold that keeps the promise; `views` is CLIPSxCROPS of the stored scores.

    Raises `DataError` for one view, and for too few videos to prove it.
    """
    N, V, _ = stored.first_NVH.shape
    if V == 1:
        raise DataError(
            "the run has one view per video, so there is nothing to stop; evaluate with several, "
            "such as --views 4x3"
        )
    if N < FEWEST:
        raise DataError(
            f"{N} videos are too few to learn when views may stop: {FEWEST} are needed; evaluate "
            "on more, or leave out --views"
        )
    spread = {head: spread_V[:-1].tolist() for head, spread_V in stored.spread_V.items()}
    chosen, found = math.inf, StopTrial(V, 1.0)
    for threshold in THRESHOLDS:
        trial = stored.try_threshold(threshold, spread)
        if binomial_cdf(round((1 - trial.agreement) * N), N, RISK) > DELTA:
            break
        chosen, found = threshold, trial
    if math.isinf(chosen):
        raise DataError("no number of views settles the first class of this model; use --views 4x3")
    return StopFit(views, N, chosen, spread, found.mean_views, found.agreement)


def _running_mean(scores_NVK: Floats) -> Floats:
    return np.cumsum(scores_NVK, 1) / np.arange(1, scores_NVK.shape[1] + 1)[:, None]


def _gap(mean_NVK: Floats) -> Floats:
    """How far the second highest score is below the highest: [N,V]."""
    if mean_NVK.shape[2] == 1:
        return np.full(mean_NVK.shape[:2], np.inf)
    second, first = np.moveaxis(np.partition(mean_NVK, -2, axis=2)[:, :, -2:], 2, 0)
    return np.asarray(first - second)


def _spread(mean_NVK: Floats) -> Floats:
    """How far the mean scores are from those of all views, the root mean square: [V]."""
    return np.asarray(np.sqrt(((mean_NVK - mean_NVK[:, -1:]) ** 2).mean((0, 2))))
