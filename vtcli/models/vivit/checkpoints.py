"""ViViT checkpoints: tensor names of scenic (Flax) and transformers files.

Flax stores a linear layer's kernel as [inputs, outputs], with the outputs (or inputs) of attention
split into heads. Initialization from an image ViT is in `image_init.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vtcli.errors import LayoutError
from vtcli.models.layouts import Concat, Layout, Op, Rule, pairs, unused
from vtcli.models.vivit.configs import Activation, ViViTConfig


class Transposed:
    """A linear layer's kernel [inputs, outputs]; returns a view to save memory."""

    def to_vt(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0].t()

    def from_vt(self, tensor: Tensor, config: Any) -> Sequence[Tensor]:
        return [tensor.t()]


class InputHeads:
    """The kernel [H,D,C] of the projection after attention."""

    def to_vt(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0].flatten(0, 1).t()

    def from_vt(self, tensor: Tensor, config: Any) -> Sequence[Tensor]:
        return [tensor.t().unflatten(0, (config.num_heads, -1))]


class OutputHeads:
    """Kernels [C,H,D] or biases [H,D] of query, key and value; packed into one tensor."""

    def to_vt(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.flatten(-2).t() for part in parts])

    def from_vt(self, tensor: Tensor, config: Any) -> Sequence[Tensor]:
        return [part.t().unflatten(-1, (config.num_heads, -1)) for part in tensor.chunk(3)]


class PatchKernel:
    """A convolution kernel with channels last: [kt,kh,kw,3,C] or [kh,kw,3,C]."""

    def to_vt(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0].movedim((-1, -2), (0, 1)).contiguous()

    def from_vt(self, tensor: Tensor, config: Any) -> Sequence[Tensor]:
        return [tensor.movedim((0, 1), (-1, -2))]


class JointOnly:
    """The tensor unchanged; exported only for the one model that transformers has."""

    def to_vt(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0]

    def from_vt(self, tensor: Tensor, config: Any) -> Sequence[Tensor]:
        if config.attention != "joint" or not config.class_token or config.sampled_frames:
            raise LayoutError(
                "transformers supports ViViT only with joint attention over tubelets and a class "
                "token; write this model in the layout 'scenic'"
            )
        return [tensor]


@dataclass(frozen=True)
class AliasLayout(Layout):
    """A layout whose files have alternative names for the same tensors.

    aliases: (part of a name, how the rules spell it).
    """

    aliases: tuple[tuple[str, str], ...] = ()

    def full_name(self, name: str) -> str:
        for alias, spelled in self.aliases:
            name = name.replace(alias, spelled)
        return super().full_name(name)


class FlaxLayout(AliasLayout):
    """Flax names; their shapes also show the number of attention heads."""

    def hints(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        queries = [t for name, t in tensors.items() if name.endswith("query/kernel")]
        return {"num_heads": queries[0].shape[1]} if queries else {}


FLAX_ROOT = "optimizer/target/"
TRANSPOSED = Transposed()


def _flax(upstream: str, vt: str, op: Op = TRANSPOSED) -> list[Rule]:
    """Kernel and bias of a layer."""
    kernel = Rule(f"{FLAX_ROOT}{upstream}/kernel", f"{vt}.weight", op)
    return [kernel, Rule(f"{FLAX_ROOT}{upstream}/bias", f"{vt}.bias")]


def _flax_norm(upstream: str, vt: str) -> list[Rule]:
    scale = Rule(f"{FLAX_ROOT}{upstream}/scale", f"{vt}.weight")
    return [scale, Rule(f"{FLAX_ROOT}{upstream}/bias", f"{vt}.bias")]


def _flax_attention(upstream: str, vt: str) -> list[Rule]:
    parts = [f"{FLAX_ROOT}{upstream}/{part}" for part in ("query", "key", "value")]
    return [
        Rule(tuple(f"{part}/kernel" for part in parts), f"{vt}.qkv.weight", OutputHeads()),
        Rule(tuple(f"{part}/bias" for part in parts), f"{vt}.qkv.bias", OutputHeads()),
        *_flax(f"{upstream}/out", f"{vt}.proj", InputHeads()),
    ]


def _flax_mlp(upstream: str, vt: str) -> list[Rule]:
    return [*_flax(f"{upstream}/Dense_0", f"{vt}.fc1"), *_flax(f"{upstream}/Dense_1", f"{vt}.fc2")]


def _flax_encoder(upstream: str, vt: str, class_token: str) -> list[Rule]:
    block, vt_block = f"{upstream}/encoderblock_{{}}", f"{vt}.blocks.{{}}"
    attention, vt_attention = f"{block}/MultiHeadDotProductAttention", f"{vt_block}.attn"
    return [
        Rule(f"{FLAX_ROOT}{class_token}", f"{vt}.class_token"),
        Rule(f"{FLAX_ROOT}{upstream}/posembed_input/pos_embedding", f"{vt}.pos_embed"),
        *_flax_norm(f"{block}/LayerNorm_0", f"{vt_block}.norm1"),
        *_flax_attention(f"{attention}_0", vt_attention),
        *_flax_norm(f"{block}/LayerNorm_1", f"{vt_block}.norm2"),
        *_flax_mlp(f"{block}/MlpBlock_0", f"{vt_block}.mlp"),
        # Model 3.
        *(
            rule
            for axis in ("space", "time")
            for rule in (
                *_flax_norm(f"{block}/LayerNorm_{axis}", f"{vt_block}.{axis}.norm"),
                *_flax_attention(f"{attention}_{axis}", f"{vt_block}.{axis}.layer"),
            )
        ),
        *_flax_norm(f"{block}/LayerNorm_mlp", f"{vt_block}.mlp.norm"),
        *_flax_mlp(f"{block}/MlpBlock", f"{vt_block}.mlp.layer"),
        *_flax_norm(f"{upstream}/encoder_norm", f"{vt}.norm"),
    ]


FLAX_ALIASES = (
    # Other keys under which training states store their weights.
    ("optimizer/target/", ""),
    ("opt/target/", ""),
    ("params/", ""),
    # Old versions of Flax numbered all modules of a block together.
    ("MultiHeadDotProductAttention_1/", "MultiHeadDotProductAttention_0/"),
    ("LayerNorm_2/", "LayerNorm_1/"),
    ("MlpBlock_3/", "MlpBlock_0/"),
)

SCENIC = FlaxLayout(
    "scenic",
    (
        *_flax("embedding", "patch_embed", PatchKernel()),
        *_flax_encoder("Transformer", "encoder", "cls"),
        *_flax_encoder("SpatialTransformer", "spatial", "cls_SpatialTransformer"),
        *_flax_encoder("TemporalTransformer", "temporal", "cls_TemporalTransformer"),
        *_flax("pre_logits", "pre_logits"),
        *_flax("output_projection", "head"),
    ),
    signature=(f"{FLAX_ROOT}embedding/kernel", f"{FLAX_ROOT}output_projection/kernel"),
    prefix=FLAX_ROOT,
    suffix=".msgpack",
    aliases=FLAX_ALIASES,
)

_HF = "vivit."


_HF_LAYER, _LAYER = f"{_HF}encoder.layer.{{}}.", "encoder.blocks.{}."
_PATCHES = f"{_HF}embeddings.patch_embeddings.projection"
_POOLER = "belongs to the pooler of the encoder, which classifiers do not use"


def _hf_packed(end: str) -> Rule:
    attention = f"{_HF_LAYER}attention.attention."
    names = tuple(f"{attention}{part}.{end}" for part in ("query", "key", "value"))
    return Rule(names, f"{_LAYER}attn.qkv.{end}", Concat(3))


# What the library calls each of our activations; it has more than one name for some of them.
HF_ACTIVATIONS = {"gelu_tanh": "gelu_fast", "gelu": "gelu", "quick_gelu": "quick_gelu"}


def hf_config(config: ViViTConfig, labels: Sequence[str], multi_label: bool) -> tuple[str, str]:
    """Name and text of the `config.json` that transformers reads next to the weights.

    multi_label: the classes do not exclude each other.
    """
    table = {
        "model_type": "vivit",
        "architectures": ["VivitForVideoClassification"],
        "image_size": config.image_size,
        "num_frames": config.num_frames,
        "tubelet_size": list(config.tubelet_size),
        "num_channels": config.num_channels,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": round(config.mlp_ratio * config.width),
        "hidden_act": HF_ACTIVATIONS[config.activation],
        "layer_norm_eps": config.layer_norm_eps,
        "qkv_bias": config.qkv_bias,
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
        **({"problem_type": "multi_label_classification"} if multi_label else {}),
    }
    return "config.json", json.dumps(table, indent=2, ensure_ascii=False) + "\n"


_ACTIVATIONS: dict[str, Activation] = {
    **dict.fromkeys(
        ("gelu_fast", "gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh"), "gelu_tanh"
    ),
    **dict.fromkeys(("gelu", "gelu_python"), "gelu"),
    "quick_gelu": "quick_gelu",
}
# Whole numbers that transformers' VivitConfig states: its default, and the largest that is read.
_HF_NUMBERS = {
    "num_frames": ("num_frames", 32, 4096),
    "num_attention_heads": ("num_heads", 12, 1024),
    "hidden_size": ("width", 768, 65536),
    "num_hidden_layers": ("depth", 12, 1024),
    "num_channels": ("num_channels", 3, 1024),
}


def read_hf_config(table: Mapping[str, Any]) -> dict[str, Any] | None:
    """Fields of ours that transformers' `config.json` states; None if it is of another model.

    A key that is left out has the default of its VivitConfig. Raises `LayoutError` for a value that
    cannot be, and for a network that ours is not.
    """
    if table.get("model_type") != "vivit":
        return None
    fields: dict[str, Any] = {
        field: _whole(key, table.get(key, default), most)
        for key, (field, default, most) in _HF_NUMBERS.items()
    }
    fields["image_size"] = _image_size(table.get("image_size", 224))
    tubelet = table.get("tubelet_size", [2, 16, 16])
    if not isinstance(tubelet, list) or len(tubelet) != 3:
        raise LayoutError(f"config.json: tubelet_size is {tubelet!r:.60}, not three whole numbers")
    fields["tubelet_size"] = tuple(_whole("tubelet_size", side, 4096) for side in tubelet)
    hidden = _whole("intermediate_size", table.get("intermediate_size", 3072), 1 << 20)
    fields["mlp_ratio"] = hidden / fields["width"]
    activation = table.get("hidden_act", "gelu_fast")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise LayoutError(
            f"config.json: the activation (hidden_act) is {activation!r:.60}; ViViT is supported "
            f"with {', '.join(_ACTIVATIONS)}"
        )
    fields["activation"] = _ACTIVATIONS[activation]
    epsilon = table.get("layer_norm_eps", 1e-6)
    if type(epsilon) not in (int, float) or not 0 <= epsilon < 1:
        raise LayoutError(f"config.json: layer_norm_eps is {epsilon!r}, not a number in 0..1")
    fields["layer_norm_eps"] = float(epsilon)
    fields["qkv_bias"] = table.get("qkv_bias", True)
    if not isinstance(fields["qkv_bias"], bool):
        raise LayoutError(f"config.json: qkv_bias is {fields['qkv_bias']!r}, not true or false")
    if fields["width"] % fields["num_heads"]:
        raise LayoutError(
            f"config.json: a hidden_size of {fields['width']} cannot be split into "
            f"{fields['num_heads']} attention heads"
        )
    if fields["num_channels"] not in (1, 3):
        raise LayoutError(
            f"config.json: num_channels is {fields['num_channels']}; a video has 3, or 1 as gray"
        )
    return fields


def _whole(key: str, value: object, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise LayoutError(f"config.json: {key} is {value!r:.60}, not a whole number in 1..{most}")
    return value


def _image_size(value: object) -> int | tuple[int, int]:
    """A side, or [height, width]."""
    if not isinstance(value, list):
        return _whole("image_size", value, 4096)
    sides = tuple(_whole("image_size", side, 4096) for side in value)
    if len(sides) != 2 or sides[0] != sides[1]:
        raise LayoutError(
            f"config.json: image_size is {value!r}; clips of square frames are supported"
        )
    return sides[0]


_HF_LAYOUT = AliasLayout(
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
    # Names of a model's tensors in memory, and thus in torch.save files, since transformers 5.
    aliases=(
        ("layers.", "encoder.layer."),
        ("attention.q_proj", "attention.attention.query"),
        ("attention.k_proj", "attention.attention.key"),
        ("attention.v_proj", "attention.attention.value"),
        ("attention.o_proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    ),
)

LAYOUTS: dict[str, Layout] = {"scenic": SCENIC, "hf": _HF_LAYOUT}
