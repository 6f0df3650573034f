"""ViViT's goldens: our configurations for them, their clips, and models with their weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.goldens import golden_dir, golden_input, load_manifest
from vtcli.models.layouts import Mapped, to_vt
from vtcli.models.vivit import ARCHITECTURE
from vtcli.models.vivit.configs import ViViTConfig

GOLDEN = golden_dir("vivit")
TINY = sorted(p.stem for p in GOLDEN.glob("tiny_*.json"))
ROOT = "optimizer/target/"
ATTENTION = {
    "spacetime": "joint",
    "factorized_encoder": "factorized_encoder",
    "factorized_self_attention_block": "factorized_self_attention",
    "factorized_dot_product_attention": "factorized_dot_product",
}


def config_of(manifest: Mapping[str, Any]) -> ViViTConfig:
    """Our configuration for upstream's."""
    upstream = manifest["config"]
    if manifest["layout"] == "hf":
        return ViViTConfig(
            image_size=upstream["image_size"],
            num_frames=upstream["num_frames"],
            tubelet_size=tuple(upstream["tubelet_size"]),
            width=upstream["hidden_size"],
            depth=upstream["num_hidden_layers"],
            num_heads=upstream["num_attention_heads"],
            mlp_ratio=upstream["intermediate_size"] / upstream["hidden_size"],
            num_classes=upstream["num_labels"],
        )
    upstream = upstream["model"]
    attention, width = upstream["attention_config"], upstream["hidden_size"]
    first = upstream.get("spatial_transformer", upstream)
    temporal_depth = upstream.get("temporal_transformer", {"num_layers": 4})["num_layers"]
    rows, columns, *frames = upstream["patches"]["size"]
    _, clip_frames, height, clip_width, _ = manifest["input"]["shape"]
    extra = manifest.get("extra", {})
    return ViViTConfig(
        attention=ATTENTION[attention["type"]],
        image_size=(height, clip_width),
        num_frames=clip_frames,
        tubelet_size=(frames[0] if frames else 1, rows, columns),
        sampled_frames=upstream["temporal_encoding_config"].get("n_sampled_frames", 0),
        width=width,
        depth=first["num_layers"],
        num_heads=first["num_heads"],
        mlp_ratio=first["mlp_dim"] / width,
        temporal_depth=0 if attention.get("spatial_only_baseline") else temporal_depth,
        class_token=upstream["classifier"] == "token",
        attention_order=attention.get("attention_order", "space_time"),
        representation_size=upstream["representation_size"] or 0,
        num_classes=manifest["num_classes"],
        heads=tuple(zip(extra.get("split_names", ()), extra.get("class_splits", ()), strict=True)),
    )


def clip_of(manifest: Mapping[str, Any]) -> Tensor:
    clip = golden_input(manifest["input"]["shape"])
    return clip.permute(0, 4, 1, 2, 3) if manifest["layout"] == "scenic" else clip.transpose(1, 2)


def build(config: ViViTConfig, tensors: Mapping[str, Tensor]) -> Any:
    with torch.device("meta"):
        model = ARCHITECTURE.build(config)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def fresh(config: ViViTConfig) -> Any:
    with torch.device("meta"):
        model = ARCHITECTURE.build(config)
    torch.manual_seed(0)
    model.to_empty(device="cpu")
    model.init_weights()
    return model


def mapped(name: str) -> tuple[dict[str, Any], Mapped]:
    manifest, upstream = load_manifest(GOLDEN / f"{name}.json")
    return manifest, to_vt(ARCHITECTURE.layouts[manifest["layout"]], upstream)


def golden_model(name: str) -> tuple[Any, Tensor]:
    """A tiny golden's model and its clip."""
    manifest, found = mapped(name)
    return build(config_of(manifest), found.tensors), clip_of(manifest)


def together(logits: Tensor | dict[str, Tensor]) -> Tensor:
    """The logits of all heads, concatenated."""
    return torch.cat(list(logits.values()), -1) if isinstance(logits, dict) else logits


OLD_NUMBERS = {
    "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
    "LayerNorm_1": "LayerNorm_2",
    "MlpBlock_0": "MlpBlock_3",
}


def old_numbered(name: str) -> str:
    """A Flax name of the time when all modules of a block were numbered together."""
    for new, old in OLD_NUMBERS.items():
        name = name.replace(new, old)
    return name
