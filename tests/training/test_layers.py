"""Layers and rates follow what the networks state, and equal timm's where timm has the rule."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import nn

from tests.training.harness import TINY
from vtcli.errors import UsageError
from vtcli.models import get_architecture, list_architectures, with_overrides
from vtcli.models.recipe import Recipe
from vtcli.training.init import plan_init
from vtcli.training.layers import layer_ids, transformer_blocks
from vtcli.training.optim import param_groups

PRESETS = [(arch, name) for arch in list_architectures() for name in get_architecture(arch).presets]
STEM = re.compile(r"^(encoder\.|spatial\.)?(patch_embed|class_token|pos_embed|norm_pre)")
BLOCK = re.compile(r"^(?:encoder\.|spatial\.)?(?:stages\.(\d+)\.)?blocks\.(\d+)\.")
MERGE = re.compile(r"^stages\.(\d+)\.merge\.")


def on_meta(arch: str, config: Any) -> nn.Module:
    with torch.device("meta"):
        return get_architecture(arch).build(config)


def expected_layer_ids(names: list[str]) -> dict[str, int]:
    """0 for the embedding, 1 to L for the blocks of the main transformer in order, a merging of
    Video Swin after the blocks of its stage, L + 1 for the rest.
    """
    order: dict[str, tuple[int, ...]] = {}
    for name in names:
        if STEM.match(name):
            order[name] = (0,)
        elif block := BLOCK.match(name):
            order[name] = (1, int(block[1] or 0), 0, int(block[2]))
        elif merge := MERGE.match(name):
            order[name] = (1, int(merge[1]), 1)
        else:
            order[name] = (2,)
    numbers = {key: number for number, key in enumerate(sorted(set(order.values())))}
    return {name: numbers[key] for name, key in order.items()}


@pytest.mark.parametrize(("arch", "name"), PRESETS)
def test_layers_count_from_the_embedding_to_the_head(arch: str, name: str) -> None:
    network = on_meta(arch, get_architecture(arch).presets[name])
    names = [name for name, _ in network.named_parameters()]
    assert layer_ids(network, "--layer-decay") == expected_layer_ids(names)


@pytest.mark.parametrize(("arch", "name"), PRESETS)
def test_every_block_of_a_network_is_stated(arch: str, name: str) -> None:
    network = on_meta(arch, get_architecture(arch).presets[name])
    blocks = [
        block
        for name, module in network.named_modules()
        if isinstance(module, nn.ModuleList) and name.endswith("blocks")
        for block in module
    ]
    found = transformer_blocks(network, "--grad-checkpointing")
    assert set(map(id, found)) == set(map(id, blocks))
    assert len(found) == len(blocks)


@pytest.mark.parametrize("arch", sorted(TINY))
def test_parameter_groups_are_those_of_timm(arch: str) -> None:
    model, _, changes = TINY[arch]
    network = on_meta(arch, with_overrides(get_architecture(arch).presets[model], changes))
    recipe = Recipe(layer_decay=0.75, weight_decay=0.05)
    ours = param_groups(network, recipe, get_architecture(arch).head_tensors)
    timms = param_groups_layer_decay(network, weight_decay=0.05, layer_decay=0.75)

    def settings(groups: list[dict[str, Any]]) -> dict[int, tuple[float, float]]:
        return {
            id(parameter): (group["lr_scale"], group["weight_decay"])
            for group in groups
            for parameter in group["params"]
        }

    assert settings(ours) == settings(timms)


def test_a_network_can_exclude_parameters_from_weight_decay_as_in_timm() -> None:
    class Excluding(nn.Linear):
        def no_weight_decay(self) -> set[str]:
            return {"weight"}

    groups = param_groups(Excluding(2, 2), Recipe(filter_bias_and_bn=False), ())
    decay = {name: group["weight_decay"] for group in groups for name in group["names"]}
    assert decay == {"weight": 0.0, "bias": 0.05}
    [table] = create_optimizer_v2(
        Excluding(2, 2), "adamw", weight_decay=0.05, filter_bias_and_bn=False
    ).param_groups[:1]
    assert table["weight_decay"] == 0.0


def test_a_matcher_that_captures_text_is_refused() -> None:
    class Capturing(nn.Linear):
        def group_matcher(self, coarse: bool = False) -> dict[str, str]:
            return {"stem": "(weight|bias)"}

    with pytest.raises(UsageError, match=r"captures text that is not a number .*; write \(\?:"):
        layer_ids(Capturing(2, 2), "--layer-decay")


def test_an_option_that_an_architecture_lacks_is_refused_with_those_it_has() -> None:
    words = "ViViT has no --drop .* it has --num-frames and --drop-path; leave --drop out"
    with pytest.raises(UsageError, match=words):
        plan_init("vivit-b", "scratch", {"action": 2}, Recipe(drop=0.1))
