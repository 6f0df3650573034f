"""Video Swin checkpoints: tensor names of official, mmaction2 and torchvision files; image Swin.

All three upstreams store the same tensors, and an index that follows from the window size. An image
Swin with Microsoft's or timm's names is inflated as in the paper (arXiv 2106.13230, section 3.3).
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
from vtcli.models.videoswin.windows import relative_position

_INDEX = "attn.relative_position_index"
_TABLE = "attn.relative_position_bias_table"


def _index(name: str, config: Any) -> Tensor:
    full = config.window_size
    whole = tuple(range(step) for step in full)
    return relative_position(full, full, whole, torch.device("cpu")).clone()


def _block_rules(upstream: str, vt: str, fc1: str = "fc1", fc2: str = "fc2") -> list[Rule]:
    return [
        *pairs(f"{upstream}norm1", f"{vt}norm1"),
        Rule(f"{upstream}{_TABLE}", f"{vt}attn.bias_table"),
        *pairs(f"{upstream}attn.qkv", f"{vt}attn.qkv"),
        *pairs(f"{upstream}attn.proj", f"{vt}attn.proj"),
        *pairs(f"{upstream}norm2", f"{vt}norm2"),
        *pairs(f"{upstream}mlp.{fc1}", f"{vt}mlp.fc1"),
        *pairs(f"{upstream}mlp.{fc2}", f"{vt}mlp.fc2"),
        unused(
            f"{upstream}{_INDEX}",
            "follows from the window size",
            _index,
            like=f"{vt}attn.bias_table",
        ),
    ]


def _merge_rules(upstream: str, vt: str) -> list[Rule]:
    return [
        *pairs(f"{upstream}.norm", f"{vt}.merge.norm"),
        Rule(f"{upstream}.reduction.weight", f"{vt}.merge.reduction.weight"),
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
    """Stages and patch mergings alternate in one sequence."""
    rules = _patch_embed_rules("")
    for stage in range(4):
        vt, blocks, merge = (
            f"stages.{stage}",
            f"features.{2 * stage}",
            f"features.{2 * stage + 1}",
        )
        rules += _block_rules(f"{blocks}.{{}}.", f"{vt}.blocks.{{}}.", fc1="0", fc2="3")
        rules += _merge_rules(merge, vt)
    return rules


_VIDEO = (*_swin_rules("backbone."), *pairs("cls_head.fc_cls", "head"))

LAYOUTS = {
    "official": Layout(
        "official",
        (*_VIDEO, *pairs("backbone.norm", "norm")),
        signature=(f"backbone.layers.{{}}.blocks.{{}}.{_TABLE}", "backbone.norm.weight"),
        prefix="backbone.",
        wrapper_keys=("state_dict",),
    ),
    # The name of the last norm has the number of its stage: 3 in every published network. Files are
    # written with 3; other numbers, of networks with fewer stages, are only read.
    "mmaction2": Layout(
        "mmaction2",
        (*_VIDEO, *(rule for n in (3, 2, 1, 0) for rule in pairs(f"backbone.norm{n}", "norm"))),
        signature=(f"backbone.layers.{{}}.blocks.{{}}.{_TABLE}", "backbone.norm{}.weight"),
        prefix="backbone.",
        wrapper_keys=("state_dict",),
    ),
    "torchvision": Layout(
        "torchvision",
        (*_torchvision_rules(), *pairs("norm", "norm"), *pairs("head", "head")),
        signature=(f"features.{{}}.{{}}.{_TABLE}", "norm.weight", "head.weight"),
    ),
}

# Keys of a `config.json` that states the clip; torchvision itself writes none.
_FRAME_KEYS = ("num_frames", "n_frames", "frames", "clip_len", "clip_length", "sequence_length")
_SIZE_KEYS = ("image_size", "img_size", "crop_size", "input_size")
_NAME_KEYS = ("architectures", "architecture", "model_type", "model_name", "arch")


def read_torchvision_config(table: Mapping[str, Any]) -> dict[str, Any] | None:
    """Fields that the `config.json` beside torchvision's network states; None for another model.

    Such repositories name the network (`Swin3DForVideoClassification`, `swin3d_t`); the rest of it
    is in the tensors. Raises `LayoutError` for a clip that cannot be.
    """
    named = [table.get(key) for key in _NAME_KEYS]
    names = [n for value in named for n in (value if isinstance(value, list) else [value])]
    if not any(str(n).lower().startswith(("swin3d", "swintransformer3d")) for n in names if n):
        return None
    fields = {"num_frames": _stated(table, _FRAME_KEYS), "image_size": _stated(table, _SIZE_KEYS)}
    return {name: value for name, value in fields.items() if value is not None}


def _stated(table: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    """The whole number under the keys that are there, which must agree."""
    values = {}
    for key in keys:
        value = table.get(key)
        if isinstance(value, list) and len(set(map(str, value))) == 1:
            value = value[0]  # [height, width]
        if value is not None:
            values[key] = value
    for key, value in values.items():
        if type(value) is not int or not 1 <= value <= 4096:
            raise LayoutError(f"config.json: {key} is {value!r}, not a whole number in 1..4096")
        if value != next(iter(values.values())):
            raise LayoutError(f"config.json has {values}, which contradict each other")
    return next(iter(values.values()), None)


_IMAGE_BLOCK = f"layers.{{}}.blocks.{{}}.{_TABLE}"
_IMAGE_CLASSIFIER = "belongs to the image classifier"
_IMAGE_MASK = "the mask of an image's windows, which differ from a video's"
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
    # In timm patch merging is the first part of a stage, elsewhere the last part of the one before.
    _image_layout(
        "timm",
        [r for s in (0, 1, 2) for r in _merge_rules(f"layers.{s + 1}.downsample", f"stages.{s}")],
        "head.fc",
        signature=(_IMAGE_BLOCK, "layers.1.downsample.reduction.weight"),
        absent=(_FIRST_MERGE,),
    ),
)


def init_from_image_model(tensors: Mapping[str, Tensor], config: VideoSwinConfig) -> Mapped:
    """All tensors of a Video Swin except its classifier, from an image Swin (section 3.3).

    The image's position bias is used for every offset in time, and its patch kernel, divided by the
    number of frames of a patch, for every frame. Raises `LayoutError` if the tensors are not those
    of an image Swin of the model's depth.
    """
    layout = next((layout for layout in _IMAGE_LAYOUTS if layout.recognizes(tensors)), None)
    if layout is None:
        raise LayoutError(
            "this is not an image Swin Transformer with Microsoft's or timm's tensor names; use "
            "one that is"
        )
    mapped = to_vt(layout, {name: tensor.float() for name, tensor in tensors.items()})
    depths = stage_depths(mapped.tensors)
    if depths != config.depths:
        raise LayoutError(
            f"this image Swin has {depths} blocks in its stages, the model {config.depths}; use "
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
    """An image's bias table [(2M-1)²,H] repeated over the temporal offsets of video windows.

    If the image's windows have another size, the table is resized bicubically first.
    """
    t, h, w = (2 * size - 1 for size in window_size)
    rows, heads = table_LH.shape
    if rows != h * w:
        side = math.isqrt(rows)
        image_1HSS = table_LH.T.reshape(1, heads, side, side)
        resized = F.interpolate(image_1HSS, size=(h, w), mode="bicubic", align_corners=False)
        table_LH = resized.reshape(heads, h * w).T
    return table_LH.repeat(t, 1)
