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
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vtcli.data.clip_loader import ClipReader, Loader, Request, workers_of
from vtcli.data.samples import sample_of
from vtcli.errors import VideoDecodeError
from vtcli.inference import arrays
from vtcli.inference.adaptive import AdaptiveStream, refuse_auto_views, score_until, stop_rule
from vtcli.inference.arrays import loaded_network
from vtcli.inference.batching import make_units, slots_per_batch
from vtcli.inference.decision import Decision, DecisionRule, ThresholdRule, decision_rule
from vtcli.inference.device_batches import batches_for, resize_device
from vtcli.inference.gather import Gather, VideoScores
from vtcli.inference.loading import load_network
from vtcli.inference.results import (
    SCHEMA,
    Failure,
    VideoPrediction,
)
from vtcli.inference.scoring import (
    EMBEDDING,
    FeatureNetwork,
    default_batch_size,
    require_finite,
    score_clips,
    topk_per_head,
)
from vtcli.inference.settings import PredictSettings
from vtcli.inference.stream import ViewStream
from vtcli.runtime.prefetch import begun
from vtcli.runtime.progress import ProgressCallback
from vtcli.video.container import checked_path
from vtcli.video.decode_pool import DecodePool
from vtcli.video.frame_source import FrameSource
from vtcli.video.pipeline import parse_views
from vtcli.video.remote import is_url
from vtcli.weights.registry import named_pipeline
from vtcli.weights.resolve import lookup

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from vtcli.inference.windows import Timeline
    from vtcli.models.protocol import VideoModel


class Predictor:
    """A model that predicts the action in any number of files; its weights are loaded once.

    >>> with vtcli.Predictor("uniformerv2-nano", topk=1) as predictor:
    ...     for outcome in predictor.predict(["clip.mp4", "missing.mp4"]):
    ...         print(outcome.path, outcome.failed)
    clip.mp4 False
    missing.mp4 True

    `model` is what `load_model` takes, or a network that it returned, which keeps its device, its
    precision and its classes. `options` are fields of `PredictSettings` and replace those of
    `settings`. `on_download` is called while weights are downloaded, `on_view` with the file in
    work, the views scored of all files, and their number. Construction loads nothing: the weights
    are loaded by the first `predict`, while the first files are decoded, or by `net`. Raises
    `UnknownModelError`, `UsageError`, and `TypeError` for what is not a model.
    """

    def __init__(
        self,
        model: str | Path | nn.Module,
        settings: PredictSettings | None = None,
        *,
        on_download: ProgressCallback | None = None,
        on_view: ProgressCallback | None = None,
        **options: Any,
    ) -> None:
        self.model, self.on_download, self.on_view = model, on_download, on_view
        self.settings = replace(settings or PredictSettings(), **options)
        network = loaded_network(model)
        if network is None:
            known = lookup(cast("str | Path", model), on_download, graphs=True)
        else:
            arrays.refuse_loading_options(self.settings)
            known = network.card
        self.pipeline = named_pipeline(self.settings.pipeline, known.pipeline)
        self.stop_rule = stop_rule(known, self.settings)
        most = self.settings.views if self.stop_rule is None else self.stop_rule.views
        self.clips, self.crops = parse_views(most, self.pipeline)
        self.header: Mapping[str, Any] = {
            "schema": SCHEMA,
            "model": known.id or (str(model) if network is None else type(model).__name__),
            "dataset": known.dataset,
            "views": "auto, at most " * bool(self.stop_rule) + f"{self.clips}x{self.crops}",
            "view_fusion": self.pipeline.view_fusion,
            "precision": self.settings.precision,
            "device": self.settings.device,
        }
        self._net: VideoModel | None = None
        self._rule: DecisionRule | ThresholdRule | None = None
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
        self, paths: Sequence[str | Path], ordered: bool = True
    ) -> Generator[VideoPrediction | Failure, None, None]:
        """One outcome per file, in order, as they are computed.

        Without `ordered`, they come as soon as they are: a file that takes long to decode does not
        hold up the others. Files share batches: the scores of several are computed with one batch
        size, those of one alone are not padded to it. Raises what `net` raises, before the first
        outcome; where none of the files exists, the weights are not even downloaded.
        """
        names = arrays.checked_paths(paths)
        outcomes = self.predict_part(names, range(len(names)), ordered=ordered)
        return begun(arrays.without_numbers(outcomes))

    def predict_bytes(self, data: bytes, name: str = arrays.MEMORY_NAME) -> VideoPrediction:
        """The prediction for the bytes of one video file; `name` stands for its path.

        Raises `TypeError` for anything but bytes, `VideoDecodeError` for bytes that are not a
        video.
        """
        return arrays.succeeded(arrays.predict_bytes(self, data, name))

    def predict_frames(self, frames_THWC: NDArray[np.uint8], fps: float) -> VideoPrediction:
        """The prediction for a video in memory: RGB frames uint8 [T,H,W,3], `fps` a second.

        Raises `TypeError` for another array, `VideoDecodeError` for frames that are too small.
        """
        frames, info = arrays.checked_frames(frames_THWC, fps)
        views, clips = arrays.views_of_frames(
            frames, info.fps, self.pipeline, self.clips, self.crops
        )
        start = time.perf_counter()
        if self.stop_rule is None:
            logits = score_clips(self.net, clips, self.settings.batch_size)
        else:
            logits = score_until(self.net, clips, self.stop_rule)
            views = views[: len(next(iter(logits.values())))]
        seconds = time.perf_counter() - start
        scored = VideoScores(info, tuple(views), logits, seconds, ())
        return arrays.succeeded(self.outcome(arrays.MEMORY_NAME, scored))

    def windows(
        self, paths: Sequence[str | Path], window: float, stride: float | None = None
    ) -> Iterator[Timeline | Failure]:
        """The timeline of each file, in order: windows of `window` seconds, one every `stride`
        (None: `window`), and the segments that they make. Raises as `predict` does, and
        `UsageError` for settings that windows do not have.

        >>> with vtcli.Predictor("uniformerv2-nano") as predictor:
        ...     (timeline,) = predictor.windows(["clip.mp4"], window=0.5)
        ...     timeline.windows[0].best.label, timeline.windows[0].window.end
        ('clockwise', 0.5)
        """
        from vtcli.inference.timeline import TimelinePredictor
        from vtcli.inference.windows import check_windows

        check_windows(window, stride)
        return TimelinePredictor(self, window, stride).predict(arrays.checked_paths(paths))

    def embed(self, source: str | Path) -> Tensor:
        """The features [V,D] of the views of a video, before the classifier; fp32 on the CPU.

        Raises `VideoDecodeError`, and `UsageError` for a model without such features.
        """
        refuse_auto_views(self.settings.views, "an embedding")
        if not isinstance(source, str | Path):
            raise TypeError(f"a video is given by its path, not by {type(source).__name__}")
        with closing(self.score_part([str(source)], [0], network=FeatureNetwork)) as scored:
            ((_, outcome),) = scored
        if isinstance(outcome, VideoDecodeError):
            raise outcome
        require_finite(outcome.logits.values(), str(source))
        return outcome.logits[EMBEDDING]

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
        self,
        paths: Sequence[str],
        wanted: Collection[int],
        batch_size: int | None = None,
        ordered: bool = True,
    ) -> Generator[tuple[int, VideoPrediction | Failure], None, None]:
        """The outcomes of the `wanted` files of a list, with their numbers; `ordered` as in
        `predict`.

        With a `batch_size`, the batch and the slot of every file follow from the list alone, so
        that a score is the same whichever files are wanted. Raises as `predict` does.
        """
        scored = self.score_part(paths, wanted, batch_size, ordered=ordered)
        return begun(self._outcomes(paths, scored))

    def score_part(
        self,
        paths: Sequence[str],
        wanted: Collection[int],
        batch_size: int | None = None,
        network: Callable[[VideoModel], VideoModel] = lambda net: net,
        ordered: bool = True,
    ) -> Generator[tuple[int, VideoDecodeError | VideoScores], None, None]:
        """What `predict_part` makes predictions of: the logits of all views of the `wanted` files.

        `network` gives the network whose results are wanted from the one that is loaded.
        """
        numbers = sorted(wanted)
        loader = self._load_views(paths, numbers, ordered or self.stop_rule is not None)
        return begun(self._loaded_and_scored(paths, numbers, loader, batch_size, network))

    def _load_views(
        self, paths: Sequence[str], numbers: Sequence[int], ordered: bool = True
    ) -> Loader:
        threads = min(self.decoders.workers, len(numbers)) + 1
        requests = ([Request(sample_of(paths[n]), number=n)] for n in numbers)
        loader = Loader(self.reader(), requests, threads, self.open_source, ordered)
        loader.start()
        return loader

    def prepare(self, paths: Iterable[str]) -> None:
        """Load the weights if any of the files exists; raises what `net` raises."""
        if any(is_url(path) or os.path.exists(path) for path in paths):
            _ = self.net

    def reader(self) -> ClipReader:
        """What makes the clips of a video's views."""
        s, views = self.settings, (self.clips, self.crops)
        where = resize_device(s)
        return ClipReader(self.pipeline, *views, None, s.decoder, s.strict, where)

    def open_source(self, path: Path, *arguments: Any, **choose: Any) -> FrameSource:
        """Open a file or URL in a decoding process; a URL is opened by that process itself."""
        checked = path if is_url(path) else checked_path(path)
        return self.decoders.open(checked, *arguments, **choose)

    def auto_batch_size(self) -> int:
        """Views per forward pass: as the settings say, else as suits the model and the device."""
        p = self.pipeline
        shape = (3, p.frames, p.crop_size, p.crop_size)
        return self.settings.batch_size or default_batch_size(self.net, shape)

    def _outcomes(
        self,
        paths: Sequence[str],
        scored: Generator[tuple[int, VideoDecodeError | VideoScores], None, None],
    ) -> Generator[tuple[int, VideoPrediction | Failure] | None, None, None]:
        with closing(scored):
            yield None
            for number, scores in scored:
                yield number, self.outcome(paths[number], scores)

    def _loaded_and_scored(
        self,
        paths: Sequence[str],
        numbers: Sequence[int],
        loader: Loader,
        batch_size: int | None,
        network: Callable[[VideoModel], VideoModel],
    ) -> Generator[tuple[int, VideoDecodeError | VideoScores] | None, None, None]:
        with closing(loader):
            self.prepare([paths[number] for number in numbers])
            net = None if self._net is None else network(self._net)
            yield None
            if net is None:  # no file exists: nothing is scored
                for requests, results in loader:
                    for request, loaded in zip(requests, results, strict=True):
                        assert isinstance(loaded, VideoDecodeError)
                        yield request.number, loaded
                return
            yield from self._scored(net, paths, numbers, loader, batch_size)

    def _scored(
        self,
        net: VideoModel,
        paths: Sequence[str],
        numbers: Sequence[int],
        loader: Loader,
        batch_size: int | None,
    ) -> Iterator[tuple[int, VideoDecodeError | VideoScores]]:
        views = self.clips * self.crops
        at_once = 1 if self.stop_rule else views
        size = batch_size or min(self.auto_batch_size(), at_once * len(paths))
        alone = len(paths) == 1 and batch_size is None
        slots = None if alone else slots_per_batch(at_once, size)
        loader.ahead = size // views + 2 * loader.workers
        may_shrink = batch_size is None and self.settings.batch_size is None
        batches = batches_for(net, self.pipeline)
        if self.stop_rule:
            adaptive = AdaptiveStream(batches, loader, slots, may_shrink)
            running = adaptive.run_until(numbers, self.stop_rule)
        else:
            stream = ViewStream(batches, loader, slots, may_shrink)
            running = stream.run_all(make_units(len(paths), views, size), numbers, views)
        gather = Gather(numbers, views, loader.ordered)
        with closing(running) as events:
            for event in events:
                finished = list(gather.add(event))
                if self.on_view:
                    self.on_view(paths[gather.latest], gather.done, views * len(numbers))
                yield from finished

    def outcome(
        self, path: str, scored: VideoDecodeError | VideoScores, topk: int | None = None
    ) -> VideoPrediction | Failure:
        """What a file is predicted to show, from the logits of its views; `topk` classes per head
        in place of the settings'. Raises `DataError` where a logit is NaN or infinite.
        """
        if isinstance(scored, VideoDecodeError):
            return Failure(path, scored)
        require_finite(scored.logits.values(), path)
        rule = self.pipeline.view_fusion
        heads = topk_per_head(scored.logits, self.net.card, rule, topk or self.settings.topk)
        s, decision = scored, self.decide(scored.logits)
        return VideoPrediction(
            path, s.info, s.views, heads, s.logits, s.seconds, s.warnings, decision
        )

    def decide(self, logits: Mapping[str, Tensor]) -> Decision | None:
        """What follows from logits [V,K] of the first head; None where nothing was asked for."""
        if self._rule is None:
            return None
        return self._rule.decide(next(iter(logits.values())), self.pipeline.view_fusion)

    def _load(self) -> VideoModel:
        from vtcli.runtime.device import precision_name

        net = load_network(self.model, self.settings, self.on_download)
        self._rule = decision_rule(net.card, self.settings.abstain, self.settings.coverage)
        self.header = {
            **self.header,
            "precision": getattr(net, "precision", None) or precision_name(net.dtype),
            "device": str(next(net.parameters()).device),
            "dataset": net.card.dataset,
        }
        return net
