"""Whether anything happens in a window, told from the scores of the windows around it.

A model that has no class for nothing names some action for whatever it sees. Logistic regression on
the log probabilities of the window and its neighbors, by class and by rank, tells windows of one
event from those of nothing, and from those that show parts of two. It needs no pixels and no
features, so that it works on scores that were kept.

Shape legend: W windows, K classes, D values of a window, N taps (the times around a window's
center).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from vtcli.inference.windows import Window

Floats = NDArray[np.float64]

TAPS = 3
"""On each side of a window's center."""
MOST_CLASSES = 64
"""A model with more has no weights by class, only by rank."""
MOST_RANKS = 16
_LEAST = 1e-6  # a lower probability counts as this
_L2 = 10.0


@dataclass(frozen=True)
class Activity:
    """Logistic regression for "the window shows one event": weights [N*D], taps `step` seconds
    apart.
    """

    step: float
    bias: float
    weights: tuple[float, ...]

    @property
    def reach(self) -> float:
        """Seconds from the center of a window to the farthest one that has an influence on it."""
        return TAPS * self.step

    def probability(self, windows: Sequence[Window], score_WK: Floats) -> Floats:
        """The probability [W] that a window shows an event."""
        return self.of_values(values_around(windows, score_WK, self.step))

    def of_values(self, value_WD: Floats) -> Floats:
        """The same from what `values_around` gives."""
        return _sigmoid(value_WD @ self.weights + self.bias)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"step": self.step, "bias": self.bias, "weights": list(self.weights)}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Activity:
        """Read the JSON form."""
        return cls(float(table["step"]), float(table["bias"]), tuple(table["weights"]))


def weights_per_tap(classes: int) -> int:
    """D, for a model with so many classes."""
    by_class = classes if classes <= MOST_CLASSES else 0
    return by_class + min(classes, MOST_RANKS)


def values_around(windows: Sequence[Window], score_WK: Floats, step: float) -> Floats:
    """What the regression sees [W,N*D]; before the first and after the last window, theirs.

    Between the centers of two windows, values are interpolated.
    """
    log_WK = np.log(np.maximum(score_WK, _LEAST))
    ranked_WK = -np.sort(-log_WK, axis=1)[:, :MOST_RANKS]
    value_WD = np.hstack([log_WK, ranked_WK]) if log_WK.shape[1] <= MOST_CLASSES else ranked_WK
    center_W = np.array([(w.start + w.end) / 2 for w in windows])
    parts = []
    for tap in range(-TAPS, TAPS + 1):
        at_W = np.interp(center_W + tap * step, center_W, np.arange(len(center_W)))
        low_W = np.minimum(at_W.astype(int), max(0, len(center_W) - 2))
        high_W = np.minimum(low_W + 1, len(center_W) - 1)
        share_W1 = (at_W - low_W)[:, None]
        parts.append((1 - share_W1) * value_WD[low_W] + share_W1 * value_WD[high_W])
    return np.hstack(parts)


def fit_activity(value_WD: Floats, is_event_W: NDArray[np.bool_], step: float) -> Activity:
    """Fit with an L2 penalty on the weights of standardized values."""
    import torch

    from vtcli.runtime.logistic import Loss, fit_logistic

    target_W1 = torch.from_numpy(is_event_W)[:, None]
    penalty = _L2 / len(value_WD)
    fit = fit_logistic(torch.from_numpy(value_WD), target_W1, penalty, loss=Loss(alone=True))
    return Activity(step, float(fit.bias[0]), tuple(fit.weight[0].tolist()))


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -50, 50))))
