"""X-ViT checkpoints: tensor names of official and "Time Is MattEr" files; initialization from ViT.

A released file also has a classifier of single frames, `new_fc`. It is unused unless frames are
averaged: then it is the classifier, and the file has no temporal transformer. These two forms are
two layouts. The third is that of "Time Is MattEr" (arXiv 2207.09067), which trained the same
network and renamed its classifier.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from vtcli.errors import LayoutError
from vtcli.models import count_layers
from vtcli.models.layouts import Layout, Mapped, Rule, check_image_vit, pairs, to_vt, unused
from vtcli.models.xvit.configs import XViTConfig

_BASE = "base_model."
_TEMPORAL = "consensus.temporal_encoder.{}."
_WRAPPER_KEYS = ("model_state",)


def _block_rules(upstream: str, vt: str, qkv_bias: bool) -> list[Rule]:
    qkv = pairs(f"{upstream}attn.qkv", f"{vt}attn.qkv")
    return [
        *pairs(f"{upstream}norm1", f"{vt}norm1"),
        *(qkv if qkv_bias else qkv[:1]),
        *pairs(f"{upstream}attn.proj", f"{vt}attn.proj"),
        *pairs(f"{upstream}norm2", f"{vt}norm2"),
        *pairs(f"{upstream}mlp.fc1", f"{vt}mlp.fc1"),
        *pairs(f"{upstream}mlp.fc2", f"{vt}mlp.fc2"),
    ]


def _image_rules(prefix: str) -> list[Rule]:
    """timm's ViT without its classifier."""
    return [
        Rule(f"{prefix}cls_token", "class_token"),
        Rule(f"{prefix}pos_embed", "pos_embed"),
        *pairs(f"{prefix}patch_embed.proj", "patch_embed"),
        *_block_rules(f"{prefix}blocks.{{}}.", "blocks.{}.", qkv_bias=True),
        *pairs(f"{prefix}norm", "norm"),
    ]


_BACKBONE = (*_image_rules(_BASE), Rule(f"{_BASE}temp_embed", "temporal_embed"))
_TEMPORAL_RULES = (
    Rule("consensus.cls_token", "temporal.class_token"),
    *_block_rules(_TEMPORAL, "temporal.blocks.{}.", qkv_bias=False),
    *pairs("consensus.mlp_head.0", "temporal.norm"),
    *pairs("consensus.mlp_head.1", "temporal.fc"),
)


def _frame_classifier(name: str, config: XViTConfig) -> Tensor:
    """The classifier that upstream's network has but does not use with a temporal transformer."""
    if config.consensus != "attention":
        raise LayoutError(
            "the layout 'official' has a temporal transformer; write a model that averages its "
            "frames in the layout 'official-avg'"
        )
    shape = (config.num_classes, config.width) if name.endswith("weight") else (config.num_classes,)
    return torch.zeros(shape)


_UNUSED = "classifies single frames; unused with a temporal transformer"
_SELF_SUPERVISED = "is used by the self-supervised training losses only"

LAYOUTS = {
    "official": Layout(
        "official",
        (
            *_BACKBONE,
            *_TEMPORAL_RULES,
            *pairs("consensus.mlp_head.4", "head"),
            unused("new_fc.weight", _UNUSED, _frame_classifier),
            unused("new_fc.bias", _UNUSED, _frame_classifier),
        ),
        signature=(f"{_BASE}temp_embed", "consensus.mlp_head.4.weight"),
        wrapper_keys=_WRAPPER_KEYS,
    ),
    "official-avg": Layout(
        "official-avg",
        (*_BACKBONE, *pairs("new_fc", "head")),
        signature=(f"{_BASE}temp_embed", "new_fc.weight"),
        absent=("consensus.cls_token",),
        wrapper_keys=_WRAPPER_KEYS,
    ),
    "time": Layout(
        "time",
        (
            *_BACKBONE,
            *_TEMPORAL_RULES,
            *pairs("consensus.head", "head"),
            *(
                unused(f"{module}.{end}", _SELF_SUPERVISED)
                for module in (
                    "temp_head",
                    "flow_head",
                    *(f"mlp_{part}" for part in ("q", "k", "v", "proj", "norm")),
                )
                for end in ("weight", "bias")
            ),
        ),
        signature=(f"{_BASE}temp_embed", "consensus.head.weight"),
        wrapper_keys=_WRAPPER_KEYS,
        suffix=".pyth",
    ),
}

_CLASSIFIER = "belongs to the image classifier"
_VIT = Layout(
    "timm",
    (
        *_image_rules(""),
        *(
            unused(f"{module}.{end}", _CLASSIFIER)
            for module in ("head", "pre_logits.fc")
            for end in ("weight", "bias")
        ),
    ),
    signature=("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.{}.attn.qkv.weight"),
)


def init_from_image_model(tensors: Mapping[str, Tensor], config: XViTConfig) -> Mapped:
    """The tensors of an X-ViT that timm's ViT provides: the image transformer.

    Positions of another grid are resized. All other tensors keep the values of `init_weights`, with
    a temporal embedding of zeros. Raises `LayoutError` if the tensors are not those of a ViT of the
    model's size.
    """
    if not _VIT.recognizes(tensors):
        raise LayoutError(
            "this is not a vision transformer with timm's tensor names; use one that is"
        )
    mapped = to_vt(_VIT, {name: tensor.float() for name, tensor in tensors.items()})
    # Old timm embedded patches with a Linear, whose weight is the flattened kernel.
    kernel = mapped.tensors["patch_embed.weight"]
    size = config.patch_size
    layers = count_layers(mapped.tensors, "blocks.{}.norm1.weight")
    found = (kernel.shape[0], layers, math.isqrt(kernel[0].numel() // 3))
    check_image_vit(found, (config.width, config.depth, size))
    mapped.tensors["patch_embed.weight"] = kernel.reshape(kernel.shape[0], -1, size, size)
    mapped.tensors["pos_embed"] = resize_positions(mapped.tensors["pos_embed"], config.stored_grid)
    return mapped


def resize_positions(table_1NC: Tensor, grid: int) -> Tensor:
    """A position table resized to grid x grid patches; the class token's row stays: [1,1+grid²,C].

    Bilinear, as upstream does here; its networks resize their own table bicubically.
    """
    cls_11C, patches_1PC = table_1NC[:, :1], table_1NC[:, 1:]
    source = math.isqrt(patches_1PC.shape[1])
    if source**2 != patches_1PC.shape[1]:
        raise LayoutError(
            f"{table_1NC.shape[1]} positions are not a class token and a square of patches; use "
            " a ViT that has these"
        )
    if source == grid:
        return table_1NC
    grid_1CHW = patches_1PC.transpose(1, 2).unflatten(2, (source, source))
    resized = F.interpolate(grid_1CHW, size=(grid, grid), mode="bilinear", align_corners=False)
    return torch.cat([cls_11C, resized.flatten(2).transpose(1, 2)], dim=1)
