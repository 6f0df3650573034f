"""From video files to answers: decode ahead, cut the views a checkpoint is tested with, score,
fuse.

The next file is decoded while the model works on this one, and the first while PyTorch and the
weights are loaded; views go through the network in batches of bounded size. A file that cannot be
read becomes a `Failure` in its place and the rest go on.
"""

from __future__ import annotations

import glob
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vtcli.engine.loading import Progress, check_settings, load_resolved, peek, resolve
from vtcli.engine.scoring import Answer, rank_heads, score_clips
from vtcli.errors import InputError, UsageError, VideoDecodeError
from vtcli.video.pipeline import Pipeline, View, plan_views
from vtcli.video.suffixes import has_video_suffix
from vtcli.weights.registry import load_registry

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from vtcli.video.decode import VideoInfo

SCHEMA = 1


def video_table(path: str, info: VideoInfo) -> dict[str, Any]:
    """What an answer's JSON says of its file."""
    return {
        "path": path,
        "frames": info.frames,
        "fps": info.fps,
        "duration": info.duration,
        "width": info.width,
        "height": info.height,
    }


@dataclass(frozen=True)
class Prediction:
    """What a model says of one file; `predictions` is the ranking of the first (or only) head."""

    path: str
    info: VideoInfo
    views: tuple[View, ...]
    heads: Mapping[str, tuple[Answer, ...]]
    view_logits: Mapping[str, Tensor]
    seconds: float
    failed: ClassVar[bool] = False

    @property
    def predictions(self) -> tuple[Answer, ...]:
        """The classes, best first."""
        return next(iter(self.heads.values()))

    @property
    def error(self) -> None:
        """An answer has none; see `Failure`."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `heads` only where there are several."""
        answers = {name: [vars(a) for a in ranking] for name, ranking in self.heads.items()}
        table: dict[str, Any] = {
            **video_table(self.path, self.info),
            "predictions": next(iter(answers.values())),
            "views": [
                {"clip": v.clip, "crop": v.crop, "frames": [int(i) for i in v.frame_indices]}
                for v in self.views
            ],
            "seconds": round(self.seconds, 3),
        }
        return table | ({"heads": answers} if len(answers) > 1 else {})


@dataclass(frozen=True)
class Failure:
    """A file that gave no answer, and why."""

    path: str
    error: VideoDecodeError
    failed: ClassVar[bool] = True

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"path": self.path, "reason": self.error.reason, "error": str(self.error)}


@dataclass
class Result:
    """All answers of one call; `header` says what they were made with."""

    header: Mapping[str, Any]
    results: list[Prediction] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def predictions(self) -> tuple[Answer, ...]:
        """The ranking of the first file that was answered; nothing where none was."""
        return self.results[0].predictions if self.results else ()

    def to_dict(self) -> dict[str, Any]:
        """What `vt predict --format json` prints."""
        return {
            **self.header,
            "results": [r.to_dict() for r in self.results],
            "failures": [f.to_dict() for f in self.failures],
        }


def predict(
    source: str | Path | Sequence[str | Path],
    model: str | Path = "uniformerv2-b",
    topk: int = 5,
    views: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
) -> Result:
    """Recognise the action in one file, or in several (folders and shell patterns too).

    `views` is CLIPSxCROPS, or `paper` for the published protocol; by default one centre view. A
    single file that cannot be read raises `VideoDecodeError`; of several, each becomes a `Failure`.
    """
    sources = [source] if isinstance(source, str | Path) else list(source)
    predictor = Predictor(model, topk, views, device, precision, batch_size)
    paths = find_videos(sources)
    outcomes = list(predictor.start(paths))
    result = Result(
        predictor.header,
        [o for o in outcomes if isinstance(o, Prediction)],
        [o for o in outcomes if isinstance(o, Failure)],
    )
    if paths == [str(source)] and result.failures:
        raise result.failures[0].error
    return result


def find_videos(sources: Iterable[str | Path]) -> list[str]:
    """The files that sources mean: a folder stands for the videos below it, a pattern for what it
    matches.

    A name that exists nowhere, and a folder without a video, is kept to be reported in its place.
    """
    found: list[str] = []
    for source in map(str, sources):
        if os.path.isdir(source):
            inside = sorted(p for p in Path(source).rglob("*") if _is_video(p))
            found += map(str, inside) if inside else [source]
        elif not os.path.exists(source) and any(c in source for c in "*?["):
            found += sorted(glob.glob(source, recursive=True)) or [source]
        else:
            found.append(source)
    return found


def _is_video(path: Path) -> bool:
    hidden = path.name.startswith(".")
    return has_video_suffix(path.name) and not hidden and os.path.isfile(path)


def parse_views(views: str | None, pipeline: Pipeline) -> tuple[int, int]:
    """Clips and crops of `--views`: CLIPSxCROPS, `paper`, or None for one centre view.

    Raises `UsageError` for anything else, and for crops no rule knows.
    """
    if views is None:
        return 1, 1
    if views == "paper":
        return pipeline.clips, pipeline.crops
    match = re.fullmatch(r"([1-9][0-9]{0,3})x([13])", views, re.ASCII)
    if match is None:
        raise UsageError(
            f"--views is CLIPSxCROPS with 1 or 3 crops, such as 4x3, or 'paper', not '{views}'"
        )
    return int(match[1]), int(match[2])


def named_pipeline(name: str | None, own: Pipeline) -> Pipeline:
    """A pipeline of the registry for a checkpoint's frames and size, or the checkpoint's own."""
    if name is None:
        return own
    pipelines = load_registry().pipelines
    if name not in pipelines:
        raise UsageError(f"there is no pipeline '{name}'; known are {', '.join(pipelines)}")
    chosen = pipelines[name]
    short_side = round(chosen.short_side * own.crop_size / chosen.crop_size)
    return replace(chosen, frames=own.frames, crop_size=own.crop_size, short_side=short_side)


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
        read_as: str | None = None,
        pipeline: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.model, self.topk, self.device, self.precision = model, topk, device, precision
        self.batch_size, self.workers, self.progress = batch_size, workers, progress
        self.decoder, self.read_as = decoder, read_as
        check_settings(precision, read_as)
        if topk < 1 or (batch_size is not None and batch_size < 1):
            raise UsageError("topk and batch_size are whole numbers above 0")
        known = peek(model, progress)
        self.pipeline = named_pipeline(pipeline, known.pipeline)
        self.clips, self.crops = parse_views(views, self.pipeline)
        self.header: Mapping[str, Any] = {
            "schema": SCHEMA,
            "model": known.id or str(model),
            "dataset": known.dataset,
            "views": f"{self.clips}x{self.crops}",
            "score_rule": self.pipeline.score,
            "precision": precision,
            "device": device,
        }
        self.net: Any = None

    def start(self, paths: Sequence[str]) -> Iterator[Prediction | Failure]:
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
    ) -> Iterator[Prediction | Failure]:
        ahead = len(waiting)
        try:
            for number, path in enumerate(paths):
                yield self._outcome(path, waiting.pop(0))
                if number + ahead < len(paths):
                    waiting.append(pool.submit(self._decode, paths[number + ahead]))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _load(self) -> None:
        from vtcli.engine.precision import pick_device, precision_name

        pick_device(self.device)
        found = resolve(self.model, self.progress)
        net: Any = load_resolved(found, self.device, self.precision, self.read_as)
        device = next(net.parameters()).device
        used = {"precision": precision_name(net.dtype), "device": str(device)}
        used["dataset"] = net.card.dataset
        self.net, self.header = net, {**self.header, **used}

    def _outcome(self, path: str, future: Future[_Decoded]) -> Prediction | Failure:
        try:
            decoded = future.result()
        except VideoDecodeError as error:
            return Failure(path, error)
        start = time.perf_counter()
        logits = self._score(decoded)
        heads = rank_heads(logits, self.net.card.heads, self.pipeline.score, self.topk)
        seconds = time.perf_counter() - start
        return Prediction(path, decoded.info, tuple(decoded.views), heads, logits, seconds)

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
