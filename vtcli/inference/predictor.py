"""From video files to answers: decode ahead, cut the views a checkpoint is tested with, score,
fuse.

The next file is decoded while the model works on this one, and the first while PyTorch and the
weights are loaded; views go through the network in batches of bounded size. A file that cannot be
read becomes a `Failure` in its place and the rest go on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vtcli.errors import InputError, UsageError, VideoDecodeError
from vtcli.inference.inputs import find_videos
from vtcli.inference.results import SCHEMA, Failure, PredictionResult, VideoPrediction
from vtcli.inference.scoring import score_clips, topk_per_head
from vtcli.runtime.progress import ProgressCallback
from vtcli.video.pipeline import View, parse_views, plan_views
from vtcli.weights.load import check_settings, load_resolved
from vtcli.weights.registry import named_pipeline
from vtcli.weights.resolve import lookup, resolve

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from vtcli.video.decode import VideoInfo


def predict(
    source: str | Path | Sequence[str | Path],
    model: str | Path = "uniformerv2-b",
    topk: int = 5,
    views: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
) -> PredictionResult:
    """Recognize the action in one file, or in several (folders and shell patterns too).

    `views` is CLIPSxCROPS, or `paper` for the published protocol; by default one center view. A
    single file that cannot be read raises `VideoDecodeError`; of several, each becomes a `Failure`.
    """
    sources = [source] if isinstance(source, str | Path) else list(source)
    predictor = Predictor(model, topk, views, device, precision, batch_size)
    paths = find_videos(sources)
    outcomes = list(predictor.start(paths))
    result = PredictionResult(
        predictor.header,
        [o for o in outcomes if isinstance(o, VideoPrediction)],
        [o for o in outcomes if isinstance(o, Failure)],
    )
    if paths == [str(source)] and result.failures:
        raise result.failures[0].error
    return result


@dataclass(frozen=True)
class _Decoded:
    info: VideoInfo
    views: list[View]
    frames: np.ndarray
    row_of: Mapping[int, int]


class Predictor:
    """A model that answers for any number of files.

    Making one only parses: `start` decodes the first files while the model loads, and from then on
    `header` says what the answers are made with.
    """

    def __init__(
        self,
        model: str | Path,
        topk: int = 5,
        views: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int | None = None,
        workers: int = 1,
        decoder: Literal["auto", "pyav", "decord"] = "auto",
        label_set: str | None = None,
        pipeline: str | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        self.model, self.topk, self.device, self.precision = model, topk, device, precision
        self.batch_size, self.workers, self.progress = batch_size, workers, progress
        self.decoder, self.label_set = decoder, label_set
        check_settings(precision, label_set)
        if topk < 1 or (batch_size is not None and batch_size < 1):
            raise UsageError("topk and batch_size are whole numbers above 0")
        known = lookup(model, progress)
        self.pipeline = named_pipeline(pipeline, known.pipeline)
        self.clips, self.crops = parse_views(views, self.pipeline)
        self.header: Mapping[str, Any] = {
            "schema": SCHEMA,
            "model": known.id or str(model),
            "dataset": known.dataset,
            "views": f"{self.clips}x{self.crops}",
            "view_fusion": self.pipeline.view_fusion,
            "precision": precision,
            "device": device,
        }
        self.net: Any = None

    def start(self, paths: Sequence[str]) -> Iterator[VideoPrediction | Failure]:
        """One outcome per path, in order.

        Raises what `resolve` and `load_model` raise, before the first outcome. Where no path
        exists, the model is not even fetched.
        """
        ahead = self.workers + 1
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        waiting = [pool.submit(self._decode, path) for path in paths[:ahead]]
        try:
            if any(os.path.exists(path) for path in paths):
                self._load()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return self._outcomes(paths, pool, waiting)

    def _outcomes(
        self, paths: Sequence[str], pool: ThreadPoolExecutor, waiting: list[Future[_Decoded]]
    ) -> Iterator[VideoPrediction | Failure]:
        ahead = len(waiting)
        try:
            for number, path in enumerate(paths):
                yield self._outcome(path, waiting.pop(0))
                if number + ahead < len(paths):
                    waiting.append(pool.submit(self._decode, paths[number + ahead]))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _load(self) -> None:
        from vtcli.runtime.device import precision_name, resolve_device

        resolve_device(self.device)
        found = resolve(self.model, self.progress)
        net: Any = load_resolved(found, self.device, self.precision, self.label_set)
        device = next(net.parameters()).device
        used = {"precision": precision_name(net.dtype), "device": str(device)}
        used["dataset"] = net.card.dataset
        self.net, self.header = net, {**self.header, **used}

    def _outcome(self, path: str, future: Future[_Decoded]) -> VideoPrediction | Failure:
        try:
            decoded = future.result()
        except VideoDecodeError as error:
            return Failure(path, error)
        start = time.perf_counter()
        logits = self._score(decoded)
        heads = topk_per_head(logits, self.net.card.heads, self.pipeline.view_fusion, self.topk)
        seconds = time.perf_counter() - start
        return VideoPrediction(path, decoded.info, tuple(decoded.views), heads, logits, seconds)

    def _decode(self, path: str) -> _Decoded:
        from vtcli.video.decode import probe, read_frames

        info = probe(path)
        try:
            views = plan_views(self.pipeline, info.frames, info.fps, self.clips, self.crops)
        except InputError as error:
            raise VideoDecodeError(path, "unsupported", str(error)) from error
        wanted = sorted({int(i) for view in views for i in view.frame_indices})
        frames = read_frames(path, wanted, backend=self.decoder, info=info)
        return _Decoded(info, views, frames, {index: row for row, index in enumerate(wanted)})

    def _score(self, decoded: _Decoded) -> dict[str, Tensor]:
        """Logits of all views, [V,K] per head, in fp32 on the CPU."""
        from vtcli.video.views import views_from_frames

        clips = views_from_frames(decoded.frames, decoded.row_of, self.pipeline, decoded.views)
        return score_clips(self.net, clips, self.batch_size)
