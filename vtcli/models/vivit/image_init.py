"""ViViT from an image model (arXiv 2103.15691, section 3.4): inflated kernel, fitted positions.

Image transformers come from scenic's code base (also with older numbering, as flat NumPy archives)
or from timm. They are read with the tensor names of a joint model (`checkpoints.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vtcli.errors import LayoutError
from vtcli.models import count_layers
from vtcli.models.layouts import Layout, Mapped, Rule, check_image_vit, pairs, to_vt, unused
from vtcli.models.vivit.checkpoints import FLAX_ALIASES, FLAX_ROOT, SCENIC, FlaxLayout
from vtcli.models.vivit.configs import ViViTConfig
from vtcli.models.vivit.model import POSITION_STD

_CLASSIFIER = "belongs to the image classifier"

# Image transformers by the names of a joint model; their patch kernel has no time axis.
_IMAGE_LAYOUTS = (
    FlaxLayout(
        "flax-vit",
        (
            *(
                unused(f"{FLAX_ROOT}{head}/{end}", _CLASSIFIER)
                for head in ("head", "output_projection")
                for end in ("kernel", "bias")
            ),
            *SCENIC.rules,
        ),
        signature=(
            f"{FLAX_ROOT}embedding/kernel",
            f"{FLAX_ROOT}Transformer/posembed_input/pos_embedding",
        ),
        prefix=FLAX_ROOT,
        aliases=FLAX_ALIASES,
    ),
    Layout(
        "timm",
        (
            Rule("cls_token", "encoder.class_token"),
            Rule("pos_embed", "encoder.pos_embed"),
            *pairs("patch_embed.proj", "patch_embed"),
            *(
                rule
                for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
                for rule in pairs(f"blocks.{{}}.{layer}", f"encoder.blocks.{{}}.{layer}")
            ),
            *pairs("norm", "encoder.norm"),
            *pairs("pre_logits.fc", "pre_logits"),
            *(unused(f"head.{end}", _CLASSIFIER) for end in ("weight", "bias")),
        ),
        signature=("pos_embed", "patch_embed.proj.weight", "blocks.{}.attn.qkv.weight"),
    ),
)

Inflation = Literal["central_frame", "average", "arp"]


def init_from_image_model(
    tensors: Mapping[str, Tensor], config: ViViTConfig, *, embedding: Inflation = "central_frame"
) -> Mapped:
    """The tensors of a video model that an image ViT provides (section 3.4).

    `embedding` selects how the patch kernel is inflated to a tubelet; positions are resized to the
    frame and repeated over time; model 3 uses the attention weights for both axes. The class tokens
    of a factorized encoder and all other tensors keep the values of `init_weights`. Raises
    `LayoutError` if the tensors are not those of a ViT of the model's size.
    """
    layout = next((x for x in _IMAGE_LAYOUTS if x.recognizes(tensors)), None)
    if layout is None:
        raise LayoutError(
            "this is not an image ViT with timm's or Flax tensor names; use one that is"
        )
    image = to_vt(layout, {name: tensor.float() for name, tensor in tensors.items()})
    _check_size(image.tensors, config)
    mapped = Mapped(dropped=image.dropped, unexpected=image.unexpected)
    for name, vt in image.renamed:
        targets, why = _targets(vt, config)
        if not targets:
            mapped.dropped.append((name, why))
        for target in targets:
            mapped.renamed.append((name, target))
            mapped.tensors[target] = image.tensors[vt]
    if not config.sampled_frames:
        kernel = image.tensors["patch_embed.weight"]
        mapped.tensors["patch_embed.weight"] = inflate(kernel, config.tubelet_size[0], embedding)
    has_token = "encoder.class_token" in image.tensors
    positions = fit_positions(image.tensors["encoder.pos_embed"], has_token, config)
    mapped.tensors[f"{_encoder(config)}.pos_embed"] = positions
    return mapped


def _encoder(config: ViViTConfig) -> str:
    """Our name of the transformer that is initialized from an image model."""
    return "spatial" if config.attention == "factorized_encoder" else "encoder"


def _check_size(image: Mapping[str, Tensor], config: ViViTConfig) -> None:
    layers = count_layers(image, "encoder.blocks.{}.norm1.weight")
    patch = tuple(image["patch_embed.weight"].shape[2:])
    actual = (image["encoder.pos_embed"].shape[-1], layers, patch)
    check_image_vit(actual, (config.width, config.depth, config.tubelet_size[1:]))


# Names in the blocks of the other models -> names in model 3.
_AXIAL = {
    "norm1": ("space.norm",),
    "attn": ("space.layer", "time.layer"),
    "norm2": ("mlp.norm",),
    "mlp": ("mlp.layer",),
}


def _targets(vt: str, config: ViViTConfig) -> tuple[list[str], str]:
    """A tensor's names in the video model; the reason if there are none."""
    first, _, rest = vt.partition(".")
    if vt == "encoder.class_token" and config.attention != "joint":
        return [], "this model initializes its own class tokens, or has none"
    if vt == "encoder.class_token" and not config.class_token:
        return [], "this model has no class token"
    if first == "pre_logits" and not config.representation_size:
        return [], "this model has no layer before its classifier"
    if first != "encoder":
        return [vt], ""
    if config.attention == "factorized_self_attention" and rest.startswith("blocks."):
        blocks, number, part, end = rest.split(".", 3)
        return [f"encoder.{blocks}.{number}.{axial}.{end}" for axial in _AXIAL[part]], ""
    return [f"{_encoder(config)}.{rest}"], ""


def inflate(kernel_C3HW: Tensor, frames: int, embedding: Inflation) -> Tensor:
    """An image kernel inflated to a tubelet kernel [C,3,frames,H,W] (section 3.4).

    central_frame: the kernel in frame `frames // 2`, zeros in the others; average: the kernel
    divided by the number of frames in all of them; arp: the same weighted by approximate rank
    pooling (Bilen et al., CVPR 2016).
    """
    if embedding == "central_frame":
        weights = torch.zeros(frames)
        weights[frames // 2] = 1.0
    elif embedding == "average":
        weights = torch.full((frames,), 1.0 / frames)
    else:
        weights = rank_pooling_weights(frames) / frames
    return kernel_C3HW[:, :, None] * weights.view(-1, 1, 1)


def rank_pooling_weights(frames: int) -> Tensor:
    """2(T - k + 1) - (T + 1)(H_T - H_{k-1}) for k = 1..T, with harmonic numbers H."""
    steps = torch.arange(1, frames + 1, dtype=torch.float64)
    harmonic = (1 / steps).cumsum(0)
    before = harmonic - 1 / steps
    return (2 * (frames - steps + 1) - (frames + 1) * (harmonic[-1] - before)).float()


def fit_positions(pos_1NC: Tensor, has_token: bool, config: ViViTConfig) -> Tensor:
    """An image's square grid of positions fitted to the tokens of a clip, class token first.

    Resized bilinearly with aligned corners, then repeated over time unless frames share one table.
    """
    token_11C, grid_1NC = pos_1NC.split([int(has_token), pos_1NC.shape[1] - has_token], dim=1)
    side = math.isqrt(grid_1NC.shape[1])
    steps, rows, columns = config.grid
    if side**2 != grid_1NC.shape[1]:
        raise LayoutError(
            f"the image model's {grid_1NC.shape[1]} positions are not a square grid; use one with "
            "square images"
        )
    if (rows, columns) != (side, side):
        grid_1CHW = grid_1NC.transpose(1, 2).unflatten(2, (side, side))
        resized = F.interpolate(grid_1CHW, (rows, columns), mode="bilinear", align_corners=True)
        grid_1NC = resized.flatten(2).transpose(1, 2)
    if config.attention != "factorized_encoder":
        grid_1NC = grid_1NC.repeat(1, steps, 1)
    if not config.class_token:
        return grid_1NC
    if not has_token:
        token_11C = torch.randn(1, 1, config.width) * POSITION_STD
    return torch.cat([token_11C, grid_1NC], dim=1)
