"""An architecture from another package is trained as ours are: per-layer rates, recomputed blocks
and shards follow what it states about its layers, and nothing is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.evaluation.harness import ROOT, class_folders, environment
from tests.forked import run_group
from tests.models import outside
from tests.training.harness import STEADY, file_of, losses, plan_for, trainer
from tests.training.outside_worker import RECIPE, rates
from vtcli import models
from vtcli.errors import UsageError
from vtcli.models import register_architecture
from vtcli.models.recipe import Recipe
from vtcli.training.checkpoint import SHARDS
from vtcli.training.parallel import apply_fsdp
from vtcli.training.recipes import find_recipe, list_recipes

LAYER_RATES = {"embed": 0.125, "layers.0": 0.25, "layers.1": 0.5, "norm": 1.0, "head": 1.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("data") / "data", 5, ["a", "b", "c"])


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(models, "_registered", {})
    for architecture in (outside.OUTSIDE, outside.BARE, outside.MISMATCHED):
        register_architecture(architecture)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model_of(folder: Path, arch: str = "outside") -> Path:
    return file_of(folder / f"{arch}.safetensors", arch, outside.OutsideConfig())


def layer_of(name: str) -> str:
    """`layers.0` of `layers.0.fc.weight`, `head` of `head.bias`."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "layers" else parts[0]


def test_its_layers_have_the_rates_it_states(data: Path, tmp_path: Path) -> None:
    maker = trainer(tmp_path / "run", plan_for(data, model_of(tmp_path), RECIPE))
    assert {layer_of(name): rate for name, rate in rates(maker).items()} == LAYER_RATES


@pytest.mark.parametrize("recomputed", [False, True])
def test_its_blocks_are_recomputed(recomputed: bool, data: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, grad_checkpointing=recomputed)
    maker = trainer(tmp_path / "run", plan_for(data, model_of(tmp_path), recipe))
    maker.fit()
    times = 2 if recomputed else 1
    forwards = [block.forwards for block in maker.model.layers]  # type: ignore[union-attr]
    assert forwards == [times * maker.position.steps_done] * outside.BLOCKS


def test_only_its_last_blocks_are_trained(data: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, trainable="last-1-blocks")
    maker = trainer(tmp_path / "run", plan_for(data, model_of(tmp_path), recipe))
    trained = {layer_of(n) for n, p in maker.model.named_parameters() if p.requires_grad}
    assert trained == {"layers.1", "norm", "head"}


@pytest.fixture(scope="module")
def sharded(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training by two processes that know the architecture from its entry point only."""
    folder = tmp_path_factory.mktemp("sharded")
    (folder / "data").symlink_to(data)
    site = outside.install(folder / "site")
    variables = environment(PYTHONPATH=f"{ROOT}:{site}")
    for done in run_group(2, [folder], variables, ROOT, "tests.training.outside_worker"):
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
def test_two_processes_shard_its_blocks_and_recompute_them(sharded: Path) -> None:
    observed: list[dict[str, Any]] = json.loads((sharded / "observed.json").read_text())
    assert len(observed) == 2
    for process in observed:
        assert {layer_of(n): rate for n, rate in process["rates"].items()} == LAYER_RATES
        assert process["sharded"] == [True] * outside.BLOCKS
        assert process["forwards"] == [2 * process["steps"]] * outside.BLOCKS
    total = sum(
        p.numel() for p in outside.Outside(outside.OutsideConfig(num_classes=3)).parameters()
    )
    local = [sum(process["local"].values()) for process in observed]
    assert sum(local) == total
    assert max(local) < 0.6 * total
    assert len(list((sharded / "run" / SHARDS).glob("*.safetensors"))) == 2


@pytest.mark.slow
def test_its_shards_follow_the_losses_of_one_process(
    sharded: Path, data: Path, tmp_path: Path
) -> None:
    two = json.loads((sharded / "observed.json").read_text())[0]["losses"]
    one = losses(trainer(tmp_path / "run", plan_for(data, model_of(tmp_path), RECIPE)))
    assert len(one) == 3
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-4


@pytest.mark.parametrize(
    ("changes", "option", "method"),
    [
        ({"layer_decay": 0.5}, "--layer-decay 0.5", "group_matcher"),
        ({"trainable": "last-1-blocks"}, "--trainable last-1-blocks", "group_matcher"),
        ({"grad_checkpointing": True}, "--grad-checkpointing", "transformer_blocks"),
    ],
)
def test_layers_that_are_not_stated_are_not_guessed(
    changes: dict[str, Any], option: str, method: str, data: Path, tmp_path: Path
) -> None:
    plan = plan_for(data, model_of(tmp_path, "bare"), replace(STEADY, **changes))
    with pytest.raises(UsageError, match=rf"{option} needs the .* of Bare.*add a method {method}"):
        trainer(tmp_path / "run", plan)


def test_blocks_that_are_not_stated_are_not_sharded() -> None:
    network = outside.Bare(outside.OutsideConfig())
    with pytest.raises(UsageError, match="--parallel fsdp needs the blocks of Bare"):
        apply_fsdp(network, torch.device("cpu"), 2)


def test_a_matcher_that_matches_no_block_is_refused(data: Path, tmp_path: Path) -> None:
    plan = plan_for(data, model_of(tmp_path, "mismatched"), replace(STEADY, layer_decay=0.5))
    with pytest.raises(UsageError, match="correct its regular expressions"):
        trainer(tmp_path / "run", plan)


def test_without_these_options_nothing_has_to_be_stated(data: Path, tmp_path: Path) -> None:
    plan = plan_for(data, model_of(tmp_path, "bare"), replace(STEADY, epochs=1))
    assert trainer(tmp_path / "run", plan).fit() == "done"
    plan = plan_for(data, model_of(tmp_path, "bare"), replace(STEADY, epochs=1, trainable="head"))
    assert trainer(tmp_path / "head", plan).fit() == "done"


def test_an_option_it_does_not_have_is_refused(data: Path, tmp_path: Path) -> None:
    words = "Outside has no --drop .* it has --num-frames; leave --drop out"
    with pytest.raises(UsageError, match=words):
        plan_for(data, model_of(tmp_path), replace(STEADY, drop=0.1))


def test_it_brings_its_own_recipe() -> None:
    assert find_recipe("outside", False) == ("outside", outside.OUTSIDE.recipes["default"])
    assert find_recipe("outside", True)[0] == "outside"
    assert find_recipe("bare", True) == ("bare", Recipe())
    assert list_recipes()["outside"].lr == 5e-3
