"""What a model costs and how fast it runs here: `profile` counts always and times where asked.

Weights are random unless a file is named: no time here depends on them. Published and executed
multiply-accumulates (MACs) are kept apart; FLOPs = 2 x MACs. Times are those of a whole forward
pass with the clip already on the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from vtcli.errors import OutOfMemoryError, UnknownModelError
from vtcli.models import get_architecture, list_architectures
from vtcli.models.build import clip_shape, prepare_for_inference
from vtcli.profiling.benchmark import Benchmark, Timing
from vtcli.profiling.flops import Cost, count
from vtcli.runtime.device import cpu_features, resolve_device, resolve_dtype
from vtcli.runtime.progress import ProgressCallback
from vtcli.video.decode import VideoInfo, probe, read_frames
from vtcli.video.pipeline import Pipeline, plan_views
from vtcli.weights.load import create_model, load_resolved
from vtcli.weights.model_config import model_config
from vtcli.weights.registry import Checkpoint, load_registry
from vtcli.weights.resolve import LocalCheckpoint, is_path, resolve

SCHEMA = 1
CLIP_ROUNDS = 3
CLIP_BYTES = 2**28  # of decoded frames that the decode rate is measured on


@dataclass(frozen=True)
class ProfiledModel:
    """A model to be profiled, and what is published of it.

    `row` and `pipeline` are None for a size that no known checkpoint has; then a video is one view.
    `found` is the file whose weights are run, None for random ones.
    """

    id: str
    arch: str
    config: Any
    row: Checkpoint | None = None
    pipeline: Pipeline | None = None
    found: LocalCheckpoint | None = None

    @property
    def views(self) -> tuple[int, int]:
        """Clips and crops of the published protocol."""
        return (self.pipeline.clips, self.pipeline.crops) if self.pipeline else (1, 1)

    def build(self, device: torch.device, precision: str) -> Any:
        """The network in evaluation mode."""
        if self.found is not None:
            return load_resolved(self.found, str(device), precision)
        return prepare_for_inference(
            create_model(self.id), None, device, resolve_dtype(precision, device)
        )


@dataclass(frozen=True)
class Options:
    """What is measured beyond counting; `timed` False measures nothing on the device.

    blocks: cost and time by block; compiled: run through torch.compile; clip: a video whose
    decoding is measured beside the network.
    """

    device: str = "auto"
    precisions: tuple[str, ...] = ("auto",)
    batch_sizes: tuple[int, ...] = (1,)
    timed: bool = False
    blocks: bool = False
    compiled: bool = False
    clip: Path | None = None


@dataclass(frozen=True)
class Decoding:
    """A video file and how many of its frames per second are decoded, one after the other."""

    path: str
    frames: int
    fps: float
    duration: float
    width: int
    height: int
    codec: str
    decoded_fps: float


@dataclass(frozen=True)
class ClipTime:
    """Seconds to answer one video with all views of the protocol.

    read_seconds: decoding, resizing and cropping; compute_seconds: the network;
    realtime_factor: seconds of video per second of both, one after the other.
    """

    precision: str
    batch_size: int
    read_seconds: float
    compute_seconds: float
    realtime_factor: float

    @property
    def bound(self) -> str:
        """What takes longer: `decode` or `compute`."""
        return "decode" if self.read_seconds > self.compute_seconds else "compute"


@dataclass
class Profile:
    """All that was found out about one model; `failures` are batches that did not fit."""

    subject: ProfiledModel
    cost: Cost
    timings: list[Timing] = field(default_factory=list)
    clip_times: list[ClipTime] = field(default_factory=list)
    failures: list[OutOfMemoryError] = field(default_factory=list)

    @property
    def difference_percent(self) -> float | None:
        """Our MACs in published form against the printed figure; None where either is missing."""
        printed = self.subject.row.gmacs if self.subject.row else None
        if printed is None or self.cost.published_macs is None:
            return None
        return 100 * (self.cost.published_macs / (printed * 1e9) - 1)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; MACs and FLOPs are whole numbers, times are seconds, memory is in bytes."""
        subject, row = self.subject, self.subject.row
        clips, crops = subject.views
        _, frames, height, width = clip_shape(subject.config)
        return {
            "id": subject.id,
            "arch": subject.arch,
            "dataset": row.dataset if row else "",
            "clip": {"frames": frames, "height": height, "width": width},
            "views": f"{clips}x{crops}",
            "params": self.cost.params,
            "published_form": _cost_table(self.cost.published_macs, clips * crops),
            "as_executed": _cost_table(self.cost.executed_macs, clips * crops),
            "printed": {
                "params_millions": row.params if row else None,
                "gmacs_per_view": row.gmacs if row else None,
                "difference_percent": self.difference_percent,
                "source": row.cost_source if row else "",
                "note": row.cost_note if row else "",
            },
            "accuracy": {
                "top1": row.top1 if row else None,
                "metric": row.metric if row else "",
                "source": row.metric_source if row else "",
            },
            "blocks": [asdict(block) for block in self.cost.blocks],
            "timings": [timing.to_dict(clips * crops) for timing in self.timings],
            "clip_times": [{**asdict(time), "bound": time.bound} for time in self.clip_times],
            "failures": [str(failure) for failure in self.failures],
        }


@dataclass
class Report:
    """The profiles of one call, and the machine and video that their times are for."""

    machine: dict[str, Any]
    decoding: Decoding | None = None
    profiles: list[Profile] = field(default_factory=list)

    @property
    def header(self) -> dict[str, Any]:
        """JSON-able: everything but the profiles."""
        header: dict[str, Any] = {"schema": SCHEMA, "machine": self.machine}
        return header | ({"decoding": asdict(self.decoding)} if self.decoding else {})


def _cost_table(macs: int | None, views: int) -> dict[str, int | None]:
    counted = {"macs_per_view": macs, "macs_per_video": macs and macs * views}
    flops = {name.replace("macs", "flops"): n and 2 * n for name, n in counted.items()}
    return {**counted, **flops}


def choose(
    models: Iterable[str] = (),
    patterns: Iterable[str] = (),
    everything: bool = False,
    progress: ProgressCallback | None = None,
) -> list[ProfiledModel]:
    """The models asked for, each once: names, files, shell patterns on ids, the whole registry.

    With none of these, the default model of each architecture. Raises what `find` raises.
    """
    registry = load_registry()
    names = list(models)
    for pattern in patterns:
        rows = registry.match(pattern)
        names += [row.id for row in rows] or [registry.find(pattern).id]
    if everything:
        names += registry.checkpoints
    if not names:
        names = [name for name in list_architectures() if name in registry.model_defaults]
    subjects = [find(name, progress) for name in names]
    return list({subject.id: subject for subject in subjects}.values())


def find(name: str, progress: ProgressCallback | None = None) -> ProfiledModel:
    """The model of a name, a path to one of our files, or `hf://org/repo`.

    A name is an id, an alias, or a published size that has no checkpoint. Raises
    `UnknownModelError`, and what `resolve` raises for a file.
    """
    registry = load_registry()
    if is_path(name) or name.startswith("hf://"):
        found = resolve(name, progress)
        card = found.card
        config = get_architecture(card.arch).read_config(card.config)
        row = registry.checkpoints.get(card.id)
        return ProfiledModel(card.id or name, card.arch, config, row, card.pipeline, found)
    try:
        row = registry.find(name)
    except UnknownModelError:
        if not any(name in get_architecture(arch).presets for arch in list_architectures()):
            raise
        architecture, config = model_config(name)
        return ProfiledModel(name, architecture.name, config)
    _, config = model_config(row.id)
    return ProfiledModel(row.id, row.arch, config, row, row.pipeline)


def profile(
    subjects: Sequence[ProfiledModel], options: Options, progress: ProgressCallback | None = None
) -> Report:
    """Count, and measure what `options` ask for.

    A batch that does not fit into memory becomes a failure of its model and the rest go on. Raises
    `UsageError` for a device or a precision that this machine lacks, before anything is measured,
    and `VideoDecodeError` for a clip that cannot be read.
    """
    device = resolve_device(options.device)
    for precision in options.precisions:
        resolve_dtype(precision, device)
    report = Report(machine=_machine(device))
    info = None
    if options.clip is not None:
        info = probe(options.clip)
        report.decoding = measure_decoding(info)
    for number, subject in enumerate(subjects, start=1):
        result = Profile(subject, count(subject.arch, subject.config))
        if options.timed:
            for precision in options.precisions:
                _time(result, precision, device, options)
            if info is not None and subject.pipeline is not None:
                _time_clip(result, info, subject.pipeline)
        report.profiles.append(result)
        if progress is not None:
            progress(subject.id, number, len(subjects))
    return report


def _time(result: Profile, precision: str, device: torch.device, options: Options) -> None:
    """Add the timings of one precision, or the failure of the batches that do not fit."""
    subject = result.subject
    bench = Benchmark(
        subject.id, lambda: subject.build(device, precision), result.cost, device, options.compiled
    )
    for batch_size in options.batch_sizes:
        try:
            result.timings.append(bench.time(batch_size, options.blocks))
        except OutOfMemoryError as error:
            result.failures.append(error)


def _time_clip(result: Profile, info: VideoInfo, pipeline: Pipeline) -> None:
    """Add what this video would take at the protocol's views, for every timing there is."""
    reading = median(_read_seconds(info, pipeline) for _ in range(CLIP_ROUNDS))
    views = pipeline.clips * pipeline.crops
    for timing in result.timings:
        compute = views / timing.clips_per_second
        factor = info.duration / (reading + compute)
        time = ClipTime(timing.precision, timing.batch_size, reading, compute, factor)
        result.clip_times.append(time)


def _read_seconds(info: VideoInfo, pipeline: Pipeline) -> float:
    """Seconds from the file to the clips of all views, as prediction makes them."""
    from vtcli.video.views import views_from_frames

    start = perf_counter()
    again = probe(info.path)
    views = plan_views(pipeline, again.frames, again.fps)
    wanted = sorted({int(i) for view in views for i in view.frame_indices})
    frames = read_frames(info.path, wanted, info=again)
    rows = {index: row for row, index in enumerate(wanted)}
    for _ in views_from_frames(frames, rows, pipeline, views):
        pass
    return perf_counter() - start


def measure_decoding(info: VideoInfo) -> Decoding:
    """How fast a video's frames are decoded from the first one on; the median of three rounds."""
    frames = max(1, min(info.frames, CLIP_BYTES // (3 * info.width * info.height)))
    seconds = []
    for _ in range(CLIP_ROUNDS):
        start = perf_counter()
        read_frames(info.path, range(frames), info=info)
        seconds.append(perf_counter() - start)
    return Decoding(
        path=str(info.path),
        frames=info.frames,
        fps=info.fps,
        duration=info.duration,
        width=info.width,
        height=info.height,
        codec=info.codec,
        decoded_fps=frames / median(seconds),
    )


def _machine(device: torch.device) -> dict[str, Any]:
    """What the times are measured on."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = ", ".join(cpu_features()) or device.type
    return {
        "device": str(device),
        "name": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
