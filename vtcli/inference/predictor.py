"""Predicts the action in video files: decode, crop the published views, score and fuse them.

The next file is decoded while the model works on the current one, and the first while PyTorch and
the weights are loaded; views are scored in batches of bounded size. A file that cannot be read
becomes a `Failure` in its place, and the others are predicted.

Shape legend: V views, K classes, N frames, H height, W width.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from vtcli.errors import InputError, UsageError, VideoDecodeError
from vtcli.inference.inputs import find_videos
from vtcli.inference.results import SCHEMA, Failure, PredictionResult, VideoPrediction
from vtcli.inference.scoring import score_clips, topk_per_head
from vtcli.runtime.prefetch import prefetch
from vtcli.runtime.progress import ProgressCallback
from vtcli.video.pipeline import View, parse_views, plan_views
from vtcli.weights.load import check_settings, load_resolved
from vtcli.weights.registry import named_pipeline
from vtcli.weights.resolve import lookup, resolve

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from vtcli.models.protocol import VideoModel
    from vtcli.video.decode import Backend, VideoInfo


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
    threads. decoder: `auto`, `pyav` or `decord`. label_set: the Kinetics subset that a Kinetics-710
    head is restricted to. pipeline: a pipeline of the registry instead of the checkpoint's own.
    """

    topk: int = 5
    views: str | None = None
    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    workers: int = 1
    decoder: Backend = "auto"
    label_set: str | None = None
    pipeline: str | None = None

    def __post_init__(self) -> None:
        check_settings(self.precision, self.label_set)
        for name in ("topk", "batch_size", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, not {value}")


@dataclass(frozen=True)
class _Decoded:
    """The frames [N,H,W,3] of a file's views; `row_of` is the row of each frame number."""

    info: VideoInfo
    views: list[View]
    frames: np.ndarray
    row_of: Mapping[int, int]


_DecodedOrError: TypeAlias = "_Decoded | VideoDecodeError"


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

    @property
    def net(self) -> VideoModel:
        """The network with its weights, which are loaded on first use.

        From then on `header` states the device and the precision that are used. Raises what
        `resolve` and `load_model` raise.
        """
        if self._net is None:
            self._net = self._load()
        return self._net

    def predict(self, paths: Sequence[str | Path]) -> Iterator[VideoPrediction | Failure]:
        """One outcome per file, in order, as they are computed.

        Raises what `net` raises, before the first outcome; where none of the files exists, the
        weights are not even downloaded.
        """
        names = [str(path) for path in paths]
        workers = self.settings.workers
        decoded = prefetch(self._decode, ([name] for name in names), workers, ahead=workers + 1)
        try:
            self.prepare(names)
        except BaseException:
            decoded.close()
            raise
        return self._outcomes(decoded)

    def prepare(self, paths: Sequence[str]) -> None:
        """Load the weights if any of the files exists; raises what `net` raises."""
        if any(os.path.exists(path) for path in paths):
            _ = self.net

    def _outcomes(
        self, decoded: Generator[tuple[Sequence[str], list[_DecodedOrError]], None, None]
    ) -> Iterator[VideoPrediction | Failure]:
        with closing(decoded):
            for (path,), results in decoded:
                # Popped, so that the frames are freed before the next ones are waited for.
                yield self._outcome(path, results.pop())

    def _load(self) -> VideoModel:
        from vtcli.runtime.device import precision_name, resolve_device

        device, precision = self.settings.device, self.settings.precision
        resolve_device(device)
        found = resolve(self.model, self.on_download)
        loaded = load_resolved(found, device, precision, self.settings.label_set)
        net = cast("VideoModel", loaded)
        self.header = {
            **self.header,
            "precision": precision_name(net.dtype),
            "device": str(next(net.parameters()).device),
            "dataset": net.card.dataset,
        }
        return net

    def _decode(self, path: str) -> _DecodedOrError:
        from vtcli.video.decode import probe, read_frames

        try:
            info = probe(path)
            views = plan_views(self.pipeline, info.frames, info.fps, self.clips, self.crops)
            indices = sorted({int(i) for view in views for i in view.frame_indices})
            frames = read_frames(path, indices, backend=self.settings.decoder, info=info)
        except VideoDecodeError as error:
            return error
        except InputError as error:
            return VideoDecodeError(path, "unsupported", str(error))
        return _Decoded(info, views, frames, {index: row for row, index in enumerate(indices)})

    def _outcome(self, path: str, decoded: _DecodedOrError) -> VideoPrediction | Failure:
        if isinstance(decoded, VideoDecodeError):
            return Failure(path, decoded)
        start = time.perf_counter()
        logits = self._score(decoded)
        rule, topk = self.pipeline.view_fusion, self.settings.topk
        heads = topk_per_head(logits, self.net.card.heads, rule, topk)
        seconds = time.perf_counter() - start
        return VideoPrediction(path, decoded.info, tuple(decoded.views), heads, logits, seconds)

    def _score(self, decoded: _Decoded) -> dict[str, Tensor]:
        """The logits of all views, [V,K] per head, in fp32 on the CPU."""
        from vtcli.video.views import views_from_frames

        clips = views_from_frames(decoded.frames, decoded.row_of, self.pipeline, decoded.views)
        return score_clips(self.net, clips, self.settings.batch_size)
