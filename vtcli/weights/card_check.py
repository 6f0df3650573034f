"""Check a model card against the header of its file before anything is built from it.

A card can come from anywhere: a `depths` of a billion would fill the memory before the first
comparison with the tensors. Every number has a bound, every text is printable, and no configuration
has more layers than the file has tensors.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from vtcli.runtime.fields import wrong_field

MAX_NUMBER = 100_000
MAX_TENSORS = 20_000
MAX_FRAMES = 4096
MAX_SIDE = 4096
# Of one clip: frames x height x width.
MAX_PIXELS = 1 << 28
MAX_TEXT = 20_000
_AT_LEAST_1 = (
    *("num_heads", "num_frames", "width", "depth", "depths"),
    *("patch_size", "window_size", "image_size", "tubelet_size", "temporal_kernel"),
)
_FRACTIONS = ("dropout", "global_dropout", "drop_path", "global_drop_path")
_CALIBRATION_FIELDS = ("samples", "temperature", "delta", "abstain", "coverage")
_ADAPTIVE_FIELDS = (
    *("views", "samples", "threshold", "spread", "mean_views", "agreement", "risk", "delta"),
)
MAX_LEVELS = 1000
# Categories and classes of Unicode. Other spaces and joiners are part of the names of classes.
_CONTROLS = ("Cc", "Cs", "Zl", "Zp")
_DIRECTIONS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
_LAYER_FIELDS = ("depth", "layers", "blocks", "stages")


def check_card(card: Any, header: Mapping[str, Any]) -> None:
    """Raise `ValueError` with what is wrong with a card for a file with this header."""
    for record in (card, *card.heads):
        values = {field.name: getattr(record, field.name) for field in fields(record)}
        if wrong := wrong_field(type(record), values):
            raise ValueError(f"its {wrong} is {values[wrong]!r:.60}, which is not of its type")
    _check_source(card.source)
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if len(tensors) > MAX_TENSORS:
        raise ValueError(f"its file has {len(tensors)} tensors, which no model has")
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
        if any(map(_is_control, text)):
            raise ValueError(f"its '{where}' has control characters")
    _check_config(card.config, len(tensors))
    _check_heads(card, tensors)
    _check_calibration(card)
    _check_adaptive_views(card)
    _check_events(card.events)
    _check_shape(card)


def _check_source(source: Mapping[str, Any]) -> None:
    """The parts of it that are printed one by one."""
    facts, warnings = source.get("facts", {}), source.get("warnings", [])
    if not isinstance(facts, Mapping) or not isinstance(warnings, list | tuple):
        raise ValueError("its source has facts or warnings that are not lists of texts")
    if not all(isinstance(text, str) for text in (*facts.values(), *warnings)):
        raise ValueError("its source has facts or warnings that are not text")


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


def _is_control(character: str) -> bool:
    """Whether a character can change what a terminal does or the direction of text."""
    if character.isprintable() or character in "\n\t":
        return False
    direction = unicodedata.bidirectional(character)
    return unicodedata.category(character) in _CONTROLS or direction in _DIRECTIONS


def _check_config(config: Mapping[str, Any], tensors: int) -> None:
    for name, value in config.items():
        numbers = list(_numbers(value))
        for number in numbers:
            if not math.isfinite(number) or abs(number) > MAX_NUMBER:
                raise ValueError(f"its {name} is {value!r:.60}, which no model has")
            if number < (name in _AT_LEAST_1) or (name in _FRACTIONS and number >= 1):
                raise ValueError(f"its {name} is {value!r:.60}, which no model has")
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
    if not isinstance(card.thresholds, Mapping) or not names >= set(card.thresholds):
        raise ValueError("its thresholds are not a table of its heads")
    for value in card.thresholds.values():
        _check_range("threshold", value, 0, 1)
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


def _check_adaptive_views(card: Any) -> None:
    """Bounds of everything that `vt eval calibrate --views` stores; {} stands for nothing."""
    entry = card.adaptive_views
    if not isinstance(entry, Mapping) or (entry and set(entry) != set(_ADAPTIVE_FIELDS)):
        raise ValueError(f"its adaptive_views do not have the fields {_ADAPTIVE_FIELDS}")
    if not entry:
        return
    views = entry["views"]
    if not isinstance(views, str) or not re.fullmatch(r"[1-9][0-9]{0,3}x[13]", views, re.ASCII):
        raise ValueError(f"its adaptive_views have the views {views!r:.60}, not CLIPSxCROPS")
    for name in ("samples", "threshold", "mean_views"):
        _check_range(name, entry[name], 0, 1e12)
    for name in ("agreement", "risk", "delta"):
        _check_range(name, entry[name], 0, 1)
    spread, total = entry["spread"], math.prod(map(int, views.split("x")))
    if not isinstance(spread, Mapping) or set(spread) != {head.name for head in card.heads}:
        raise ValueError("its adaptive_views have no spread for each of its heads")
    for values in spread.values():
        if not isinstance(values, list | tuple) or len(values) != total - 1:
            raise ValueError(f"its adaptive_views have a spread that is not of {total - 1} values")
        for value in values:
            _check_range("spread", value, 0, 1e12)


def _check_events(events: Any) -> None:
    """Bounds of the windows and of all numbers that were fitted for events."""
    if not isinstance(events, Mapping):
        raise ValueError("its events are not a table")
    if events:
        if not isinstance(events.get("rule"), Mapping):
            raise ValueError("its events have no rule")
        for name in ("window", "stride"):
            _check_range(name, events.get(name), 0.01, MAX_NUMBER)
    for number in _numbers(events):
        if not math.isfinite(number) or abs(number) > MAX_NUMBER:
            raise ValueError(f"its events have the number {number!r:.60}")


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
    elif isinstance(value, Mapping):
        yield from _numbers(list(value.values()))


def _check_heads(card: Any, tensors: Mapping[str, Any]) -> None:
    for head in card.heads:
        if not 0 < head.size <= MAX_NUMBER:
            raise ValueError(f"its head '{head.name}' has {head.size!r:.40} classes")
        if len(head.labels) != head.size:
            raise ValueError(
                f"its head '{head.name}' has {head.size} classes and {len(head.labels)} labels"
            )
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
