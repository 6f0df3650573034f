"""Configurations of ViViT (arXiv 2103.15691, section 4.1), and inferring them from shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from vtcli.errors import LayoutError, UsageError
from vtcli.models import Shapes, with_overrides

Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]
Attention = Literal[
    "joint", "factorized_encoder", "factorized_self_attention", "factorized_dot_product"
]


@dataclass(frozen=True)
class ViViTConfig:
    """One network.

    attention: models 1-4 of section 3.3, in this order.
    image_size: side of the frames, or (height, width).
    num_frames: frames of a clip.
    tubelet_size: (frames, height, width) of one token.
    sampled_frames: uniform frame sampling (section 3.2): this many frames are sampled from the clip
        and split into 2-D patches; 0: tubelets of all frames.
    temporal_depth: layers of the factorized encoder's second transformer; 0 averages the frames.
    class_token: classify a class token; False averages all tokens.
    attention_order: which attention comes first in a block of model 3.
    representation_size: width of a tanh layer before the classifier; 0: none.
    heads: names and sizes of several classifiers that share the rows of one, in order.
    num_channels: 3 for RGB, 1 for gray frames, of which clips have three equal channels.
    layer_norm_eps, activation, qkv_bias: the same in every published network; fine-tuned ones of
        transformers may differ.
    """

    attention: Attention = "joint"
    image_size: int | tuple[int, int] = 224
    num_frames: int = 32
    tubelet_size: tuple[int, int, int] = (2, 16, 16)
    sampled_frames: int = 0
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    temporal_depth: int = 4
    class_token: bool = True
    attention_order: Literal["space_time", "time_space"] = "space_time"
    representation_size: int = 0
    num_classes: int = 400
    heads: tuple[tuple[str, int], ...] = ()
    drop_path: float = 0.0
    num_channels: int = 3
    layer_norm_eps: float = 1e-6
    activation: Activation = "gelu_tanh"
    qkv_bias: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", tuple((name, int(size)) for name, size in self.heads))
        if self.heads and sum(size for _, size in self.heads) != self.num_classes:
            raise UsageError(
                f"the sizes of the heads {self.heads} do not add up to {self.num_classes} classes; "
                "correct them, or use one head (heads=())"
            )

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the frames."""
        size = self.image_size
        return size if isinstance(size, tuple) else (size, size)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens along time, height and width; what does not fill a tubelet is unused."""
        kt, kh, kw = self.tubelet_size
        height, width = self.frame_size
        return self.sampled_frames or self.num_frames // kt, height // kh, width // kw

    @property
    def used_size(self) -> tuple[int, int, int]:
        """Frames, height and width that fill tubelets."""
        (t, h, w), (kt, kh, kw) = self.grid, self.tubelet_size
        return t * kt, h * kh, w * kw


HEAD_DIM = 64  # for widths that are not published

_B = ViViTConfig()
_L = replace(_B, width=1024, depth=24, num_heads=16)
_H = replace(_B, width=1280, depth=32, num_heads=16)
_H14 = replace(_H, tubelet_size=(2, 14, 14))
_SIZES = {"b": _B, "l": _L, "h": _H14, "h16": _H}
_NUM_HEADS = {size.width: size.num_heads for size in _SIZES.values()}


def _model(attention: Attention, size: ViViTConfig, **changes: Any) -> ViViTConfig:
    """A size as one of the factorized models; only the factorized encoder has a class token."""
    token = attention == "factorized_encoder"
    return replace(size, attention=attention, class_token=token, **changes)


PRESETS: dict[str, ViViTConfig] = {
    **{f"vivit-{name}": size for name, size in _SIZES.items()},
    **{f"vivit-{name}-fe": _model("factorized_encoder", size) for name, size in _SIZES.items()},
    # The published L files have as many temporal layers as spatial ones.
    "vivit-l-fe": _model("factorized_encoder", _L, temporal_depth=24),
    **{f"vivit-{n}-fsa": _model("factorized_self_attention", s) for n, s in _SIZES.items()},
    **{f"vivit-{n}-fdp": _model("factorized_dot_product", s) for n, s in _SIZES.items()},
    "vivit-b-fe-avg": _model("factorized_encoder", _B, temporal_depth=0),
    "vivit-b-ufs8": replace(_B, tubelet_size=(1, 16, 16), sampled_frames=8),
    "vivit-nano": ViViTConfig(
        image_size=32,
        num_frames=16,
        tubelet_size=(4, 8, 8),
        width=64,
        depth=4,
        num_heads=4,
    ),
}


def published_macs(config: ViViTConfig) -> int:
    """Multiply-accumulates of one view as papers count them, from the configuration alone.

    All tokens are counted in the last layers too, even if only the class token is used.
    """
    C, hidden = config.width, round(config.mlp_ratio * config.width)
    T, rows, columns = config.grid
    S, token = rows * columns, int(config.class_token)

    def layers(depth: int, tokens: int, keys: int, attentions: int = 1) -> int:
        """`keys`: keys per query, summed over the attentions and averaged over heads."""
        linear = 4 * attentions * C * C + 2 * C * hidden
        return depth * tokens * (linear + 2 * keys * C)

    if config.attention == "factorized_encoder":
        blocks = T * layers(config.depth, token + S, token + S)
        if config.temporal_depth:
            blocks += layers(config.temporal_depth, token + T, token + T)
    elif config.attention == "joint":
        blocks = layers(config.depth, token + T * S, token + T * S)
    elif config.attention == "factorized_self_attention":
        blocks = layers(config.depth, T * S, T + S, attentions=2)
    else:
        blocks = layers(config.depth, T * S, (T + S) // 2)
    patch_embed = T * S * C * config.num_channels * math.prod(config.tubelet_size)
    representation = config.representation_size * C
    classifier = (config.representation_size or C) * config.num_classes
    return patch_embed + blocks + representation + classifier


def require_stated(shapes: Shapes, stated: Mapping[str, Any]) -> None:
    """Raise `LayoutError` if tensors of these shapes fit several networks or clips.

    `stated` are the fields that are known from elsewhere. The number of heads is in no tensor of a
    PyTorch file; the clip is in the number of positions, which is one product of frames and size.
    """
    config = infer_config(shapes, {"num_heads": 1, "image_size": 1, **stated})
    asked, options = [], []
    if "num_heads" not in stated:
        fitting = [n for n in range(1, config.width + 1) if config.width % n == 0]
        likely = [n for n in fitting if 16 <= config.width // n <= 128] or fitting
        readings = " or ".join(f"{n} of {config.width // n}" for n in likely)
        asked.append(f"the number of attention heads ({readings} channels)")
        options.append("--num-heads")
    elif config.width % config.num_heads:
        raise LayoutError(
            f"a width of {config.width} cannot be split into {config.num_heads} attention heads; "
            "correct --num-heads"
        )
    first = "spatial" if config.attention == "factorized_encoder" else "encoder"
    tokens = shapes[f"{first}.pos_embed"][1] - config.class_token
    if not {"num_frames", "image_size"} & stated.keys():
        if config.attention == "joint" or first == "encoder":
            readings = _clip_readings(tokens, config.tubelet_size)
            asked.append(f"the clip ({readings})")
            options += ["--num-frames", "--image-size"]
    elif first == "encoder":
        _require_fitting_clip(tokens, config, stated)
    if asked:
        *before, last = options
        given = f"{', '.join(before)} and {last}" if before else last
        raise LayoutError(
            f"its tensors do not show {' nor '.join(asked)}; give vt convert {given}, or -m ID"
        )


def _clip_readings(tokens: int, tubelet: tuple[int, int, int]) -> str:
    """The clips of square frames whose tubelets are as many as the tokens, largest frames first."""
    kt, kh, _ = tubelet
    sides = [side for side in range(math.isqrt(tokens), 0, -1) if tokens % side**2 == 0]
    clips = [f"{tokens // side**2 * kt} frames of {side * kh}x{side * kh}" for side in sides]
    return " or ".join(clips[:6])


def _require_fitting_clip(tokens: int, config: ViViTConfig, stated: Mapping[str, Any]) -> None:
    """Raise `LayoutError` if the stated clip does not have this number of positions."""
    kt, kh, kw = config.tubelet_size
    if "num_frames" in stated and "image_size" in stated:
        fits = math.prod(config.grid) == tokens
    elif "num_frames" in stated:
        space, rest = divmod(tokens, max(1, config.sampled_frames or stated["num_frames"] // kt))
        fits = not rest and math.isqrt(space) ** 2 == space
    else:
        fits = tokens % max(1, math.prod(config.grid[1:])) == 0
    if not fits:
        size = f" of {stated['image_size']} pixels" if "image_size" in stated else ""
        frames = f" of {stated['num_frames']} frames" if "num_frames" in stated else ""
        raise LayoutError(
            f"its {tokens} positions do not fit a clip{frames}{size} in tubelets of {kt}x{kh}x{kw}"
            f" (they fit {_clip_readings(tokens, config.tubelet_size)}); correct --num-frames and "
            "--image-size"
        )


_AXIAL_MLP = "encoder.blocks.0.mlp.layer.fc1.weight"  # in model 3 only


def infer_config(shapes: Shapes, hints: Mapping[str, Any]) -> ViViTConfig:
    """The configuration of tensors with these shapes, by our names.

    `hints` are fields that override it because shapes do not show them: num_heads if it is not the
    published one, attention_order, heads, and the clip if it is not 32 square frames. Without a
    class token models 1 and 4 have the same shapes; 4 is assumed, as published. Raises
    `LayoutError` if the shapes are not those of this architecture.
    """
    first = "spatial" if "spatial.pos_embed" in shapes else "encoder"
    try:
        width, channels, *frames, rows, columns = shapes["patch_embed.weight"]
        positions = shapes[f"{first}.pos_embed"][1]
        mlp = _AXIAL_MLP if _AXIAL_MLP in shapes else f"{first}.blocks.0.mlp.fc1.weight"
        hidden = shapes[mlp][0]
        num_classes = shapes.get("head.weight", (0,))[0] or hints["num_classes"]
    except (KeyError, ValueError, IndexError) as error:
        raise LayoutError(
            f"this is not a complete ViViT checkpoint: {error} is missing or mis-shaped"
        ) from error
    class_token = f"{first}.class_token" in shapes
    config = ViViTConfig(
        attention=_attention(shapes, class_token),
        tubelet_size=(*(frames or (1,)), rows, columns),
        width=width,
        depth=_layers(shapes, first),
        num_heads=_NUM_HEADS.get(width, max(1, width // HEAD_DIM)),
        mlp_ratio=hidden / width,
        temporal_depth=_layers(shapes, "temporal") if first == "spatial" else 4,
        class_token=class_token,
        representation_size=shapes.get("pre_logits.weight", (0,))[0],
        num_classes=num_classes,
        num_channels=channels,
        qkv_bias=_has_qkv_bias(shapes),
    )
    temporal = shapes.get("temporal.pos_embed", (1, 0))[1]
    clip = _clip(config, positions - class_token, temporal - class_token, not frames, hints)
    return with_overrides(config, {**clip, **hints})


def _attention(shapes: Shapes, class_token: bool) -> Attention:
    if "spatial.pos_embed" in shapes:
        return "factorized_encoder"
    if _AXIAL_MLP in shapes:
        return "factorized_self_attention"
    return "joint" if class_token else "factorized_dot_product"


def _has_qkv_bias(shapes: Shapes) -> bool:
    return any(name.endswith(".qkv.bias") for name in shapes)


def _layers(shapes: Shapes, encoder: str) -> int:
    return len({name.split(".")[2] for name in shapes if name.startswith(f"{encoder}.blocks.")})


def _clip(
    config: ViViTConfig, tokens: int, steps: int, sampled: bool, hints: Mapping[str, Any]
) -> dict[str, Any]:
    """The clip size for `tokens` positions; `steps`: positions along time, 0 if not known."""
    frames = hints.get("num_frames", config.num_frames)
    kt, kh, _ = config.tubelet_size
    one_table = config.attention != "factorized_encoder"
    if steps <= 0:
        _, rows, columns = config.grid
        steps = tokens // (rows * columns) if sampled and one_table else frames // kt
    steps = max(1, hints.get("sampled_frames") or steps)
    space = tokens // steps if one_table else tokens
    side = math.isqrt(space)
    if "image_size" not in hints and side**2 * (steps if one_table else 1) != tokens:
        raise LayoutError(
            f"{tokens} positions are not a square grid for {frames} frames; give num_frames and "
            "image_size of the clip"
        )
    return {
        "image_size": side * kh,
        "num_frames": frames if sampled else steps * kt,
        "sampled_frames": steps if sampled else 0,
    }
