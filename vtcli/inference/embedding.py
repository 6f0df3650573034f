"""Embeddings of videos or of their windows: what a network's classifier sees, through the stream.

A video is one clip, the mean over its views, or one clip per window. Shape legend: V views, W clips
of a video, D features.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import DataError, UsageError, VideoDecodeError
from vtcli.inference.adaptive import refuse_auto_views
from vtcli.inference.bulk import PartPredictor
from vtcli.inference.predictor import Predictor
from vtcli.inference.results import Failure
from vtcli.inference.rows import failure_columns, input_columns, run_settings, write_expanded
from vtcli.inference.run_store import Input
from vtcli.inference.scoring import EMBEDDING, FeatureNetwork, require_finite
from vtcli.inference.timeline import TimelinePredictor
from vtcli.runtime.rows import Row, writer_of

if TYPE_CHECKING:
    from torch import Tensor

FloatType: TypeAlias = Literal["fp32", "fp16"]
NUMPY_TYPES: Mapping[str, type[np.floating[Any]]] = {"fp32": np.float32, "fp16": np.float16}
KIND = "embeddings"

COLUMNS: Mapping[str, str] = {
    "id": "string",
    "path": "string",
    "start": "float64",
    "end": "float64",
    "model_fingerprint": "string",
    "embedding": "list<float32>",
}
"""Columns of a file of embeddings; `start` and `end` in seconds."""
RUN_COLUMNS: Mapping[str, str] = {
    **COLUMNS,
    "size": "int64",
    "mtime": "int64",
    "etag": "string",
    "protocol": "string",
    "reason": "string",
    "error": "string",
}


@dataclass(frozen=True)
class EmbedSettings:
    """Windows of `window` seconds every `stride` seconds, or None for whole videos, and the type of
    the stored numbers. Raises `UsageError` for a type that is not known.
    """

    window: float | None = None
    stride: float | None = None
    dtype: FloatType = "fp32"

    def __post_init__(self) -> None:
        if self.dtype not in get_args(FloatType):
            raise UsageError(f"embeddings are stored as fp32 or fp16, not {self.dtype}")


@dataclass(frozen=True)
class ClipEmbedding:
    """The embedding [D] of a video, or of `start` to `end` seconds of it."""

    path: str
    start: float
    end: float
    values: NDArray[np.floating[Any]]
    is_window: bool = False

    @property
    def id(self) -> str:
        """The path, for a window with its times as in a media fragment: `a.mp4#t=2,4`."""
        times = f"#t={round(self.start, 3):g},{round(self.end, 3):g}" if self.is_window else ""
        return self.path + times


class Embedder:
    """Turns videos into embeddings with a `Predictor`; see `vtcli.inference.bulk.PartPredictor`.

    Raises `UsageError` where the settings exclude each other, and once the weights are loaded for a
    network without features.
    """

    def __init__(self, predictor: Predictor, settings: EmbedSettings | None = None) -> None:
        refuse_auto_views(predictor.settings.views, "an embedding")
        self.predictor, self.settings = predictor, settings or EmbedSettings()
        self.windows: TimelinePredictor | None = None
        if self.settings.window is not None:
            self.windows = TimelinePredictor(predictor, self.settings.window, self.settings.stride)

    def embed(self, paths: Sequence[str]) -> Generator[list[ClipEmbedding] | Failure, None, None]:
        """The embeddings of each file, or why it failed, in order; raises as `Predictor.predict`
        does.
        """
        with closing(self.embed_part(paths, range(len(paths)))) as outcomes:
            for _, outcome in outcomes:
                yield outcome

    def embed_part(
        self,
        paths: Sequence[str],
        wanted: Collection[int],
        batch_size: int | None = None,
        ordered: bool = True,
    ) -> Generator[tuple[int, list[ClipEmbedding] | Failure], None, None]:
        """Those of the `wanted` files, by their numbers; `ordered` as in `Predictor.predict`.

        With a `batch_size`, an embedding is the same whichever files are wanted.
        """
        if self.windows is not None:
            self.predictor.prepare([paths[number] for number in wanted])
            for number in sorted(wanted):
                yield number, self._of_windows(self.windows, paths[number])
            return
        scored = self.predictor.score_part(paths, wanted, batch_size, FeatureNetwork, ordered)
        with closing(scored):
            for number, scores in scored:
                path = paths[number]
                if isinstance(scores, VideoDecodeError):
                    yield number, Failure(path, scores)
                    continue
                feature_VD = scores.logits[EMBEDDING]
                (values_D,) = self._stored(path, feature_VD.mean(0, keepdim=True))
                yield number, [ClipEmbedding(path, 0.0, scores.info.duration, values_D)]

    def _of_windows(self, windows: TimelinePredictor, path: str) -> list[ClipEmbedding] | Failure:
        try:
            _, planned, logits = windows.score_windows(path, FeatureNetwork)
        except VideoDecodeError as error:
            return Failure(path, error)
        values_WD = self._stored(path, logits[EMBEDDING])
        return [
            ClipEmbedding(path, window.start, window.end, values_D, is_window=True)
            for window, values_D in zip(planned, values_WD, strict=True)
        ]

    def _stored(self, path: str, feature_WD: Tensor) -> NDArray[np.floating[Any]]:
        """The embeddings in the type in which they are stored."""
        require_finite([feature_WD], path)
        with np.errstate(over="ignore"):
            values_WD = feature_WD.numpy().astype(NUMPY_TYPES[self.settings.dtype])
        if not np.isfinite(values_WD).all():
            raise DataError(f"the embedding of {path} exceeds the range of fp16; use --dtype fp32")
        return values_WD

    # --- rows -------------------------------------------------------------------------------------

    def file_settings(self, batch_size: int | None, row_format: str) -> dict[str, Any]:
        """What makes two sets of embeddings comparable; stored with them."""
        predictor, s = self.predictor, self.settings
        source = str(predictor.model)
        return {
            **run_settings(predictor, batch_size, row_format),
            "kind": KIND,
            "model_source": os.path.abspath(source) if os.path.exists(source) else source,
            "views": predictor.header["views"],
            "window": s.window,
            "stride": s.stride,
            "dtype": s.dtype,
        }


@dataclass(frozen=True)
class EmbeddingMaker:
    """The embeddings of each video (see `vtcli.inference.join.RowMaker`)."""

    embed: EmbedSettings

    def settings(self, predictor: Predictor, batch_size: int, row_format: str) -> dict[str, Any]:
        """See `RowMaker`."""
        return Embedder(predictor, self.embed).file_settings(batch_size, row_format)

    def predictor(self, predictor: Predictor, settings: Mapping[str, Any]) -> PartPredictor:
        """See `RowMaker`."""
        return EmbeddingRows(Embedder(predictor, self.embed), settings)

    def writer(self, settings: Mapping[str, Any]) -> Callable[[Sequence[Row], Path], None]:
        """See `RowMaker`."""
        columns = columns_for(settings["dtype"], RUN_COLUMNS)
        return partial(write_expanded, writer_of(settings["row_format"], columns))


@dataclass(frozen=True)
class EmbeddingRows:
    """Turns the inputs of a bulk run into rows, one per input; they are written as one per clip."""

    embedder: Embedder
    settings: Mapping[str, Any]

    def rows(self, inputs: Sequence[Input], missing: Set[int]) -> Iterator[tuple[int, Row]]:
        """The rows of the `missing` inputs, by their places in the part, as they come."""
        paths = [one.path for one in inputs]
        size = self.settings["batch_size"]
        outcomes = self.embedder.embed_part(paths, missing, size, ordered=False)
        for place, outcome in outcomes:
            common = input_columns(inputs[place], self.settings)
            if isinstance(outcome, Failure):
                yield place, {**common, **failure_columns(outcome)}
            else:
                fingerprint = self.settings["model_fingerprint"]
                yield place, {**common, "windows": [row_of(clip, fingerprint) for clip in outcome]}


def row_of(clip: ClipEmbedding, fingerprint: str) -> dict[str, Any]:
    """The row of a clip, JSON-able."""
    return {
        "id": clip.id,
        "path": clip.path,
        "start": clip.start,
        "end": clip.end,
        "model_fingerprint": fingerprint,
        "embedding": clip.values.tolist(),
    }


def columns_for(dtype: str, names: Mapping[str, str] = COLUMNS) -> dict[str, str]:
    """The columns with embeddings of this type."""
    return {**names, "embedding": "list<float16>" if dtype == "fp16" else "list<float32>"}
