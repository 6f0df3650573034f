"""Predictions for what is not a file: frames in memory, encoded bytes, and columns of a table.

Shape legend: V views, T frames of a video, H height, W width.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from vtcli.errors import InputError, UsageError, VideoDecodeError
from vtcli.inference.results import Failure, VideoPrediction
from vtcli.video.decode import VideoInfo
from vtcli.video.pipeline import Pipeline, View, plan_views

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vtcli.inference.adaptive import StopRule
    from vtcli.inference.decision import Decision
    from vtcli.inference.settings import PredictSettings
    from vtcli.models.protocol import VideoModel
    from vtcli.runtime.progress import ProgressCallback
    from vtcli.video.decode_pool import DecodePool

MEMORY_NAME = "<memory>"
"""Stands for the path of a video that is not a file."""


def checked_paths(paths: object) -> list[str]:
    """A list of paths as texts; raises `TypeError` for anything else."""
    if isinstance(paths, str | Path):
        raise TypeError(f"predict takes a list of paths: predict([{str(paths)!r}])")
    if isinstance(paths, np.ndarray) and paths.dtype == np.uint8:
        raise TypeError("predict takes a list of paths; frames are for predict_frames(frames, fps)")
    if not isinstance(paths, Iterable):
        raise TypeError(f"predict takes a list of paths, not {type(paths).__name__}")
    names = list(paths)
    for name in names:
        if isinstance(name, bytes | bytearray | memoryview):
            raise TypeError("predict takes paths; the bytes of a video are for predict_bytes(data)")
        if not isinstance(name, str | os.PathLike):
            raise TypeError(f"a video is given by its path, not by {type(name).__name__}")
    return [os.fspath(name) for name in names]


def loaded_network(model: object) -> VideoModel | None:
    """A network of `load_model`, ready to predict; None for a name or a path.

    Raises `TypeError` for anything else, and for a network without a model card.
    """
    if isinstance(model, str | os.PathLike):
        return None
    if not callable(model) or not hasattr(model, "state_dict"):
        raise TypeError(
            "a model is a name, a path or a network of vtcli.load_model, not "
            f"{type(model).__name__}"
        )
    if getattr(model, "card", None) is None:
        raise TypeError(
            f"this {type(model).__name__} has no model card, which says how a video becomes a "
            "clip; load it with vtcli.load_model"
        )
    network: Any = model
    network.eval()
    return cast("VideoModel", network)


def refuse_loading_options(settings: Any) -> None:
    """Raise `UsageError` for settings that only apply while a network is loaded."""
    usual = {"device": "auto", "precision": "auto", "label_set": None}
    given = [name for name, value in usual.items() if getattr(settings, name) != value]
    if given:
        raise UsageError(
            f"a loaded network keeps its {' and '.join(given)}; give that to vtcli.load_model"
        )


class PathPredictor(Protocol):
    """What predicts files, several at once."""

    def predict(self, paths: Sequence[str | Path]) -> Iterator[VideoPrediction | Failure]: ...


class WindowModel(Protocol):
    """What windows and the settings of runs need of a `Predictor`, which itself has `windows`."""

    model: str | Path | nn.Module
    on_download: ProgressCallback | None
    settings: PredictSettings
    pipeline: Pipeline
    clips: int
    crops: int
    header: Mapping[str, Any]
    stop_rule: StopRule | None

    @property
    def net(self) -> VideoModel: ...

    @property
    def decoders(self) -> DecodePool: ...

    def prepare(self, paths: Iterable[str]) -> None: ...

    def decide(self, logits: Mapping[str, Tensor]) -> Decision | None: ...


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


def preprocess(
    frames_THWC: NDArray[np.uint8], model: str | Path | nn.Module, fps: float | None = None
) -> Tensor:
    """The center view of a video in memory as the model takes it: float32 [3,T,S,S].

    `frames_THWC` are all its frames, RGB uint8; `model` is a name, a path, an exported graph or a
    network of `load_model`; no weights are loaded. `fps` is needed where the model's sampling
    depends on it, or `UsageError` is raised. Raises `TypeError` for other arrays,
    `VideoDecodeError` for frames that the model cannot take, and what `resolve` raises.

    >>> frames = np.zeros((40, 120, 160, 3), np.uint8)
    >>> vtcli.preprocess(frames, "uniformerv2-nano").shape
    torch.Size([3, 8, 32, 32])
    """
    from vtcli.weights.resolve import lookup

    frames, _ = checked_frames(frames_THWC, 1.0 if fps is None else fps)
    network = loaded_network(model)
    known = lookup(cast("str | Path", model), graphs=True) if network is None else network.card
    if fps is None and known.pipeline.sampling == "resampled_windows_looped":
        raise UsageError("this model samples by time; give the frame rate as fps")
    _, (clip,) = views_of_frames(frames, fps or 0.0, known.pipeline, 1, 1)
    return clip


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
        return Failure(name, renamed_error(outcome.error, name))
    return replace(outcome, path=name)


def renamed_error(error: VideoDecodeError, name: str) -> VideoDecodeError:
    """The same error for a file of another name."""
    return VideoDecodeError(name, error.reason, error.message, error.backend_messages)


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


def succeeded(outcome: VideoPrediction | Failure) -> VideoPrediction:
    """The prediction; raises the error of a failure."""
    if isinstance(outcome, Failure):
        raise outcome.error
    return outcome


def without_numbers(
    outcomes: Generator[tuple[int, VideoPrediction | Failure], None, None],
) -> Generator[VideoPrediction | Failure | None, None, None]:
    """The outcomes alone, after None (see `vtcli.runtime.prefetch.begun`)."""
    with closing(outcomes):
        yield None
        for _, outcome in outcomes:
            yield outcome
