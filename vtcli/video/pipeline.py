"""A test-time pipeline as data: sampling, transforms, views and the fusion of their scores.

A `Pipeline` defines everything between decoded frames and the clip a checkpoint was tested with
(pipeline sections of the four specifications); named ones are in the registry. This file imports no
torch: `views.py` follows a pipeline, `sampling.py` and `transforms.py` contain its rules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

from vtcli.errors import DataError, InputError, UsageError

SamplingName: TypeAlias = Literal[
    "uniform_segments",
    "segment_positions",
    "dense_loop_segment_centers",
    "dense_loop_endpoints",
    "dense_loop_linspace",
    "dense_clamped",
    "resampled_windows_looped",
    "uniform_linspace",
]
ResizeName: TypeAlias = Literal[
    "normalized_bilinear",
    "opencv_bilinear",
    "tensorflow_bilinear",
    "pillow_bilinear",
    "pillow_nearest",
    "pillow_bicubic",
    "pillow_lanczos",
    "pillow_box",
    "pillow_hamming",
    "torchvision_bilinear",
]
CropName: TypeAlias = Literal["ceil", "floor", "round", "ceil_of_three"]
CropOrder: TypeAlias = Literal["first_middle_last", "first_last_middle"]
NormalizeName: TypeAlias = Literal["scaled", "raw", "raw_reciprocal", "signed"]
ChannelOrder: TypeAlias = Literal["rgb", "bgr", "gray"]
ViewOrder: TypeAlias = Literal["clip_major", "crop_major"]
ViewFusion: TypeAlias = Literal["mean_prob", "sum_prob", "mean_logit", "sum_logit", "mean_sigmoid"]
MULTI_LABEL: ViewFusion = "mean_sigmoid"
"""Of a classifier whose classes do not exclude each other."""

CHOICES: Mapping[str, tuple[str, ...]] = {
    "sampling": get_args(SamplingName),
    "resize": get_args(ResizeName),
    "crop_offset": get_args(CropName),
    "crop_order": get_args(CropOrder),
    "normalize": get_args(NormalizeName),
    "channel_order": get_args(ChannelOrder),
    "view_order": get_args(ViewOrder),
    "view_fusion": get_args(ViewFusion),
}
CROP_COUNTS = (1, 3)
# Bounds that keep a hostile card or registry file from filling the memory.
LIMITS = {"frames": 4096, "crop_size": 4096, "short_side": 8192, "clips": 1000}
MAX_NUMBER = 10_000


@dataclass(frozen=True)
class Pipeline:
    """How one checkpoint is tested.

    `sampling` selects `frames` indices per clip, `stride` apart where the rule is a dense one.
    Frames are resized by `resize` to a short side of `short_side` pixels, or to the height and
    width `resize_to` whatever their aspect ratio (`keeps_size`: not at all), and cropped to
    squares of `crop_size`: one in the center, or three along the long side in `crop_order`;
    `crop_offset` is the rounding of their corners. `normalize` is the arithmetic for `mean` and
    `std`, which are in `channel_order`; "gray" stands for three equal channels. `clips` x `crops`
    is the published protocol, `view_order` the order of its views, `view_fusion` how upstream
    combines the scores of a video's views. Raises `DataError` naming an invalid field.
    """

    sampling: SamplingName
    frames: int
    resize: ResizeName
    short_side: int
    crop_size: int
    crop_offset: CropName
    normalize: NormalizeName
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    view_order: ViewOrder
    view_fusion: ViewFusion
    clips: int = 1
    crops: int = 1
    stride: int = 1
    crop_order: CropOrder = "first_middle_last"
    channel_order: ChannelOrder = "rgb"
    resize_to: tuple[int, int] | None = None
    keeps_size: bool = False

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                value = getattr(self, name)
                raise DataError(
                    f"pipeline field '{name}' is {value!r}, not one of {', '.join(known)}"
                )
        for name in ("frames", "stride", "short_side", "crop_size", "clips", "crops"):
            _require_positive(name, getattr(self, name))
        for name in ("mean", "std"):
            object.__setattr__(self, name, _three_numbers(name, getattr(self, name)))
        if 0 in self.std:
            raise DataError("pipeline field 'std' contains a zero")
        if self.resize_to is not None:
            object.__setattr__(self, "resize_to", _size("resize_to", self.resize_to))
            object.__setattr__(self, "short_side", min(self.resize_to))
        if self.crop_size > self.short_side:
            raise DataError(
                f"pipeline field 'crop_size' is {self.crop_size}, more than the short side of "
                f"{self.short_side}"
            )
        if self.crops not in CROP_COUNTS:
            raise DataError(f"pipeline field 'crops' is {self.crops}, not 1 or 3")

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Pipeline:
        """A pipeline from a TOML or JSON table; raises `DataError` for an invalid field."""
        known = {f.name: f for f in fields(cls)}
        for name in table:
            if name not in known:
                raise DataError(
                    f"pipeline has the unknown field '{name}'; known are {', '.join(known)}"
                )
        for name, field in known.items():
            if field.default is MISSING and name not in table:
                raise DataError(f"pipeline lacks the field '{name}'")
        return cls(**table)

    @property
    def multi_label(self) -> bool:
        """Whether the classes do not exclude each other."""
        return self.view_fusion == MULTI_LABEL

    def to_dict(self) -> dict[str, Any]:
        """All fields as a table for TOML or JSON, which `from_dict` reads."""
        table = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        # Runs of versions without these fields are compared with this table.
        return {k: v for k, v in table.items() if v or k not in ("resize_to", "keeps_size")}


@dataclass(frozen=True)
class View:
    """One crop of one clip: the input of one forward pass.

    `clip` and `crop` are numbers from 0 in upstream's order, `crop` of `num_crops`; `frame_indices`
    are the clip's frames in order, with repetitions in a short video.
    """

    clip: int
    crop: int
    num_crops: int
    frame_indices: tuple[int, ...]


def plan_views(
    pipeline: Pipeline,
    num_frames: int,
    fps: float,
    clips: int | None = None,
    crops: int | None = None,
) -> list[View]:
    """The views of a video of `num_frames` frames, in upstream's order.

    None for `clips` or `crops` is the published protocol; a single clip is sampled by the rule for
    one clip, a single crop is the center. Raises `UsageError` for invalid counts and `InputError`
    for a video without frames or, where the sampling rule needs it, without a frame rate.
    """
    clips = pipeline.clips if clips is None else clips
    crops = pipeline.crops if crops is None else crops
    if clips < 1 or crops not in CROP_COUNTS:
        raise UsageError(
            f"{clips}x{crops} views are not possible; use 1 or more clips and 1 or 3 crops"
        )
    if num_frames < 1:
        raise InputError("the video has no frames; it may be truncated, use a complete file")
    from vtcli.video.sampling import SAMPLERS  # NumPy, which a list of models does not need

    indices = SAMPLERS[pipeline.sampling](num_frames, pipeline.frames, pipeline.stride, clips, fps)
    if pipeline.view_order == "clip_major":
        order = [(clip, crop) for clip in range(clips) for crop in range(crops)]
    else:
        order = [(clip, crop) for crop in range(crops) for clip in range(clips)]
    return [View(clip, crop, crops, tuple(indices[clip].tolist())) for clip, crop in order]


def shown_frames(views: Sequence[View]) -> list[int]:
    """The frames that are in any of the views, in order."""
    return sorted({index for view in views for index in view.frame_indices})


@dataclass(frozen=True)
class FramesOfViews:
    """Names the frames of a video that some of its `clips` x `crops` views show: those with the
    numbers `wanted` (None: all).
    """

    pipeline: Pipeline
    clips: int
    crops: int
    wanted: tuple[int, ...] | None = None

    def __call__(self, num_frames: int, fps: float) -> list[int]:
        views = plan_views(self.pipeline, num_frames, fps, self.clips, self.crops)
        return shown_frames(views if self.wanted is None else [views[n] for n in self.wanted])


def _require_positive(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise DataError(f"pipeline field '{name}' is {value!r}, not a whole number above 0")
    if value > LIMITS.get(name, MAX_NUMBER):
        raise DataError(f"pipeline field '{name}' is {value}, more than any checkpoint uses")


def _size(name: str, value: object) -> tuple[int, int]:
    sides = tuple(value) if isinstance(value, list | tuple) else ()
    if len(sides) != 2:
        raise DataError(f"pipeline field '{name}' is {value!r}, not a height and a width")
    for side in sides:
        _require_positive(name, side)
    return sides


def _three_numbers(name: str, value: object) -> tuple[float, ...]:
    numbers = value if isinstance(value, (list, tuple)) else ()
    if len(numbers) != 3 or not all(type(n) in (int, float) and abs(n) < 1e6 for n in numbers):
        raise DataError(f"pipeline field '{name}' is {value!r}, not three numbers")
    return tuple(float(n) for n in numbers)


def parse_views(views: str | None, pipeline: Pipeline) -> tuple[int, int]:
    """Clips and crops of `--views`: CLIPSxCROPS, `paper`, or None for one center view.

    Raises `UsageError` for anything else, and for other numbers of crops than 1 and 3.
    """
    if views is None:
        return 1, 1
    if views == "paper":
        return pipeline.clips, pipeline.crops
    if views == "auto":
        raise UsageError("--views auto is for vt predict; give a number of views, such as 4x3")
    match = re.fullmatch(r"([1-9][0-9]{0,3})x([13])", views, re.ASCII)
    if match is None:
        raise UsageError(
            f"--views takes CLIPSxCROPS with 1 or 3 crops, such as 4x3, or 'paper', not '{views}'"
        )
    return int(match[1]), int(match[2])
