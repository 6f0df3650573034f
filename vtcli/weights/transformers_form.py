"""A ViViT of ours as a repository in transformers' form, and our card beside it.

`config.json`, `preprocessor_config.json` and `model.safetensors` are what transformers reads;
`vt.json` is our card with the digest of the tensors that it describes. Read back, the card counts
only if it describes the weights and the labels that the repository has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli.errors import DataError, UsageError
from vtcli.video.pipeline import Pipeline
from vtcli.weights.card_check import check_card
from vtcli.weights.checkpoint import (
    WEIGHTS_FILE,
    ModelCard,
    open_tensors,
    tensor_digest,
    write_checkpoint,
)
from vtcli.weights.formats.preprocessor import FILTERS
from vtcli.weights.formats.transformers_repo import CONFIG, OWN_CARD, PREPROCESSORS, Stated

if TYPE_CHECKING:
    from torch import Tensor

_LAYOUT = "hf"


def write_form(path: Path, card: ModelCard, folder: Path) -> dict[str, Path | bytes]:
    """The files of a repository for one of our files, by name; the weights are written to `folder`.

    Classes keep our order. Raises `UsageError` for a model that transformers does not have.
    """
    from vtcli.models import get_architecture
    from vtcli.models.layouts import from_vt

    architecture = get_architecture(card.arch)
    layout = architecture.layouts.get(_LAYOUT)
    if layout is None or layout.sidecar is None:
        raise UsageError(
            f"transformers has no {architecture.title}; leave --form out to push our own form"
        )
    config = architecture.read_config(card.config)
    reason = _not_in_transformers(config, card)
    if reason:
        raise UsageError(
            f"{card.id or path} {reason}, which transformers' ViViT does not have; leave --form "
            "out to push our own form"
        )
    tensors = open_tensors(path)
    write_checkpoint(folder / WEIGHTS_FILE, from_vt(layout, tensors, config), {})
    name, text = layout.sidecar(config, card.labels, card.pipeline.multi_label)
    own = {"card": json.loads(card.to_json()), "tensors_sha256": tensor_digest(tensors)}
    return {
        WEIGHTS_FILE: folder / WEIGHTS_FILE,
        name: text.encode(),
        PREPROCESSORS[0]: _json(preprocessor_table(card.pipeline)),
        OWN_CARD: _json(own),
    }


def _not_in_transformers(config: Any, card: ModelCard) -> str:
    """What of a network transformers' ViViT cannot be; "" if nothing."""
    if config.attention != "joint" or config.sampled_frames or not config.class_token:
        return "has not the joint attention over tubelets with a class token"
    if config.representation_size:
        return "has a tanh layer before its classifier"
    if len(card.heads) != 1:
        return f"has {len(card.heads)} classifiers"
    if isinstance(config.image_size, tuple):
        return "takes frames that are not square"
    return ""


def _json(table: Mapping[str, Any]) -> bytes:
    return (json.dumps(table, indent=2, ensure_ascii=False) + "\n").encode()


def preprocessor_table(pipeline: Pipeline) -> dict[str, Any]:
    """The `preprocessor_config.json` with a pipeline's pixels, for transformers' ViViT processor.

    Where `is_same_resize` says that its resizing is another one, bilinear stands for it.
    """
    mean, std = _scaled(pipeline)
    size: dict[str, int] = {"shortest_edge": pipeline.short_side}
    if pipeline.resize_to is not None:
        size = dict(zip(("height", "width"), pipeline.resize_to, strict=True))
    numbers = {name: number for number, name in FILTERS.items()}
    return {
        "image_processor_type": "VivitImageProcessor",
        "do_resize": not pipeline.keeps_size,
        "size": size,
        "resample": numbers.get(pipeline.resize, numbers["pillow_bilinear"]),
        "do_center_crop": True,
        "crop_size": {"height": pipeline.crop_size, "width": pipeline.crop_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "offset": False,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
    }


def is_same_resize(pipeline: Pipeline) -> bool:
    """Whether transformers resizes and crops frames as a pipeline does."""
    return pipeline.resize in FILTERS.values() and pipeline.crop_offset == "floor"


def _scaled(pipeline: Pipeline) -> tuple[list[float], list[float]]:
    """Mean and standard deviation, in RGB order, of gray levels divided by 255."""
    mean, std = list(pipeline.mean), list(pipeline.std)
    if pipeline.normalize in ("raw", "raw_reciprocal"):
        mean, std = [m / 255 for m in mean], [s / 255 for s in std]
    elif pipeline.normalize == "signed":  # of gray levels scaled to -1..1
        mean, std = [(m + 1) / 2 for m in mean], [s / 2 for s in std]
    if pipeline.channel_order == "bgr":
        raise UsageError(
            "its frames are BGR, which transformers' ViViT processor does not make; leave --form "
            "out to push our own form"
        )
    channels = 1 if pipeline.channel_order == "gray" else 3
    return mean[:channels], std[:channels]


# --- reading back ---------------------------------------------------------------------------------


def with_own_card(stated: Stated, found: ModelCard, tensors: Mapping[str, Tensor]) -> ModelCard:
    """The card of `vt.json` where it describes these tensors, else `found` with a warning."""
    if not stated.own_card:
        return found
    try:
        card = ModelCard.from_json(json.dumps(stated.own_card["card"]))
        check_card(card, {n: {"shape": list(t.shape)} for n, t in tensors.items()})
        if tensor_digest(tensors) != stated.own_card["tensors_sha256"]:
            raise ValueError("it is of other weights")
        if _contradicts(card, found, stated):
            raise ValueError(f"it contradicts {CONFIG}")
    except (KeyError, TypeError, ValueError, AttributeError, DataError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        source = dict(found.source)
        warning = f"warning: {OWN_CARD} is not used: {reason}"
        source["warnings"] = [*source.get("warnings", ()), warning]
        return replace(found, source=source)
    return card


def _contradicts(card: ModelCard, found: ModelCard, stated: Stated) -> bool:
    """Whether a card has another network or other classes than the rest of its repository."""
    names = {*stated.config, "num_classes"}
    own, other = ({n: _plain(c.config.get(n)) for n in names} for c in (card, found))
    other_labels = bool(stated.labels) and card.labels != stated.labels
    return card.arch != found.arch or own != other or other_labels


def _plain(value: Any) -> Any:
    """A value as JSON has it: tuples are lists."""
    return json.loads(json.dumps(value))
