"""`profile`: count what models cost and, if wanted, measure how fast they run on this machine.

Weights are random unless a file is named: times do not depend on them. Times are those of a whole
forward pass with the clip already on the device.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import torch

from vtcli.errors import OutOfMemoryError, UnknownModelError
from vtcli.models import get_architecture, list_architectures
from vtcli.profiling.benchmark import Benchmark
from vtcli.profiling.flops import count
from vtcli.profiling.results import (
    DecodeSpeed,
    ModelProfile,
    ProfiledModel,
    ProfileReport,
    ProfileSettings,
    VideoTiming,
)
from vtcli.runtime.device import cpu_features, resolve_device, resolve_dtype
from vtcli.runtime.progress import ProgressCallback
from vtcli.video.decode import VideoInfo, probe, read_frames
from vtcli.video.pipeline import Pipeline, plan_views
from vtcli.weights.checkpoint import open_tensors
from vtcli.weights.load import network_of
from vtcli.weights.model_config import model_config
from vtcli.weights.registry import load_registry
from vtcli.weights.repository import hub_name
from vtcli.weights.resolve import is_path, resolve

DECODE_ROUNDS = 3
DECODED_BYTES = 2**28  # of the frames that decoding is measured on, at most


def select_models(
    models: Iterable[str] = (),
    patterns: Iterable[str] = (),
    everything: bool = False,
    progress: ProgressCallback | None = None,
) -> list[ProfiledModel]:
    """The models to profile, each once: names, files, shell patterns for ids, the whole registry.

    With none of these, the default model of each architecture. Raises what `find_model` raises.
    """
    registry = load_registry()
    names = list(models)
    for pattern in patterns:
        entries = registry.match(pattern)
        names += [entry.id for entry in entries] or [registry.find(pattern).id]
    if everything:
        names += registry.checkpoints
    if not names:
        names = [name for name in list_architectures() if name in registry.model_defaults]
    found = [find_model(name, progress) for name in names]
    return list({model.id: model for model in found}.values())


def find_model(name: str, progress: ProgressCallback | None = None) -> ProfiledModel:
    """The model of a name, a path to one of our files, or `hf://org/repo`.

    A name is a checkpoint id, an alias, or a published size without a checkpoint. Raises
    `UnknownModelError`, and what `resolve` raises for a file.
    """
    registry = load_registry()
    if is_path(name) or hub_name(name) is not None:
        file = resolve(name, progress, needs_classifier=False)
        card = file.card
        config: Any = network_of(card, open_tensors(file.path), file.path).config
        entry = registry.checkpoints.get(card.id)
        return ProfiledModel(card.id or name, card.arch, config, entry, card.pipeline, file)
    try:
        entry = registry.find(name)
    except UnknownModelError:
        if not any(name in get_architecture(arch).presets for arch in list_architectures()):
            raise
        architecture, config = model_config(name)
        return ProfiledModel(name, architecture.name, config)
    _, config = model_config(entry.id)
    return ProfiledModel(entry.id, entry.arch, config, entry, entry.pipeline)


def profile(
    models: Iterable[ProfiledModel | str],
    settings: ProfileSettings | None = None,
    progress: ProgressCallback | None = None,
) -> ProfileReport:
    """Count parameters and MACs of models, and measure what `settings` say.

    A batch that does not fit into memory becomes a failure of its model; the rest is still
    measured. Raises `UsageError` for a device or precision that this machine does not support,
    before anything is measured, `VideoDecodeError` for a video that cannot be read, and what
    `find_model` raises for a name.
    """
    settings = settings or ProfileSettings()
    device = resolve_device(settings.device)
    for precision in settings.precisions:
        resolve_dtype(precision, device)
    chosen = [find_model(model) if isinstance(model, str) else model for model in models]
    report = ProfileReport(machine=_machine(device))
    info = None
    if settings.video is not None:
        info = probe(settings.video)
        report.decoding = measure_decoding(info)
    for number, model in enumerate(chosen, start=1):
        result = ModelProfile(model, count(model.arch, model.config))
        if settings.timed:
            for precision in settings.precisions:
                _time(result, precision, device, settings)
            if info is not None and model.pipeline is not None:
                _time_video(result, info, model.pipeline)
        report.profiles.append(result)
        if progress is not None:
            progress(model.id, number, len(chosen))
    return report


def _time(
    result: ModelProfile, precision: str, device: torch.device, settings: ProfileSettings
) -> None:
    """Add the timings of one precision, and the failures of batches that do not fit."""
    model = result.model
    build = partial(model.build, device, precision, packed=not settings.compiled)
    benchmark = Benchmark(model.id, build, result.cost, device, settings.compiled)
    for batch_size in settings.batch_sizes:
        try:
            result.timings.append(benchmark.time(batch_size, settings.blocks))
        except OutOfMemoryError as error:
            result.failures.append(error)


def _time_video(result: ModelProfile, info: VideoInfo, pipeline: Pipeline) -> None:
    """Add the time that this video takes with the protocol's views, for every timing there is."""
    decode = median(_decode_seconds(info, pipeline) for _ in range(DECODE_ROUNDS))
    views = pipeline.clips * pipeline.crops
    for timing in result.timings:
        compute = views / timing.clips_per_second
        factor = info.duration / (decode + compute)
        result.video_timings.append(
            VideoTiming(timing.precision, timing.batch_size, decode, compute, factor)
        )


def _decode_seconds(info: VideoInfo, pipeline: Pipeline) -> float:
    """Seconds from the file to the clips of all views, the way inference makes them."""
    from vtcli.video.views import views_from_frames

    start = perf_counter()
    info = probe(info.path)
    views = plan_views(pipeline, info.frames, info.fps)
    wanted = sorted({int(i) for view in views for i in view.frame_indices})
    frames = read_frames(info.path, wanted, info=info)
    rows = {index: row for row, index in enumerate(wanted)}
    for _ in views_from_frames(frames, rows, pipeline, views):
        pass
    return perf_counter() - start


def measure_decoding(info: VideoInfo) -> DecodeSpeed:
    """How fast a video's frames are decoded from the first one on; the median of three rounds."""
    frames = max(1, min(info.frames, DECODED_BYTES // (3 * info.width * info.height)))
    seconds = []
    for _ in range(DECODE_ROUNDS):
        start = perf_counter()
        read_frames(info.path, range(frames), info=info)
        seconds.append(perf_counter() - start)
    return DecodeSpeed(
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
