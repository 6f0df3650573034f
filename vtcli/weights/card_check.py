"""Check a model card against the header of its file before anything is built from it.

A card can come from anywhere: a `depths` of a billion would fill the memory before the first
comparison with the tensors. Every number has a bound, every text is printable, and no configuration
has more layers than the file has tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

MAX_NUMBER = 100_000
MAX_FRAMES = 4096
MAX_SIDE = 4096
# Of one clip: frames x height x width.
MAX_PIXELS = 1 << 28
MAX_TEXT = 20_000
_AT_LEAST_1 = (
    *("num_heads", "num_frames", "width", "depth", "depths"),
    *("patch_size", "window_size", "image_size", "tubelet_size", "temporal_kernel"),
)
_CALIBRATION_FIELDS = ("samples", "temperature", "delta", "abstain", "coverage")
MAX_LEVELS = 1000
_LAYER_FIELDS = ("depth", "layers", "blocks", "stages")


def check_card(card: Any, header: Mapping[str, Any]) -> None:
    """Raise `ValueError` with what is wrong with a card for a file with this header."""
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    for where, text in _texts(
        {"id": card.id, "notes": card.notes, "license": card.license, "dataset": card.dataset}
        | {"model": card.model, "arch": card.arch, "pretrain": card.pretrain}
        | {"metric": card.metric, "metric_source": card.metric_source}
        | {"created_with": card.created_with, "source": dict(card.source)}
        | {"config": dict(card.config), "labels": list(card.labels)}
        | {"heads": [[head.name, head.confidence] for head in card.heads]}
    ):
        if len(text) > MAX_TEXT:
            raise ValueError(f"its '{where}' has {len(text)} characters")
        if any(not c.isprintable() and c not in "\n\t" for c in text):
            raise ValueError(f"its '{where}' has control characters")
    _check_config(card.config, len(tensors))
    _check_heads(card, tensors)
    _check_calibration(card)
    _check_shape(card)


def _texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield where or "a key", str(key)
            yield from _texts(inner, where or str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, where)


def _check_config(config: Mapping[str, Any], tensors: int) -> None:
    if not isinstance(config, Mapping):
        raise ValueError("its configuration is not a table")
    for name, value in config.items():
        numbers = list(_numbers(value))
        for number in numbers:
            if not math.isfinite(number) or abs(number) > MAX_NUMBER:
                raise ValueError(f"its {name} is {value!r:.60}, which no model has")
            if number < (name in _AT_LEAST_1):
                raise ValueError(f"its {name} is {value!r:.60}, which is too small")
        if any(part in name for part in _LAYER_FIELDS) and sum(numbers) > MAX_NUMBER:
            raise ValueError(f"its {name} is {value!r:.60}, which no model has")
        if "depth" in name and name != "temporal_depth" and sum(numbers) > tensors:
            raise ValueError(f"its {name} is {value!r:.60}, but the file has {tensors} tensors")
        if name in ("temporal_depth", "temporal_layers", "local_blocks") and sum(numbers) > 1024:
            raise ValueError(f"its {name} is {value!r:.60}, which no model has")


def _check_calibration(card: Any) -> None:
    """Bounds of everything that `vt eval calibrate` stores."""
    names = {head.name for head in card.heads}
    if not isinstance(card.calibration, Mapping) or not names >= set(card.calibration):
        raise ValueError("its calibration is not a table of its heads")
    for entry in card.calibration.values():
        if not isinstance(entry, Mapping) or set(entry) != set(_CALIBRATION_FIELDS):
            raise ValueError(f"its calibration does not have the fields {_CALIBRATION_FIELDS}")
        _check_range("samples", entry["samples"], 1, 1e12)
        _check_range("temperature", entry["temperature"], 0.01, 100)
        _check_range("delta", entry["delta"], 0, 1)
        for name in ("abstain", "coverage"):
            if not isinstance(entry[name], Mapping) or len(entry[name]) > MAX_LEVELS:
                raise ValueError(f"its calibration '{name}' is not a table of levels")
            for level, value in entry[name].items():
                _check_range(f"{name} level", float(level), 0, 1)
                if value is not None or name == "coverage":
                    _check_range(name, value, -1, 1)


def _check_range(name: str, value: Any, low: float, high: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise ValueError(f"its calibration '{name}' is {value!r:.60}, not in {low:g} to {high:g}")


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        try:
            yield float(value)
        except OverflowError:
            yield math.inf
    elif isinstance(value, list | tuple):
        if len(value) > 1024:
            yield math.inf
            return
        for inner in value:
            yield from _numbers(inner)


def _check_heads(card: Any, tensors: Mapping[str, Any]) -> None:
    for head in card.heads:
        if not isinstance(head.size, int) or not 0 < head.size <= MAX_NUMBER:
            raise ValueError(f"its head '{head.name}' has {head.size!r:.40} classes")
        if head.labels and len(head.labels) != head.size:
            raise ValueError(
                f"its head '{head.name}' has {head.size} classes and {len(head.labels)} labels"
            )
        if not all(isinstance(label, str) for label in head.labels):
            raise ValueError(f"a label of its head '{head.name}' is not text")
    stored = tensors.get("head.weight")
    if isinstance(stored, Mapping) and isinstance(stored.get("shape"), list) and card.heads:
        rows, named = stored["shape"][0], sum(head.size for head in card.heads)
        if rows != named:
            raise ValueError(f"it has {named} classes, but the file's classifier {rows}")


def _check_shape(card: Any) -> None:
    size = card.config.get("image_size", card.pipeline.crop_size)
    sides = list(_numbers(size)) or [0.0]
    frames = max([*_numbers(card.config.get("num_frames", 0)), float(card.pipeline.frames)])
    side = max([*sides, float(card.pipeline.crop_size)])
    if frames > MAX_FRAMES or side > MAX_SIDE or frames * side * side > MAX_PIXELS:
        raise ValueError(
            f"its clip is {frames:.0f} frames of {side:.0f} pixels, which is too large"
        )
