"""Predictions for what is not a file: frames in memory, encoded bytes, and columns of a table.

Shape legend: V views, T frames of a video, H height, W width.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import InputError, UsageError, VideoDecodeError
from vtcli.inference.results import Failure, VideoPrediction
from vtcli.video.decode import VideoInfo
from vtcli.video.pipeline import Pipeline, View, plan_views

if TYPE_CHECKING:
    from torch import Tensor

MEMORY_NAME = "<memory>"
"""Stands for the path of a video that is not a file."""


class PathPredictor(Protocol):
    """What predicts files, several at once."""

    def predict(self, paths: Sequence[str | Path]) -> Iterator[VideoPrediction | Failure]: ...


def checked_frames(frames_THWC: object, fps: object) -> tuple[NDArray[np.uint8], VideoInfo]:
    """Frames uint8 RGB [T,H,W,3] and their description.

    Raises `TypeError` for anything else, `UsageError` for a rate that is not a positive number.
    """
    if not isinstance(frames_THWC, np.ndarray) or frames_THWC.dtype != np.uint8:
        kind = getattr(frames_THWC, "dtype", type(frames_THWC).__name__)
        raise TypeError(f"frames must be a NumPy array of uint8 [T,H,W,3], not {kind}")
    if frames_THWC.ndim != 4 or frames_THWC.shape[3] != 3 or 0 in frames_THWC.shape:
        raise TypeError(f"frames must have the shape [T,H,W,3], not {list(frames_THWC.shape)}")
    if isinstance(fps, bool) or not isinstance(fps, int | float | np.number):
        raise TypeError(f"fps must be a number, not {type(fps).__name__}")
    rate = float(fps)
    if not 0 < rate < float("inf"):
        raise UsageError(f"fps must be greater than 0, not {fps}")
    count, height, width, _ = frames_THWC.shape
    info = VideoInfo(
        path=Path(MEMORY_NAME),
        frames=count,
        fps=rate,
        width=width,
        height=height,
        rotation=0,
        duration=count / rate,
        codec="rawvideo",
        container="",
        exact=True,
    )
    return frames_THWC, info


def views_of_frames(
    frames_THWC: NDArray[np.uint8], fps: float, pipeline: Pipeline, clips: int, crops: int
) -> tuple[list[View], list[Tensor]]:
    """The views of a video that is in memory, and their clips, float32 [3,T,S,S] each.

    Raises `VideoDecodeError` for frames that the pipeline cannot take.
    """
    from vtcli.video.views import views_from_frames

    try:
        views = plan_views(pipeline, len(frames_THWC), fps, clips, crops)
        rows = {index: index for view in views for index in map(int, view.frame_indices)}
        return views, list(views_from_frames(frames_THWC, rows, pipeline, views))
    except UsageError:
        raise
    except InputError as error:
        raise VideoDecodeError(MEMORY_NAME, "unsupported", str(error)) from error


@contextmanager
def stored(data: bytes, folder: Path) -> Iterator[Path]:
    """The bytes of a video as a temporary file in a folder."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"the bytes of a video are needed, not {type(data).__name__}")
    handle, name = tempfile.mkstemp(dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        yield Path(name)
    finally:
        os.unlink(name)


def predict_bytes(predictor: PathPredictor, data: bytes, name: str) -> VideoPrediction | Failure:
    """The outcome for the bytes of one video file, under a name of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="vt-") as folder,
        stored(data, Path(folder)) as path,
    ):
        (outcome,) = predictor.predict([path])
    return renamed(outcome, name)


def renamed(outcome: VideoPrediction | Failure, name: str) -> VideoPrediction | Failure:
    """The same outcome under another name."""
    if isinstance(outcome, Failure):
        old = outcome.error
        said = VideoDecodeError(name, old.reason, old.message, old.backend_messages)
        return Failure(name, said)
    return replace(outcome, path=name)


def predict_columns(predictor: PathPredictor, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a batch with the predictions beside them; see `Predictor.__call__`."""
    if not isinstance(batch, Mapping):
        raise TypeError(f"a batch is a mapping of columns, not {type(batch).__name__}")
    if "path" in batch:
        kept = dict(batch)
        outcomes = list(predictor.predict([_text(one) for one in batch["path"]]))
    elif "bytes" in batch:
        kept = {name: column for name, column in batch.items() if name != "bytes"}
        outcomes = [_of_cell(predictor, cell) for cell in batch["bytes"]]
    else:
        raise UsageError(
            f"a batch needs a column path or bytes; it has {', '.join(map(str, batch)) or 'none'}"
        )
    return {**kept, **_columns(outcomes)}


def _text(cell: object) -> str:
    # A missing value has no file: its row fails as an empty name does.
    return str(cell) if isinstance(cell, str | Path) else ""


def _of_cell(predictor: PathPredictor, cell: object) -> VideoPrediction | Failure:
    if not isinstance(cell, bytes | bytearray | memoryview):
        error = VideoDecodeError(MEMORY_NAME, "not_video", "is not bytes")
        return Failure(MEMORY_NAME, error)
    return predict_bytes(predictor, bytes(cell), MEMORY_NAME)


def _columns(outcomes: Sequence[VideoPrediction | Failure]) -> dict[str, NDArray[Any]]:
    labels: list[str | None] = []
    scores: list[float] = []
    reasons: list[str | None] = []
    errors: list[str | None] = []
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            labels.append(None)
            scores.append(float("nan"))
            reasons.append(outcome.error.reason)
            errors.append(str(outcome.error))
        else:
            labels.append(outcome.predictions[0].label)
            scores.append(outcome.predictions[0].score)
            reasons.append(None)
            errors.append(None)
    return {
        "label": np.array(labels, object),
        "score": np.array(scores, np.float64),
        "reason": np.array(reasons, object),
        "error": np.array(errors, object),
    }
