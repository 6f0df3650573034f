"""Video Swin checkpoints: the official, mmaction2 and torchvision key names, and image Swin.

All three upstreams store the same tensors, and beside them an index that follows from the window.
An image Swin comes in Microsoft's names or in timm's and is inflated as upstream does it (paper,
section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vtcli.errors import LayoutError
from vtcli.models.layouts import Layout, Mapped, Rule, pairs, to_vt, unused
from vtcli.models.videoswin.configs import VideoSwinConfig, stage_depths
from vtcli.models.videoswin.model import relative_position

_INDEX = "attn.relative_position_index"
_TABLE = "attn.relative_position_bias_table"


def _index(name: str, config: Any) -> Tensor:
    return relative_position(config.window_size, torch.device("cpu")).clone()


def _block_rules(theirs: str, ours: str, fc1: str = "fc1", fc2: str = "fc2") -> list[Rule]:
    return [
        *pairs(f"{theirs}norm1", f"{ours}norm1"),
        Rule(f"{theirs}{_TABLE}", f"{ours}attn.bias_table"),
        *pairs(f"{theirs}attn.qkv", f"{ours}attn.qkv"),
        *pairs(f"{theirs}attn.proj", f"{ours}attn.proj"),
        *pairs(f"{theirs}norm2", f"{ours}norm2"),
        *pairs(f"{theirs}mlp.{fc1}", f"{ours}mlp.fc1"),
        *pairs(f"{theirs}mlp.{fc2}", f"{ours}mlp.fc2"),
        unused(
            f"{theirs}{_INDEX}",
            "follows from the window size",
            _index,
            like=f"{ours}attn.bias_table",
        ),
    ]


def _merge_rules(theirs: str, ours: str) -> list[Rule]:
    return [
        *pairs(f"{theirs}.norm", f"{ours}.merge.norm"),
        Rule(f"{theirs}.reduction.weight", f"{ours}.merge.reduction.weight"),
    ]


def _patch_embed_rules(prefix: str) -> list[Rule]:
    return [
        *pairs(f"{prefix}patch_embed.proj", "patch_embed.proj"),
        *pairs(f"{prefix}patch_embed.norm", "patch_embed.norm"),
    ]


def _swin_rules(prefix: str) -> list[Rule]:
    """Patch embedding and stages in Microsoft's names, of image and video models alike."""
    return [
        *_patch_embed_rules(prefix),
        *_block_rules(f"{prefix}layers.{{}}.blocks.{{}}.", "stages.{}.blocks.{}."),
        *_merge_rules(f"{prefix}layers.{{}}.downsample", "stages.{}"),
    ]


def _torchvision_rules() -> list[Rule]:
    """Blocks and mergings take turns in one sequence."""
    rules = _patch_embed_rules("")
    for stage in range(4):
        ours, blocks, merge = (
            f"stages.{stage}",
            f"features.{2 * stage}",
            f"features.{2 * stage + 1}",
        )
        rules += _block_rules(f"{blocks}.{{}}.", f"{ours}.blocks.{{}}.", fc1="0", fc2="3")
        rules += _merge_rules(merge, ours)
    return rules


_VIDEO = (*_swin_rules("backbone."), *pairs("cls_head.fc_cls", "head"))

LAYOUTS = {
    "official": Layout(
        "official",
        (*_VIDEO, *pairs("backbone.norm", "norm")),
        signature=(f"backbone.layers.{{}}.blocks.{{}}.{_TABLE}", "backbone.norm.weight"),
        prefix="backbone.",
        nest=("state_dict",),
    ),
    # The last norm has the number of the stage it follows: 3 in every published network. This is
    # the one that is written; networks with fewer stages are only read.
    "mmaction2": Layout(
        "mmaction2",
        (*_VIDEO, *(rule for n in (3, 2, 1, 0) for rule in pairs(f"backbone.norm{n}", "norm"))),
        signature=(f"backbone.layers.{{}}.blocks.{{}}.{_TABLE}", "backbone.norm{}.weight"),
        prefix="backbone.",
        nest=("state_dict",),
    ),
    "torchvision": Layout(
        "torchvision",
        (*_torchvision_rules(), *pairs("norm", "norm"), *pairs("head", "head")),
        signature=(f"features.{{}}.{{}}.{_TABLE}", "norm.weight", "head.weight"),
    ),
}

_IMAGE_BLOCK = f"layers.{{}}.blocks.{{}}.{_TABLE}"
_IMAGE_CLASSIFIER = "belongs to the image classifier"
_IMAGE_MASK = "the mask of an image's windows, which a video's are not"
_FIRST_MERGE = "layers.0.downsample.reduction.weight"


def _image_layout(name: str, merges: list[Rule], head: str, **marks: Any) -> Layout:
    return Layout(
        name,
        (
            *merges,
            *_swin_rules(""),
            *pairs("norm", "norm"),
            *(unused(f"{head}.{end}", _IMAGE_CLASSIFIER) for end in ("weight", "bias")),
            unused("layers.{}.blocks.{}.attn_mask", _IMAGE_MASK),
        ),
        **marks,
    )


_IMAGE_LAYOUTS = (
    _image_layout("microsoft", [], "head", signature=(_IMAGE_BLOCK, _FIRST_MERGE)),
    # In timm a stage begins with the merging, elsewhere the stage before ends with it.
    _image_layout(
        "timm",
        [r for s in (0, 1, 2) for r in _merge_rules(f"layers.{s + 1}.downsample", f"stages.{s}")],
        "head.fc",
        signature=(_IMAGE_BLOCK, "layers.1.downsample.reduction.weight"),
        absent=(_FIRST_MERGE,),
    ),
)


def init_from_image_model(tensors: Mapping[str, Tensor], config: VideoSwinConfig) -> Mapped:
    """An image Swin as all of a Video Swin but its classifier (section 3.3).

    Every offset in time gets the image's position bias, and every frame under a patch the same
    share of the image's kernel. Raises `LayoutError` where the tensors are not an image Swin's, or
    one's of another depth.
    """
    layout = next((layout for layout in _IMAGE_LAYOUTS if layout.recognizes(tensors)), None)
    if layout is None:
        raise LayoutError("this is no image Swin Transformer in Microsoft's or timm's key names")
    mapped = to_vt(layout, {name: tensor.float() for name, tensor in tensors.items()})
    depths = stage_depths(mapped.tensors)
    if depths != config.depths:
        raise LayoutError(
            f"this image Swin has {depths} blocks in its stages, the model {config.depths}; take "
            "one of the model's size"
        )
    for name, tensor in mapped.tensors.items():
        if name.endswith("bias_table"):
            mapped.tensors[name] = inflate_bias(tensor, config.window_size)
    frames = config.patch_size[0]
    kernel = mapped.tensors["patch_embed.proj.weight"][:, :, None]
    mapped.tensors["patch_embed.proj.weight"] = kernel.repeat(1, 1, frames, 1, 1) / frames
    return mapped


def inflate_bias(table_LH: Tensor, window_size: tuple[int, int, int]) -> Tensor:
    """An image's table of position biases [(2M-1)²,H] for video windows: the same at all times.

    Where the image's windows have another size, it is resized bicubically.
    """
    t, h, w = (2 * size - 1 for size in window_size)
    rows, heads = table_LH.shape
    if rows != h * w:
        side = math.isqrt(rows)
        image_1HSS = table_LH.T.reshape(1, heads, side, side)
        resized = F.interpolate(image_1HSS, size=(h, w), mode="bicubic", align_corners=False)
        table_LH = resized.reshape(heads, h * w).T
    return table_LH.repeat(t, 1)
