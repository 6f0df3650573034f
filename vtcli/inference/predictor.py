"""Predicts the action in video files: decode, crop the published views, score and fuse them.

The next file is decoded while the model works on the current one, and the first while PyTorch and
the weights are loaded; views are scored in batches of bounded size. A file that cannot be read
becomes a `Failure` in its place, and the others are predicted.

Shape legend: V views, K classes, N frames, H height, W width.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vtcli.data.clip_loader import ClipReader, Loader, Request, workers_of
from vtcli.data.samples import Sample
from vtcli.errors import UsageError, VideoDecodeError
from vtcli.inference import arrays
from vtcli.inference.batching import make_units, slots_per_batch
from vtcli.inference.decision import DecisionRule, decision_rule
from vtcli.inference.gather import Gather, VideoScores
from vtcli.inference.inputs import find_videos
from vtcli.inference.results import SCHEMA, Failure, PredictionResult, VideoPrediction
from vtcli.inference.scoring import (
    default_batch_size,
    features,
    require_finite,
    score_clips,
    topk_per_head,
)
from vtcli.inference.stream import ViewStream
from vtcli.runtime.prefetch import begun
from vtcli.runtime.progress import ProgressCallback
from vtcli.video import TIMEOUT_SECONDS
from vtcli.video.container import checked_path
from vtcli.video.decode_pool import DecodePool
from vtcli.video.frame_source import FrameSource
from vtcli.video.pipeline import parse_views
from vtcli.video.remote import is_url
from vtcli.weights.load import check_settings, load_resolved
from vtcli.weights.registry import named_pipeline
from vtcli.weights.resolve import lookup, resolve

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from vtcli.models.protocol import VideoModel
    from vtcli.video.decode import Backend


def predict(
    source: str | Path | Sequence[str | Path],
    model: str | Path = "uniformerv2-b",
    topk: int = 5,
    views: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
) -> PredictionResult:
    """Predict the action in one or several videos (files, folders or shell patterns).

    The parameters are those of `PredictSettings`. A single file that cannot be read raises
    `VideoDecodeError`; of several, each such file becomes a `Failure`. Raises what `Predictor`
    raises.
    """
    sources = [source] if isinstance(source, str | Path) else list(source)
    predictor = Predictor(
        model, PredictSettings(topk, views, device, precision, batch_size=batch_size)
    )
    paths = find_videos(sources)
    with predictor:
        outcomes = list(predictor.predict(paths))
    result = PredictionResult(
        predictor.header,
        [o for o in outcomes if isinstance(o, VideoPrediction)],
        [o for o in outcomes if isinstance(o, Failure)],
    )
    if paths == [str(source)] and result.failures:
        raise result.failures[0].error
    return result


@dataclass(frozen=True)
class PredictSettings:
    """The settings of a `Predictor`; raises `UsageError` for values that cannot be.

    topk: classes per head. views: CLIPSxCROPS, `paper` for the published protocol, None for one
    center view. device: `auto`, `cpu`, `cuda`, ... precision: `auto`, `fp32`, `bf16` or `fp16`.
    batch_size: views per forward pass, by default as many as suit the device. workers: decoding
    processes, by default one per core; 0 decodes in this process. timeout: seconds that decoding
    one file may take. decoder: `auto`, `pyav` or `decord`. label_set: the Kinetics subset that a
    Kinetics-710 head is restricted to. pipeline: a pipeline of the registry instead of the
    checkpoint's own. strict: a video that shows signs of damage is a failure. abstain, coverage:
    error rate among the answers and coverage of the sets of classes that a calibrated model
    promises (`vtcli.inference.decision`).
    """

    topk: int = 5
    views: str | None = None
    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    decoder: Backend = "auto"
    label_set: str | None = None
    pipeline: str | None = None
    timeout: float = TIMEOUT_SECONDS
    strict: bool = False
    abstain: float | None = None
    coverage: float | None = None

    def __post_init__(self) -> None:
        check_settings(self.precision, self.label_set)
        for name, least in (("topk", 1), ("batch_size", 1), ("workers", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name} must be at least {least}, not {value}")


class Predictor:
    """A model that predicts the action in any number of files; its weights are loaded once.

    >>> predictor = Predictor("uniformerv2-b", topk=1)
    >>> for outcome in predictor.predict(["a.mp4", "b.mp4"]): print(outcome.to_dict())

    `options` are fields of `PredictSettings` and replace those of `settings`. `on_download` is
    called while weights are downloaded. Construction loads nothing: the weights are loaded by the
    first `predict`, while the first files are decoded, or by `net`. Raises `UnknownModelError` and
    `UsageError`.
    """

    def __init__(
        self,
        model: str | Path,
        settings: PredictSettings | None = None,
        *,
        on_download: ProgressCallback | None = None,
        **options: Any,
    ) -> None:
        self.model, self.on_download = model, on_download
        self.settings = replace(settings or PredictSettings(), **options)
        known = lookup(model, on_download)
        self.pipeline = named_pipeline(self.settings.pipeline, known.pipeline)
        self.clips, self.crops = parse_views(self.settings.views, self.pipeline)
        self.header: Mapping[str, Any] = {
            "schema": SCHEMA,
            "model": known.id or str(model),
            "dataset": known.dataset,
            "views": f"{self.clips}x{self.crops}",
            "view_fusion": self.pipeline.view_fusion,
            "precision": self.settings.precision,
            "device": self.settings.device,
        }
        self._net: VideoModel | None = None
        self._rule: DecisionRule | None = None
        self._decoders: DecodePool | None = None
        self._lock = threading.RLock()

    @property
    def net(self) -> VideoModel:
        """The network with its weights, which are loaded on first use.

        From then on `header` states the device and the precision that are used. Raises what
        `resolve` and `load_model` raise.
        """
        with self._lock:
            if self._net is None:
                self._net = self._load()
            return self._net

    @property
    def decoders(self) -> DecodePool:
        """The processes that decode, which start with the first video."""
        with self._lock:
            if self._decoders is None:
                asked = self.settings.workers
                workers = workers_of(None, 1) if asked is None else asked
                self._decoders = DecodePool(workers, self.settings.timeout)
                weakref.finalize(self, self._decoders.close)
            return self._decoders

    def close(self) -> None:
        """End the processes that decode; they start again when they are needed."""
        with self._lock:
            if self._decoders is not None:
                self._decoders.close()
                self._decoders = None

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def predict(
        self, paths: Sequence[str | Path]
    ) -> Generator[VideoPrediction | Failure, None, None]:
        """One outcome per file, in order, as they are computed.

        Files share batches: the scores of several are computed with one batch size, those of one
        alone are not padded to it. Raises what `net` raises, before the first outcome; where none
        of the files exists, the weights are not even downloaded.
        """
        if isinstance(paths, str | Path):
            raise TypeError(f"predict takes a list of paths: predict([{str(paths)!r}])")
        names = [str(path) for path in paths]
        return begun(_without_numbers(self.predict_part(names, range(len(names)))))

    def predict_bytes(self, data: bytes, name: str = arrays.MEMORY_NAME) -> VideoPrediction:
        """The prediction for the bytes of one video file; `name` stands for its path.

        Raises `TypeError` for anything but bytes, `VideoDecodeError` for bytes that are not a
        video.
        """
        return _succeeded(arrays.predict_bytes(self, data, name))

    def predict_frames(self, frames_THWC: NDArray[np.uint8], fps: float) -> VideoPrediction:
        """The prediction for a video in memory: RGB frames uint8 [T,H,W,3], `fps` a second.

        Raises `TypeError` for another array, `VideoDecodeError` for frames that are too small.
        """
        frames, info = arrays.checked_frames(frames_THWC, fps)
        views, clips = arrays.views_of_frames(
            frames, info.fps, self.pipeline, self.clips, self.crops
        )
        start = time.perf_counter()
        logits = score_clips(self.net, clips, self.settings.batch_size)
        seconds = time.perf_counter() - start
        scored = VideoScores(info, tuple(views), logits, seconds, ())
        return _succeeded(self._outcome(arrays.MEMORY_NAME, scored))

    def embed(self, source: str | Path) -> Tensor:
        """The features [V,D] of the views of a video, before the classifier; fp32 on the CPU.

        Raises `VideoDecodeError`, and `UsageError` for a model without such features.
        """
        import torch

        if not isinstance(source, str | Path):
            raise TypeError(f"a video is given by its path, not by {type(source).__name__}")
        with closing(self._load_views([str(source)], [0])) as loader:
            ((_, (loaded,)),) = loader
            if isinstance(loaded, VideoDecodeError):
                raise loaded
            return torch.cat([features(self.net, clip[None]) for clip in loaded.clips])

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Predict a batch of a table, as `ray.data.Dataset.map_batches` gives it.

        `batch` has a column `path`, or `bytes` with the contents of video files. Returned are its
        columns (without `bytes`) and `label`, `score`, `reason` and `error`; a row that fails has
        the last two and no label.
        """
        return arrays.predict_columns(self, batch)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process loads the weights itself.
        return partial(type(self), settings=self.settings), (self.model,)

    def predict_part(
        self, paths: Sequence[str], wanted: Collection[int], batch_size: int | None = None
    ) -> Generator[tuple[int, VideoPrediction | Failure], None, None]:
        """The outcomes of the `wanted` files of a list, with their numbers, in order.

        With a `batch_size`, the batch and the slot of every file follow from the list alone, so
        that a score is the same whichever files are wanted. Raises as `predict` does.
        """
        numbers = sorted(wanted)
        loader = self._load_views(paths, numbers)
        return begun(self._outcomes(paths, numbers, loader, batch_size))

    def _load_views(self, paths: Sequence[str], numbers: Sequence[int]) -> Loader:
        # A URL stays as it is: a Path would take one of its slashes away.
        samples = [Sample(p, cast(Path, p) if is_url(p) else Path(p)) for p in paths]
        s = self.settings
        reader = ClipReader(
            self.pipeline, self.clips, self.crops, decoder=s.decoder, strict=s.strict
        )
        threads = min(self.decoders.workers, len(numbers)) + 1
        requests = ([Request(samples[number])] for number in numbers)
        loader = Loader(reader, requests, threads, self._open)
        loader.start()
        return loader

    def prepare(self, paths: Iterable[str]) -> None:
        """Load the weights if any of the files exists; raises what `net` raises."""
        if any(is_url(path) or os.path.exists(path) for path in paths):
            _ = self.net

    def _open(self, path: Path, *arguments: Any) -> FrameSource:
        # A URL is opened by the process that decodes it.
        return self.decoders.open(path if is_url(path) else checked_path(path), *arguments)

    def auto_batch_size(self) -> int:
        """Views per forward pass: as the settings say, else as suits the model and the device."""
        p = self.pipeline
        shape = (3, p.frames, p.crop_size, p.crop_size)
        return self.settings.batch_size or default_batch_size(self.net, shape)

    def _outcomes(
        self,
        paths: Sequence[str],
        numbers: Sequence[int],
        loader: Loader,
        batch_size: int | None,
    ) -> Generator[tuple[int, VideoPrediction | Failure] | None, None, None]:
        with closing(loader):
            self.prepare([paths[number] for number in numbers])
            yield None
            yield from self._scored(paths, numbers, loader, batch_size)

    def _scored(
        self,
        paths: Sequence[str],
        numbers: Sequence[int],
        loader: Loader,
        batch_size: int | None,
    ) -> Generator[tuple[int, VideoPrediction | Failure], None, None]:
        if self._net is None:  # no file exists: nothing is scored
            for number, (_, (loaded,)) in zip(numbers, loader, strict=True):
                assert isinstance(loaded, VideoDecodeError)
                yield number, Failure(paths[number], loaded)
            return
        views = self.clips * self.crops
        size = batch_size or min(self.auto_batch_size(), views * len(paths))
        units = make_units(len(paths), views, size)
        alone = len(paths) == 1 and batch_size is None
        slots = None if alone else slots_per_batch(views, size)
        loader.ahead = size // views + 2 * loader.workers
        may_shrink = batch_size is None and self.settings.batch_size is None
        stream = ViewStream(self.net, loader, slots, may_shrink)
        every_view = range(views)
        gather = Gather(numbers, views)
        with closing(stream.run(units, {number: every_view for number in numbers})) as events:
            for event in events:
                for number, scored in gather.add(event):
                    yield number, self._outcome(paths[number], scored)

    def _outcome(
        self, path: str, scored: VideoDecodeError | VideoScores
    ) -> VideoPrediction | Failure:
        if isinstance(scored, VideoDecodeError):
            return Failure(path, scored)
        require_finite(scored.logits.values(), path)
        rule, topk = self.pipeline.view_fusion, self.settings.topk
        heads = topk_per_head(scored.logits, self.net.card, rule, topk)
        first_VK = next(iter(scored.logits.values()))
        decision = None if self._rule is None else self._rule.decide(first_VK, rule)
        s = scored
        return VideoPrediction(
            path, s.info, s.views, heads, s.logits, s.seconds, s.warnings, decision
        )

    def _load(self) -> VideoModel:
        from vtcli.runtime.device import precision_name, resolve_device

        device, precision = self.settings.device, self.settings.precision
        resolve_device(device)
        found = resolve(self.model, self.on_download)
        loaded = load_resolved(found, device, precision, self.settings.label_set)
        net = cast("VideoModel", loaded)
        self._rule = decision_rule(net.card, self.settings.abstain, self.settings.coverage)
        self.header = {
            **self.header,
            "precision": precision_name(net.dtype),
            "device": str(next(net.parameters()).device),
            "dataset": net.card.dataset,
        }
        return net


def _succeeded(outcome: VideoPrediction | Failure) -> VideoPrediction:
    if isinstance(outcome, Failure):
        raise outcome.error
    return outcome


def _without_numbers(
    outcomes: Generator[tuple[int, VideoPrediction | Failure], None, None],
) -> Generator[VideoPrediction | Failure | None, None, None]:
    with closing(outcomes):
        yield None
        for _, outcome in outcomes:
            yield outcome
