"""What a calibrated model may promise of an answer: "unknown", or a set of classes.

`vt eval calibrate` stores in the card how confident an answer must be for an error rate, and how
improbable a class of a conformal set may be for a coverage, both on the fused probabilities before
the temperature.

Shape legend: N samples, V views, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from vtcli.video.pipeline import ViewFusion
    from vtcli.weights.checkpoint import ModelCard

Floats = NDArray[np.float64]

UNKNOWN = "unknown"
DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Decision:
    """answer: the label, or "unknown" where the model abstains; None for a model whose classes do
    not exclude each other. classes: the labels of the conformal set, or those that such a model
    predicts, most probable first; None where no coverage was asked for.
    """

    answer: str | None
    classes: tuple[str, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields of a prediction's JSON form."""
        answer = {} if self.answer is None else {"answer": self.answer}
        classes = {} if self.classes is None else {"classes": list(self.classes)}
        return answer | classes


@dataclass(frozen=True)
class DecisionRule:
    """`threshold`: the confidence that an answer must exceed; `quantile`: the largest 1 - p of a
    class of the set. None where it was not asked for.
    """

    labels: tuple[str, ...]
    threshold: float | None
    quantile: float | None

    def decide(self, logits_VK: Tensor, rule: ViewFusion) -> Decision:
        """The decision for one video."""
        from vtcli.video.views import probabilities

        p_K = probabilities(logits_VK, rule).double().numpy()
        order = np.argsort(-p_K, kind="stable")
        sure = self.threshold is None or p_K[order[0]] > self.threshold
        answer = self.labels[order[0]] if sure else UNKNOWN
        if self.quantile is None:
            return Decision(answer)
        is_member_K = conformal_sets(p_K[None], self.quantile)[0]
        return Decision(answer, tuple(self.labels[k] for k in order if is_member_K[k]))


@dataclass(frozen=True)
class ThresholdRule:
    """Predicts every class whose probability is at least `threshold`."""

    labels: tuple[str, ...]
    threshold: float

    def decide(self, logits_VK: Tensor, rule: ViewFusion) -> Decision:
        """The decision for one video."""
        from vtcli.video.views import probabilities

        p_K = probabilities(logits_VK, rule).numpy()
        order = np.argsort(-p_K, kind="stable")
        return Decision(None, tuple(self.labels[k] for k in order if p_K[k] >= self.threshold))


def apply_temperature(probabilities_NK: Floats, temperature: float) -> Floats:
    """softmax(log p / temperature): probabilities of the same shape, classes in the same order."""
    logits_NK = log_of(probabilities_NK) / temperature
    exp_NK = np.exp(logits_NK - logits_NK.max(-1, keepdims=True))
    return np.asarray(exp_NK / exp_NK.sum(-1, keepdims=True))


def conformal_sets(probabilities_NK: Floats, quantile: float) -> NDArray[np.bool_]:
    """Which classes are in the set of each sample: bool [N, K].

    At least `coverage` of the sets of new samples contain the label, on average over calibration
    sets. The top-1 class is always included, which can only raise the coverage.
    """
    sets_NK = 1 - probabilities_NK <= quantile
    sets_NK[np.arange(len(sets_NK)), probabilities_NK.argmax(1)] = True
    return np.asarray(sets_NK)


def log_of(probabilities: Floats) -> Floats:
    """The logarithms; a probability of 0 counts as the smallest float64."""
    return np.asarray(np.log(np.maximum(probabilities, np.finfo(np.float64).tiny)))


def decision_rule(
    card: ModelCard, abstain: float | None, coverage: float | None
) -> DecisionRule | ThresholdRule | None:
    """The rule for an error rate among the answers and a coverage of the sets; None without either,
    except for a model whose classes do not exclude each other: that one has thresholds.

    A level between two that are stored takes the stricter one. Raises `UsageError` for a model
    that is not calibrated, for one with several classifiers, and for a level that its calibration
    cannot promise.
    """
    asked = abstain is not None or coverage is not None
    if card.pipeline.multi_label:
        if asked:
            raise UsageError(
                "--abstain and --coverage need a model whose classes exclude each other; leave "
                "them out"
            )
        head = card.heads[0]
        threshold = card.thresholds.get(head.name, DEFAULT_THRESHOLD)
        return ThresholdRule(tuple(head.labels), threshold)
    if not asked:
        return None
    if len(card.heads) != 1:
        raise UsageError("--abstain and --coverage need a model with one classifier")
    head = card.heads[0]
    entry = card.calibration.get(head.name)
    if entry is None:
        raise UsageError(
            "the model is not calibrated; evaluate it on validation videos and run "
            "vt eval calibrate RUN -o calibrated.safetensors"
        )
    confidence = None if abstain is None else _threshold(entry["abstain"], abstain)
    quantile = None if coverage is None else _quantile(entry["coverage"], coverage)
    return DecisionRule(tuple(head.labels), confidence, quantile)


def _threshold(stored: Mapping[str, float | None], alpha: float) -> float:
    promised = {float(level): value for level, value in stored.items() if value is not None}
    fitting = [level for level in promised if level <= alpha + 1e-9]
    if fitting:
        return promised[max(fitting)]
    way = f"--abstain {min(promised):.2f} is the lowest" if promised else "calibrate on more videos"
    raise UsageError(f"the calibration cannot promise an error of at most {alpha:g}; {way}")


def _quantile(stored: Mapping[str, float], coverage: float) -> float:
    promised = {float(level): value for level, value in stored.items()}
    fitting = [level for level in promised if level >= coverage - 1e-9]
    if not fitting:
        highest = max(stored, default="0")
        raise UsageError(f"the calibration has no coverage of {coverage:g}; at most {highest}")
    return promised[min(fitting)]
