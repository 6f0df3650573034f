"""What a profile holds, as plain records that convert to JSON; nothing here renders them.

MACs and FLOPs are whole numbers, times are seconds, memory is in bytes. MACs as papers count them
and as executed have keys of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from vtcli.errors import OutOfMemoryError
from vtcli.models.build import clip_shape, prepare_for_inference
from vtcli.profiling.benchmark import Timing
from vtcli.profiling.flops import Cost
from vtcli.runtime.device import resolve_dtype
from vtcli.video.pipeline import Pipeline
from vtcli.weights.load import create_model, load_resolved, parameter_count
from vtcli.weights.registry import Checkpoint
from vtcli.weights.resolve import LocalCheckpoint

if TYPE_CHECKING:
    from vtcli.models.protocol import VideoModel

FORMAT = 2  # of the JSON document; 1 had other keys


@dataclass(frozen=True)
class ProfiledModel:
    """A model to be profiled, and what is published about it.

    `entry` and `pipeline` are None for a size without a known checkpoint; a video is then one view.
    `file` holds the weights to run, None for random ones.
    """

    id: str
    arch: str
    config: Any
    entry: Checkpoint | None = None
    pipeline: Pipeline | None = None
    file: LocalCheckpoint | None = None

    @property
    def views(self) -> tuple[int, int]:
        """Clips and crops of the published protocol."""
        return (self.pipeline.clips, self.pipeline.crops) if self.pipeline else (1, 1)

    def build(self, device: torch.device, precision: str, packed: bool = False) -> VideoModel:
        """The network in evaluation mode; `packed` as in `prepare_for_inference`."""
        if self.file is not None:
            net = load_resolved(self.file, str(device), precision, packed=packed)
            return cast("VideoModel", net)
        model = create_model(self.id)
        dtype = resolve_dtype(precision, device, parameter_count(model))
        return cast("VideoModel", prepare_for_inference(model, None, device, dtype, packed))


@dataclass(frozen=True)
class DecodeSpeed:
    """A video file, and how many of its frames are decoded per second, in order."""

    path: str
    frames: int
    fps: float
    duration: float
    width: int
    height: int
    codec: str
    decoded_fps: float


@dataclass(frozen=True)
class VideoTiming:
    """Seconds to classify one video with all views of the protocol.

    decode_seconds: decoding, resizing and cropping. compute_seconds: the network. realtime_factor:
    seconds of video per second of both, one after the other.
    """

    precision: str
    batch_size: int
    decode_seconds: float
    compute_seconds: float
    realtime_factor: float

    @property
    def bound(self) -> str:
        """What takes longer: `decode` or `compute`."""
        return "decode" if self.decode_seconds > self.compute_seconds else "compute"


@dataclass
class ModelProfile:
    """The cost and timings of one model; `failures` are batches that did not fit into memory."""

    model: ProfiledModel
    cost: Cost
    timings: list[Timing] = field(default_factory=list)
    video_timings: list[VideoTiming] = field(default_factory=list)
    failures: list[OutOfMemoryError] = field(default_factory=list)

    @property
    def difference_percent(self) -> float | None:
        """Our count of `macs_paper` relative to the reported one; None where either is missing."""
        reported = self.model.entry.gmacs if self.model.entry else None
        if reported is None or self.cost.macs_paper is None:
            return None
        return 100 * (self.cost.macs_paper / (reported * 1e9) - 1)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        model, cost = self.model, self.cost
        clips, crops = model.views
        _, frames, height, width = clip_shape(model.config)
        return {
            "id": model.id,
            "arch": model.arch,
            "dataset": model.entry.dataset if model.entry else "",
            "clip": {"frames": frames, "height": height, "width": width},
            "views": f"{clips}x{crops}",
            "params": cost.params,
            "macs_paper": _per_view_and_video(cost.macs_paper, clips * crops),
            "macs_executed": _per_view_and_video(cost.macs_executed, clips * crops),
            "flops_paper": _per_view_and_video(_flops(cost.macs_paper), clips * crops),
            "flops_executed": _per_view_and_video(_flops(cost.macs_executed), clips * crops),
            "reported": self._reported_cost(),
            "accuracy": self._reported_accuracy(),
            "blocks": [asdict(block) for block in cost.blocks],
            "timings": [timing.to_dict(clips * crops) for timing in self.timings],
            "video_timings": [{**asdict(t), "bound": t.bound} for t in self.video_timings],
            "failures": [str(failure) for failure in self.failures],
        }

    def _reported_cost(self) -> dict[str, Any]:
        entry = self.model.entry
        return {
            "params_millions": entry.params if entry else None,
            "gmacs_per_view": entry.gmacs if entry else None,
            "difference_percent": self.difference_percent,
            "source": entry.cost_source if entry else "",
            "note": entry.cost_note if entry else "",
        }

    def _reported_accuracy(self) -> dict[str, Any]:
        entry = self.model.entry
        return {
            "top1": entry.top1 if entry else None,
            "metric": entry.metric if entry else "",
            "source": entry.metric_source if entry else "",
        }


@dataclass
class ProfileReport:
    """The profiles of one call, and the machine and video that their times are for."""

    machine: Mapping[str, Any]
    decoding: DecodeSpeed | None = None
    profiles: list[ModelProfile] = field(default_factory=list)

    @property
    def header(self) -> dict[str, Any]:
        """JSON-able: everything but the profiles."""
        header: dict[str, Any] = {"format": FORMAT, "machine": self.machine}
        return header | ({"decoding": asdict(self.decoding)} if self.decoding else {})


@dataclass(frozen=True)
class ProfileSettings:
    """What is measured beyond counting; with `timed` False, nothing is run on the device.

    blocks: also time every block. compiled: run through `torch.compile`. video: a file whose
    decoding is measured too.
    """

    device: str = "auto"
    precisions: tuple[str, ...] = ("auto",)
    batch_sizes: tuple[int, ...] = (1,)
    timed: bool = False
    blocks: bool = False
    compiled: bool = False
    video: Path | None = None


def _flops(macs: int | None) -> int | None:
    return macs and 2 * macs


def _per_view_and_video(value: int | None, views: int) -> dict[str, int | None]:
    return {"per_view": value, "per_video": value and value * views}
