"""A training that has learned nothing is called that, with the likely cause."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vtcli.data.samples import Sample
from vtcli.training.verdict import training_warnings


def plan(fits_features: bool = False, recipe: str = "small") -> Any:
    """As much of a plan as a verdict reads: four validation videos of two classes."""
    samples = [Sample(str(n), Path("v.mp4"), labels=(n % 2,)) for n in range(4)]
    return SimpleNamespace(
        heads={"action": 2},
        split=SimpleNamespace(validation=SimpleNamespace(samples=samples)),
        fits_features=fits_features,
        recipe_name=recipe,
        warning=lambda: "",
    )


def row(train_loss: float, train_top1: float, val_top1: float) -> dict[str, float]:
    return {"train_loss": train_loss, "train_top1": train_top1, "val_top1": val_top1}


def test_a_loss_that_never_falls_below_that_of_guessing_is_named() -> None:
    (warning,) = training_warnings(plan(recipe="paper"), [row(0.71, 0.5, 0.5), row(0.70, 0.5, 0.5)])
    assert "never fell below 0.69" in warning  # ln 2
    assert "--recipe small" in warning
    (warning,) = training_warnings(plan(fits_features=True), [row(0.70, 0.5, 0.5)])
    assert "without --trainable" in warning


def test_a_training_that_only_memorizes_is_named() -> None:
    (warning,) = training_warnings(plan(), [row(0.2, 1.0, 0.5)])
    assert "not above chance" in warning
    assert "memorized" in warning
    assert training_warnings(plan(), [row(0.2, 1.0, 0.75)]) == []
