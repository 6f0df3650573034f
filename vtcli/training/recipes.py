"""Selects the recipe of a training and overrides its fields.

The values are stated beside the architectures (`Architecture.recipes`); only recipes that fit any
architecture are defined here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, get_args, get_type_hints

from vtcli.errors import UsageError
from vtcli.models import get_architecture, list_architectures
from vtcli.models.recipe import Recipe

AUGMENTATION_FIELDS = ("aa", "train_crop_mode", "scale", "ratio", "hflip", "reprob")
"""Fields of a recipe that decide the augmentation of clips (`Augmentation`)."""
FLIP_SENSITIVE_VARIANT = "something"
SHARED_RECIPES: Mapping[str, Recipe] = {
    # Small networks trained from scratch, such as the nano models of this package.
    "nano": Recipe(
        epochs=24,
        batch_size=32,
        lr=1.5e-3,
        lr_base_size=32,
        lr_base_scale="sqrt",
        warmup_epochs=1,
        weight_decay=0.05,
        no_weight_decay=("bias_table",),
        clip_grad=1.0,
        scale=(0.5, 1.0),
    ),
}


def list_recipes() -> Mapping[str, Recipe]:
    """All recipes by name: ARCH, ARCH-VARIANT, and those for any architecture."""
    named: dict[str, Recipe] = {}
    for name in list_architectures():
        named |= _recipes_of(name)
    return {**named, **SHARED_RECIPES}


def _recipes_of(arch: str) -> dict[str, Recipe]:
    recipes = get_architecture(arch).recipes
    return {
        arch if variant == "default" else f"{arch}-{variant}": recipe
        for variant, recipe in recipes.items()
    }


def find_recipe(arch: str, flip_sensitive: bool, name: str | None = None) -> tuple[str, Recipe]:
    """The recipe of this name, or else the architecture's own; with its name.

    Where labels distinguish left from right (`flip_sensitive`) the architecture's recipe for
    Something-Something is preferred. An architecture without recipes gets the defaults of `Recipe`.
    Raises `UsageError` for an unknown name.
    """
    if name is None:
        own = _recipes_of(arch)
        variant = f"{arch}-{FLIP_SENSITIVE_VARIANT}"
        chosen = variant if flip_sensitive and variant in own else arch
        return chosen, own.get(chosen, Recipe())
    known = list_recipes()
    if name not in known:
        choices = ", ".join(("paper", "small", "scratch", *known))
        raise UsageError(f"unknown recipe '{name}'; choose one of {choices}")
    return name, known[name]


def options() -> Mapping[str, tuple[Any, str]]:
    """The type and the help text of each recipe field's command-line option."""
    hints = get_type_hints(Recipe, include_extras=True)
    return {f.name: get_args(hints[f.name])[:2] for f in fields(Recipe)}


def override(recipe: Recipe, given: Mapping[str, Any]) -> Recipe:
    """The recipe with the given fields replaced; None keeps the recipe's value.

    Changing the number of epochs keeps the fraction of warmup, unless that is given too. A
    classifier with a rate of its own keeps at least `lr`, unless `head_lr` is given too. Raises
    `UsageError` for a value out of range.
    """
    values: dict[str, Any] = {n: v for n, v in given.items() if v is not None}
    if "epochs" in values:
        values.setdefault("warmup_epochs", recipe.warmup_epochs * values["epochs"] / recipe.epochs)
    if "lr" in values and recipe.head_lr is not None:
        values.setdefault("head_lr", max(recipe.head_lr, values["lr"]))
    frozen: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
    return replace(recipe, **frozen)
