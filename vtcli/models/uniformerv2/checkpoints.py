"""UniFormerV2 checkpoints: tensor names of official and mmaction2 files; initialization from CLIP.

Both upstreams store the same tensors; they differ in the names of the last norm and the classifier.
CLIP weights come with OpenAI's names (also open_clip's and timm's) or with transformers'.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vtcli.errors import LayoutError
from vtcli.models.layouts import Concat, Layout, Mapped, Rule, pairs, to_vt, unused
from vtcli.models.uniformerv2.configs import UniFormerV2Config

_BLOCK = "backbone.transformer.resblocks.{}."
_GLOBAL = "backbone.transformer.dec.{}."


def _step_counter(name: str, config: Any) -> Tensor:
    return torch.zeros((), dtype=torch.int64)


def _local_rules(number: int) -> list[Rule]:
    upstream, vt = f"{_BLOCK}lmhra{number}.pos_embed.", f"blocks.{{}}.local{number}."
    return [
        *pairs(f"{upstream}0", f"{vt}norm"),
        Rule(f"{upstream}0.running_mean", f"{vt}norm.running_mean"),
        Rule(f"{upstream}0.running_var", f"{vt}norm.running_var"),
        unused(
            f"{upstream}0.num_batches_tracked",
            "counts training steps; no output depends on it",
            _step_counter,
            like=f"{vt}norm.weight",
        ),
        *pairs(f"{upstream}1", f"{vt}down"),
        *pairs(f"{upstream}2", f"{vt}temporal"),
        *pairs(f"{upstream}3", f"{vt}up"),
    ]


def _packed(upstream: str, vt: str) -> list[Rule]:
    return [
        Rule(f"{upstream}attn.in_proj_weight", f"{vt}attn.qkv.weight"),
        Rule(f"{upstream}attn.in_proj_bias", f"{vt}attn.qkv.bias"),
    ]


def _transformer_rules(block: str) -> list[Rule]:
    """A layer of CLIP's image transformer."""
    return [
        *pairs(f"{block}ln_1", "blocks.{}.norm1"),
        *pairs(f"{block}ln_2", "blocks.{}.norm2"),
        *_packed(block, "blocks.{}."),
        *pairs(f"{block}attn.out_proj", "blocks.{}.attn.proj"),
        *pairs(f"{block}mlp.c_fc", "blocks.{}.mlp.fc1"),
        *pairs(f"{block}mlp.c_proj", "blocks.{}.mlp.fc2"),
    ]


def _embedding_rules(prefix: str) -> list[Rule]:
    return [
        Rule(f"{prefix}conv1.weight", "patch_embed.weight"),
        Rule(f"{prefix}class_embedding", "class_token"),
        Rule(f"{prefix}positional_embedding", "pos_embed"),
        *pairs(f"{prefix}ln_pre", "norm_pre"),
    ]


_SHARED = (
    *_embedding_rules("backbone."),
    *_transformer_rules(_BLOCK),
    *_local_rules(1),
    *_local_rules(2),
    Rule("backbone.transformer.temporal_cls_token", "query"),
    *pairs("backbone.transformer.dpe.{}", "global_blocks.{}.pos_conv"),
    *pairs(f"{_GLOBAL}ln_1", "global_blocks.{}.norm_q"),
    *pairs(f"{_GLOBAL}ln_2", "global_blocks.{}.norm_mlp"),
    *pairs(f"{_GLOBAL}ln_3", "global_blocks.{}.norm_kv"),
    *_packed(_GLOBAL, "global_blocks.{}."),
    *pairs(f"{_GLOBAL}attn.out_proj", "global_blocks.{}.attn.proj"),
    *pairs(f"{_GLOBAL}mlp.c_fc", "global_blocks.{}.mlp.fc1"),
    *pairs(f"{_GLOBAL}mlp.c_proj", "global_blocks.{}.mlp.fc2"),
    Rule("backbone.transformer.balance", "balance"),
)

LAYOUTS = {
    "official": Layout(
        "official",
        (
            *_SHARED,
            *pairs("backbone.transformer.proj.0", "norm"),
            *pairs("backbone.transformer.proj.2", "head"),
        ),
        signature=("backbone.transformer.temporal_cls_token", "backbone.transformer.proj.2.weight"),
        prefix="backbone.",
        suffix=".pyth",
    ),
    "mmaction2": Layout(
        "mmaction2",
        (
            *_SHARED,
            *pairs("backbone.transformer.norm", "norm"),
            *pairs("cls_head.fc_cls", "head"),
        ),
        signature=("backbone.transformer.temporal_cls_token", "backbone.transformer.norm.weight"),
        prefix="backbone.",
        wrapper_keys=("state_dict",),
    ),
}

_TEXT = "belongs to CLIP's text tower or to its shared embedding space"
_HF = "vision_model."
_HF_LAYER = f"{_HF}encoder.layers.{{}}."


def _hf_packed(end: str) -> Rule:
    names = tuple(f"{_HF_LAYER}self_attn.{part}_proj.{end}" for part in "qkv")
    return Rule(names, f"blocks.{{}}.attn.qkv.{end}", op=Concat(3))


_CLIP_LAYOUTS = (
    Layout(
        "openai",
        (
            *_embedding_rules(""),
            *_transformer_rules("transformer.resblocks.{}."),
            *(unused(name, _TEXT) for name in ("proj", "ln_post.weight", "ln_post.bias")),
        ),
        signature=("conv1.weight", "class_embedding", "transformer.resblocks.{}.ln_1.weight"),
    ),
    Layout(
        "hf",
        (
            Rule(f"{_HF}embeddings.patch_embedding.weight", "patch_embed.weight"),
            Rule(f"{_HF}embeddings.class_embedding", "class_token"),
            Rule(f"{_HF}embeddings.position_embedding.weight", "pos_embed"),
            *pairs(f"{_HF}pre_layrnorm", "norm_pre"),
            _hf_packed("weight"),
            _hf_packed("bias"),
            *pairs(f"{_HF_LAYER}self_attn.out_proj", "blocks.{}.attn.proj"),
            *pairs(f"{_HF_LAYER}layer_norm1", "blocks.{}.norm1"),
            *pairs(f"{_HF_LAYER}layer_norm2", "blocks.{}.norm2"),
            *pairs(f"{_HF_LAYER}mlp.fc1", "blocks.{}.mlp.fc1"),
            *pairs(f"{_HF_LAYER}mlp.fc2", "blocks.{}.mlp.fc2"),
            unused(f"{_HF}post_layernorm.weight", _TEXT),
            unused(f"{_HF}post_layernorm.bias", _TEXT),
            unused(f"{_HF}embeddings.position_ids", "an index that is recomputed"),
        ),
        signature=(f"{_HF}pre_layrnorm.weight",),
    ),
)


def init_from_image_model(tensors: Mapping[str, Tensor], config: UniFormerV2Config) -> Mapped:
    """The tensors of a UniFormerV2 model that CLIP's image tower provides (appendix A).

    The patch kernel becomes the middle frame of the temporal kernel, with zeros in the others; fp16
    becomes fp32. All other tensors keep the values of `init_weights`. Raises `LayoutError` if the
    tensors are not CLIP's.
    """
    file_names = _image_tower(tensors)
    layout = next((x for x in _CLIP_LAYOUTS if x.recognizes(file_names)), None)
    if layout is None:
        raise LayoutError(
            "this is not a CLIP image transformer with OpenAI's, open_clip's or transformers' "
            "tensor names; use one that is"
        )
    tower = {name: tensors[full].float() for name, full in file_names.items()}
    mapped = to_vt(layout, tower)
    mapped.renamed = [(file_names[name], vt) for name, vt in mapped.renamed]
    mapped.dropped = [(file_names[name], why) for name, why in mapped.dropped]
    mapped.dropped += [(n, _TEXT) for n in tensors.keys() - set(file_names.values())]
    kernel = mapped.tensors["patch_embed.weight"]
    mapped.tensors["patch_embed.weight"] = inflate_center(kernel, config.temporal_kernel)
    return mapped


def inflate_center(kernel_C3HW: Tensor, frames: int) -> Tensor:
    """An image kernel as the middle frame of a video kernel of zeros: -> [C,3,frames,H,W]."""
    inflated = kernel_C3HW.new_zeros(*kernel_C3HW.shape[:2], frames, *kernel_C3HW.shape[2:])
    inflated[:, :, frames // 2] = kernel_C3HW
    return inflated


def _image_tower(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The image transformer's tensors: name without prefix -> name in the file.

    A full OpenAI CLIP has its text tower under `transformer.`, the name of the layers of an
    extracted image tower; only the `visual.` prefix distinguishes them.
    """
    for prefix, strip in (("visual.", "visual."), (_HF, "")):
        tower = {n.removeprefix(strip): n for n in tensors if n.startswith(prefix)}
        if tower:
            return tower
    return {name: name for name in tensors}
