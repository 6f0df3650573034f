"""The rule by which a model's events are found: what its calibration fitted, what the user says, or
the default.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vtcli.errors import UsageError, WeightsError
from vtcli.inference.background import TAPS, weights_per_tap
from vtcli.inference.events import BACKGROUND_NAMES, EventRule, parse_event_rule
from vtcli.video import TIME_EPS

FIT = "vt eval calibrate RUN -o calibrated.safetensors"


def calibrated_windows(card: Any) -> tuple[float, float] | None:
    """Length and stride of the windows that a model's event rule was fitted to, in seconds."""
    if not card.events:
        return None
    return float(card.events["window"]), float(card.events["stride"])


def rule_of_model(card: Any, text: str, window: float, stride: float) -> EventRule:
    """The rule of a model for windows of a length and stride, with what `text` says otherwise.

    Without a calibration, a class of the model that is called as in `BACKGROUND_NAMES` stands for
    nothing. Raises `UsageError` for windows that the rule of the model was not fitted to, unless a
    rule is given, which then is the whole rule; `WeightsError` for a damaged one.
    """
    fitted = calibrated_windows(card)
    if fitted is not None:
        if max(abs(fitted[0] - window), abs(fitted[1] - stride)) < TIME_EPS:
            return parse_event_rule(text, _stored(card))
        if not text:
            raise UsageError(
                f"the events of this model were calibrated with --window {fitted[0]:g}s --stride "
                f"{fitted[1]:g}s; use these, or state a rule such as --event-rule on=0.5"
            )
    return parse_event_rule(text, default_rule(card))


def unsure_note(card: Any, text: str) -> str:
    """A sentence for a model that cannot tell nothing from an action; empty for others, and where a
    rule is given.
    """
    rule = default_rule(card)
    if text or card.events or rule.background is not None or rule.overlap:
        return ""
    return (
        "the model has no class for nothing, so that it names actions where there are none; "
        "calibrate it on labeled events (vt eval calibrate), or fine-tune it with a class "
        "background"
    )


def default_rule(card: Any) -> EventRule:
    """The rule of a model that was not calibrated."""
    labels = card.heads[0].labels
    own = next((label for label in labels if label.lower() in BACKGROUND_NAMES), None)
    return EventRule(background=own, overlap=bool(card.pipeline.multi_label))


def _stored(card: Any) -> EventRule:
    try:
        rule = EventRule.from_dict(card.events["rule"])
        classes = len(card.heads[0].labels)
        if rule.activity and len(rule.activity.weights) != (2 * TAPS + 1) * weights_per_tap(
            classes
        ):
            raise ValueError("weights for another number of classes")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(
            f"the event rule in the model card cannot be used ({error}); make another: {FIT}"
        ) from error
    return replace(rule, overlap=bool(card.pipeline.multi_label))
