"""The pixels of a repository in transformers' form: from preprocessor_config.json to a pipeline.

An image processor resizes (Pillow), crops the center, multiplies by `rescale_factor`, subtracts 1
if `offset`, and normalizes with `image_mean` and `image_std`. It does not sample frames.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vtcli.errors import DataError
from vtcli.video.pipeline import Pipeline, ResizeName

# PIL.Image.Resampling, whose numbers the file has.
FILTERS: dict[int, ResizeName] = {
    0: "pillow_nearest",
    1: "pillow_lanczos",
    2: "pillow_bilinear",
    3: "pillow_bicubic",
    4: "pillow_box",
    5: "pillow_hamming",
}
_SHARED: dict[str, Any] = {
    "do_resize": True,
    "resample": 2,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "do_normalize": True,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
# What the processors of transformers do where the file has no such key.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "vivit": {
        **_SHARED,
        "size": {"shortest_edge": 256},
        "rescale_factor": 1 / 127.5,
        "offset": True,
    },
    "videomae": {
        **_SHARED,
        "size": {"shortest_edge": 224},
        "rescale_factor": 1 / 255,
        "offset": False,
    },
}
_OTHER = {"do_center_crop": False, "offset": False}
_TYPE_KEYS = ("image_processor_type", "video_processor_type", "feature_extractor_type")
_TYPE_ENDINGS = ("Fast", "ImageProcessor", "VideoProcessor", "FeatureExtractor")


@dataclass(frozen=True)
class Pixels:
    """A pipeline whose pixels are those of a repository, and what to tell about them."""

    pipeline: Pipeline
    text: str
    warning: str = ""


def follow_preprocessor(
    table: Mapping[str, Any], name: str, base: Pipeline, image_size: int, channels: int
) -> Pixels:
    """`base` with the pixels of the processor that `table` describes, a file called `name`.

    Raises `DataError` for a value that cannot be, and for what no pipeline of ours does.
    """
    reader = _Reader({**_defaults(table), **table}, name)
    size, crop = _sizes(reader)
    mean, std = _normalization(reader, channels)
    changes: dict[str, Any] = {"crop_offset": "floor", "normalize": "raw", "mean": mean, "std": std}
    if reader.flag("do_resize"):
        changes["resize"] = reader.filter()
    warning = ""
    if crop != image_size:
        warning = (
            f"{name} makes clips of {crop}x{crop} pixels, and the network takes "
            f"{image_size}x{image_size}: its sizes are scaled to that"
        )
        size = size and tuple(max(image_size, round(s * image_size / crop)) for s in size)
        crop = image_size
    changes |= {"crop_size": crop, "short_side": crop}
    if size is None:
        changes["keeps_size"] = True
    elif len(size) == 1:
        changes["short_side"] = size[0]
    else:
        changes["resize_to"] = size
    if size is not None and min(size) < crop:
        raise DataError(
            f"{name} cuts {crop}x{crop} pixels out of frames with a side of {min(size)}, which "
            "would be padded; correct its size and crop_size"
        )
    if channels == 1:
        changes["channel_order"] = "gray"
    try:
        pipeline = replace(base, **changes)
    except DataError as error:
        raise DataError(f"{name} gives no pixels that are possible: {error}") from error
    return Pixels(pipeline, _describe(pipeline), warning)


def _defaults(table: Mapping[str, Any]) -> dict[str, Any]:
    """What the processor named in the table does without further keys."""
    found = next((table[key] for key in _TYPE_KEYS if table.get(key)), "VivitImageProcessor")
    kind = str(found)
    for ending in _TYPE_ENDINGS:
        kind = kind.removesuffix(ending)
    return _DEFAULTS.get(kind.lower(), _OTHER)


@dataclass(frozen=True)
class _Reader:
    """Checked access to the file's keys."""

    table: Mapping[str, Any]
    name: str

    def value(self, key: str) -> Any:
        if self.table.get(key) is None:
            raise DataError(f"{self.name} does not state '{key}', and its processor is not known")
        return self.table[key]

    def flag(self, key: str) -> bool:
        value = self.value(key)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def number(self, key: str) -> float:
        value = self.value(key)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self.wrong(key, "a number")
        return float(value)

    def numbers(self, key: str, channels: int) -> tuple[float, float, float]:
        """Three numbers; one is repeated, and a gray frame has the first."""
        value = self.value(key)
        values = [value] * 3 if type(value) in (int, float) else value
        if channels == 1 and isinstance(values, list):
            if len({str(v) for v in values}) != 1:
                raise self.wrong(key, "one number for gray frames")
            values = [values[0]] * 3
        if not isinstance(values, list) or len(values) != 3:
            raise self.wrong(key, "three numbers")
        if not all(type(v) in (int, float) and math.isfinite(v) for v in values):
            raise self.wrong(key, "three numbers")
        return float(values[0]), float(values[1]), float(values[2])

    def filter(self) -> ResizeName:
        value = self.value("resample")
        if type(value) is not int or value not in FILTERS:
            raise self.wrong("resample", f"one of {', '.join(map(str, FILTERS))}")
        return FILTERS[value]

    def side(self, value: Any, key: str) -> int:
        if type(value) is not int or not 1 <= value <= 8192:
            raise self.wrong(key, "a size of 1 to 8192 pixels")
        return value

    def wrong(self, key: str, expected: str) -> DataError:
        return DataError(f"{self.name}: {key} is {self.table[key]!r}, not {expected}")


def _sizes(reader: _Reader) -> tuple[tuple[int, ...] | None, int]:
    """What is resized to, (short side,) or (height, width) or None, and the side of the crop."""
    size: tuple[int, ...] | None = None
    if reader.flag("do_resize"):
        size = _size(reader, "size", square=False)
    if reader.flag("do_center_crop"):
        crop = _size(reader, "crop_size", square=True)
    elif size is None or len(size) == 1:
        raise DataError(
            f"{reader.name} does not crop, and its resizing keeps the shape of a frame, so that no "
            "clip of the network's size results; state crop_size, or a height and width"
        )
    else:
        crop = size
    if crop[0] != crop[-1]:
        raise DataError(
            f"{reader.name} makes clips of {crop[0]}x{crop[1]} pixels (height x width); clips of "
            "square frames are supported"
        )
    return size, crop[0]


def _size(reader: _Reader, key: str, square: bool) -> tuple[int, ...]:
    """A size as transformers reads it: a number, [height, width], or a table."""
    value = reader.value(key)
    if type(value) is int:
        side = reader.side(value, key)
        return (side, side) if square else (side,)
    if isinstance(value, list) and len(value) == 2:
        return tuple(reader.side(side, key) for side in value)
    if isinstance(value, dict) and set(value) == {"shortest_edge"} and not square:
        return (reader.side(value["shortest_edge"], key),)
    if isinstance(value, dict) and set(value) == {"height", "width"}:
        return reader.side(value["height"], key), reader.side(value["width"], key)
    raise reader.wrong(key, "shortest_edge, or height and width")


def _normalization(reader: _Reader, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of gray levels that stand for rescaling and normalizing."""
    scale, offset = 1.0, 0.0
    if reader.flag("do_rescale"):
        scale = reader.number("rescale_factor")
        offset = 1.0 if reader.flag("offset") else 0.0
    elif reader.flag("offset"):
        raise DataError(f"{reader.name} has offset without do_rescale; its processor refuses that")
    mean, std = (0.0,) * 3, (1.0,) * 3
    if reader.flag("do_normalize"):
        mean = reader.numbers("image_mean", channels)
        std = reader.numbers("image_std", channels)
    if not scale or 0 in std:
        raise DataError(f"{reader.name} divides by zero: rescale_factor {scale}, image_std {std}")
    return tuple((m + offset) / scale for m in mean), tuple(s / scale for s in std)


def _describe(p: Pipeline) -> str:
    """Sizes and the range of values in a phrase."""
    filter_name = p.resize.removeprefix("pillow_")
    if p.keeps_size:
        resized = "not resized"
    elif p.resize_to is not None:
        resized = f"resized to {p.resize_to[0]}x{p.resize_to[1]} ({filter_name})"
    else:
        resized = f"short side {p.short_side} ({filter_name})"
    low = min((0 - m) / s for m, s in zip(p.mean, p.std, strict=True))
    high = max((255 - m) / s for m, s in zip(p.mean, p.std, strict=True))
    gray = ", gray" if p.channel_order == "gray" else ""
    crop = f"center crop {p.crop_size}x{p.crop_size}"
    return f"{resized}, {crop}, values {low:.4g} to {high:.4g}{gray}"
