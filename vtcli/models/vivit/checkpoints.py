"""ViViT checkpoints: scenic's Flax and transformers' key names, and initializing from an image ViT.

Flax stores a linear layer's kernel as [inputs, outputs], with the outputs (or inputs) of attention
split into heads. Image transformers come from the same code base (also in older numbering, as flat
NumPy archives) and from timm.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vtcli.errors import LayoutError
from vtcli.models import count_layers
from vtcli.models.layouts import (
    Concat,
    Layout,
    Mapped,
    Op,
    Rule,
    check_image_vit,
    pairs,
    to_vt,
    unused,
)
from vtcli.models.vivit.configs import ViViTConfig
from vtcli.models.vivit.model import POSITION_STD


class Transposed:
    """A linear layer's kernel [inputs, outputs]; a view, so that weights are not held twice."""

    def to_vt(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0].t()

    def from_vt(self, tensor: Tensor, config: Any) -> Sequence[Tensor]:
        return [tensor.t()]


class InputHeads:
    """The kernel [H,D,C] of the layer after attention."""

    def to_vt(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0].flatten(0, 1).t()

    def from_vt(self, tensor: Tensor, config: Any) -> Sequence[Tensor]:
        return [tensor.t().unflatten(0, (config.num_heads, -1))]


class OutputHeads:
    """Kernels [C,H,D] or biases [H,D] of query, key and value, to be packed."""

    def to_vt(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.flatten(-2).t() for part in parts])

    def from_vt(self, tensor: Tensor, config: Any) -> Sequence[Tensor]:
        return [part.t().unflatten(-1, (config.num_heads, -1)) for part in tensor.chunk(3)]


class PatchKernel:
    """A convolution's kernel, its channels last: [kt,kh,kw,3,C] or [kh,kw,3,C]."""

    def to_vt(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0].movedim((-1, -2), (0, 1)).contiguous()

    def from_vt(self, tensor: Tensor, config: Any) -> Sequence[Tensor]:
        return [tensor.movedim((0, 1), (-1, -2))]


class JointOnly:
    """The tensor as it is, but written only for the one model that transformers has."""

    def to_vt(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0]

    def from_vt(self, tensor: Tensor, config: Any) -> Sequence[Tensor]:
        if config.attention != "joint" or not config.class_token or config.sampled_frames:
            raise LayoutError(
                "transformers knows ViViT only with joint attention over tubelets and a class "
                "token; write this model in the layout 'scenic'"
            )
        return [tensor]


@dataclass(frozen=True)
class DialectLayout(Layout):
    """A layout whose files also come with other names for the same things.

    dialect: pieces of a name, and what the rules call them.
    """

    dialect: tuple[tuple[str, str], ...] = ()

    def full_name(self, name: str) -> str:
        for theirs, usual in self.dialect:
            name = name.replace(theirs, usual)
        return super().full_name(name)


class FlaxLayout(DialectLayout):
    """Flax names; only here do the tensors show the number of attention heads."""

    def hints(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        queries = [t for name, t in tensors.items() if name.endswith("query/kernel")]
        return {"num_heads": queries[0].shape[1]} if queries else {}


_ROOT = "optimizer/target/"
TRANSPOSED = Transposed()


def _flax(theirs: str, ours: str, op: Op = TRANSPOSED) -> list[Rule]:
    """Kernel and bias of a layer."""
    kernel = Rule(f"{_ROOT}{theirs}/kernel", f"{ours}.weight", op)
    return [kernel, Rule(f"{_ROOT}{theirs}/bias", f"{ours}.bias")]


def _flax_norm(theirs: str, ours: str) -> list[Rule]:
    scale = Rule(f"{_ROOT}{theirs}/scale", f"{ours}.weight")
    return [scale, Rule(f"{_ROOT}{theirs}/bias", f"{ours}.bias")]


def _flax_attention(theirs: str, ours: str) -> list[Rule]:
    parts = [f"{_ROOT}{theirs}/{part}" for part in ("query", "key", "value")]
    return [
        Rule(tuple(f"{part}/kernel" for part in parts), f"{ours}.qkv.weight", OutputHeads()),
        Rule(tuple(f"{part}/bias" for part in parts), f"{ours}.qkv.bias", OutputHeads()),
        *_flax(f"{theirs}/out", f"{ours}.proj", InputHeads()),
    ]


def _flax_mlp(theirs: str, ours: str) -> list[Rule]:
    return [*_flax(f"{theirs}/Dense_0", f"{ours}.fc1"), *_flax(f"{theirs}/Dense_1", f"{ours}.fc2")]


def _flax_encoder(theirs: str, ours: str, class_token: str) -> list[Rule]:
    block, our_block = f"{theirs}/encoderblock_{{}}", f"{ours}.blocks.{{}}"
    attention, our_attention = f"{block}/MultiHeadDotProductAttention", f"{our_block}.attn"
    return [
        Rule(f"{_ROOT}{class_token}", f"{ours}.class_token"),
        Rule(f"{_ROOT}{theirs}/posembed_input/pos_embedding", f"{ours}.pos_embed"),
        *_flax_norm(f"{block}/LayerNorm_0", f"{our_block}.norm1"),
        *_flax_attention(f"{attention}_0", our_attention),
        *_flax_norm(f"{block}/LayerNorm_1", f"{our_block}.norm2"),
        *_flax_mlp(f"{block}/MlpBlock_0", f"{our_block}.mlp"),
        # Model 3.
        *(
            rule
            for axis in ("space", "time")
            for rule in (
                *_flax_norm(f"{block}/LayerNorm_{axis}", f"{our_block}.{axis}.norm"),
                *_flax_attention(f"{attention}_{axis}", f"{our_block}.{axis}.layer"),
            )
        ),
        *_flax_norm(f"{block}/LayerNorm_mlp", f"{our_block}.mlp.norm"),
        *_flax_mlp(f"{block}/MlpBlock", f"{our_block}.mlp.layer"),
        *_flax_norm(f"{theirs}/encoder_norm", f"{ours}.norm"),
    ]


_FLAX_DIALECT = (
    # Other places where training states keep their weights.
    ("optimizer/target/", ""),
    ("opt/target/", ""),
    ("params/", ""),
    # Flax once numbered all modules of a block together.
    ("MultiHeadDotProductAttention_1/", "MultiHeadDotProductAttention_0/"),
    ("LayerNorm_2/", "LayerNorm_1/"),
    ("MlpBlock_3/", "MlpBlock_0/"),
)

_SCENIC = FlaxLayout(
    "scenic",
    (
        *_flax("embedding", "patch_embed", PatchKernel()),
        *_flax_encoder("Transformer", "encoder", "cls"),
        *_flax_encoder("SpatialTransformer", "spatial", "cls_SpatialTransformer"),
        *_flax_encoder("TemporalTransformer", "temporal", "cls_TemporalTransformer"),
        *_flax("pre_logits", "pre_logits"),
        *_flax("output_projection", "head"),
    ),
    signature=(f"{_ROOT}embedding/kernel", f"{_ROOT}output_projection/kernel"),
    prefix=_ROOT,
    suffix=".msgpack",
    dialect=_FLAX_DIALECT,
)

_HF = "vivit."


_HF_LAYER, _LAYER = f"{_HF}encoder.layer.{{}}.", "encoder.blocks.{}."
_PATCHES = f"{_HF}embeddings.patch_embeddings.projection"
_POOLER = "belongs to the bare encoder's pooler, which no classifier reads"


def _hf_packed(end: str) -> Rule:
    attention = f"{_HF_LAYER}attention.attention."
    names = tuple(f"{attention}{part}.{end}" for part in ("query", "key", "value"))
    return Rule(names, f"{_LAYER}attn.qkv.{end}", Concat(3))


def hf_config(config: ViViTConfig, labels: Sequence[str]) -> tuple[str, str]:
    """The `config.json` that transformers reads beside the weights."""
    table = {
        "model_type": "vivit",
        "architectures": ["VivitForVideoClassification"],
        "image_size": config.frame_size[0],
        "num_frames": config.num_frames,
        "tubelet_size": list(config.tubelet_size),
        "num_channels": 3,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": round(config.mlp_ratio * config.width),
        "hidden_act": "gelu_fast",
        "layer_norm_eps": 1e-06,
        "qkv_bias": True,
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    return "config.json", json.dumps(table, indent=2, ensure_ascii=False) + "\n"


_HF_LAYOUT = DialectLayout(
    "hf",
    (
        Rule(f"{_HF}embeddings.cls_token", "encoder.class_token"),
        Rule(f"{_HF}embeddings.position_embeddings", "encoder.pos_embed"),
        Rule(f"{_PATCHES}.weight", "patch_embed.weight", JointOnly()),
        Rule(f"{_PATCHES}.bias", "patch_embed.bias"),
        *pairs(f"{_HF_LAYER}layernorm_before", f"{_LAYER}norm1"),
        _hf_packed("weight"),
        _hf_packed("bias"),
        *pairs(f"{_HF_LAYER}attention.output.dense", f"{_LAYER}attn.proj"),
        *pairs(f"{_HF_LAYER}layernorm_after", f"{_LAYER}norm2"),
        *pairs(f"{_HF_LAYER}intermediate.dense", f"{_LAYER}mlp.fc1"),
        *pairs(f"{_HF_LAYER}output.dense", f"{_LAYER}mlp.fc2"),
        *pairs(f"{_HF}layernorm", "encoder.norm"),
        *pairs("classifier", "head"),
        unused(f"{_HF}pooler.dense.weight", _POOLER),
        unused(f"{_HF}pooler.dense.bias", _POOLER),
    ),
    signature=(f"{_HF}embeddings.cls_token", f"{_PATCHES}.weight"),
    prefix=_HF,
    suffix=".safetensors",
    sidecar=hf_config,
    # What a model's tensors are called in memory, and by torch.save, since transformers 5.
    dialect=(
        ("layers.", "encoder.layer."),
        ("attention.q_proj", "attention.attention.query"),
        ("attention.k_proj", "attention.attention.key"),
        ("attention.v_proj", "attention.attention.value"),
        ("attention.o_proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    ),
)

LAYOUTS: dict[str, Layout] = {"scenic": _SCENIC, "hf": _HF_LAYOUT}

_CLASSIFIER = "belongs to the image classifier"

# Image transformers under the names of a joint model; their patch kernel has no time axis.
_IMAGE_LAYOUTS = (
    FlaxLayout(
        "flax-vit",
        (
            *(
                unused(f"{_ROOT}{head}/{end}", _CLASSIFIER)
                for head in ("head", "output_projection")
                for end in ("kernel", "bias")
            ),
            *_SCENIC.rules,
        ),
        signature=(f"{_ROOT}embedding/kernel", f"{_ROOT}Transformer/posembed_input/pos_embedding"),
        prefix=_ROOT,
        dialect=_FLAX_DIALECT,
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
    """An image ViT as the part of a video model that it covers (section 3.4).

    The patch kernel is spread over the tubelet as `embedding` says; positions are resized to the
    frame and repeated over time; model 3 takes the attention for both axes. A factorized encoder
    starts with class tokens of its own. What is not covered keeps the values of `init_weights`.
    Raises `LayoutError` where the tensors are not a ViT's or of another size.
    """
    layout = next((x for x in _IMAGE_LAYOUTS if x.recognizes(tensors)), None)
    if layout is None:
        raise LayoutError("this is no image ViT in timm's or in Flax key names")
    image = to_vt(layout, {name: tensor.float() for name, tensor in tensors.items()})
    _check_size(image.tensors, config)
    mapped = Mapped(dropped=image.dropped, left_over=image.left_over)
    for name, ours in image.renamed:
        targets, why = _targets(ours, config)
        if not targets:
            mapped.dropped.append((name, why))
        for target in targets:
            mapped.renamed.append((name, target))
            mapped.tensors[target] = image.tensors[ours]
    if not config.sampled_frames:
        kernel = image.tensors["patch_embed.weight"]
        mapped.tensors["patch_embed.weight"] = inflate(kernel, config.tubelet_size[0], embedding)
    has_token = "encoder.class_token" in image.tensors
    positions = fit_positions(image.tensors["encoder.pos_embed"], has_token, config)
    mapped.tensors[f"{_encoder(config)}.pos_embed"] = positions
    return mapped


def _encoder(config: ViViTConfig) -> str:
    """Our name of the transformer that an image model fills."""
    return "spatial" if config.attention == "factorized_encoder" else "encoder"


def _check_size(image: Mapping[str, Tensor], config: ViViTConfig) -> None:
    layers = count_layers(image, "encoder.blocks.{}.norm1.weight")
    patch = tuple(image["patch_embed.weight"].shape[2:])
    found = (image["encoder.pos_embed"].shape[-1], layers, patch)
    check_image_vit(found, (config.width, config.depth, config.tubelet_size[1:]))


# Where model 3 has what other models call so.
_AXIAL = {
    "norm1": ("space.norm",),
    "attn": ("space.layer", "time.layer"),
    "norm2": ("mlp.norm",),
    "mlp": ("mlp.layer",),
}


def _targets(ours: str, config: ViViTConfig) -> tuple[list[str], str]:
    """Our names in the video model for a tensor of the image model; none: with the reason."""
    first, _, rest = ours.partition(".")
    if ours == "encoder.class_token" and config.attention != "joint":
        return [], "this model starts with class tokens of its own, or has none"
    if ours == "encoder.class_token" and not config.class_token:
        return [], "this model reads no class token"
    if first == "pre_logits" and not config.representation_size:
        return [], "this model has no layer before its classifier"
    if first != "encoder":
        return [ours], ""
    if config.attention == "factorized_self_attention" and rest.startswith("blocks."):
        blocks, number, part, end = rest.split(".", 3)
        return [f"encoder.{blocks}.{number}.{axial}.{end}" for axial in _AXIAL[part]], ""
    return [f"{_encoder(config)}.{rest}"], ""


def inflate(kernel_C3HW: Tensor, frames: int, embedding: Inflation) -> Tensor:
    """An image kernel as a tubelet kernel [C,3,frames,H,W] (section 3.4).

    central_frame: all in frame `frames // 2`, zeros elsewhere; average: the same in all, divided by
    their number; arp: that weighted by approximate rank pooling (Bilen et al., CVPR 2016).
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
    """An image's square grid of positions for the tokens of a clip; the class token's comes first.

    Resized bilinearly with aligned corners, then repeated over time unless frames share one table.
    """
    token_11C, grid_1NC = pos_1NC.split([int(has_token), pos_1NC.shape[1] - has_token], dim=1)
    side = math.isqrt(grid_1NC.shape[1])
    steps, rows, columns = config.grid
    if side**2 != grid_1NC.shape[1]:
        raise LayoutError(f"the image model's {grid_1NC.shape[1]} positions are no square grid")
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
