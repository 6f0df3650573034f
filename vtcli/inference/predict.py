"""`vtcli.predict`: one call for one video or for several, in files or in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from vtcli.errors import VideoDecodeError
from vtcli.inference.arrays import MEMORY_NAME
from vtcli.inference.inputs import find_videos
from vtcli.inference.predictor import Predictor, PredictSettings
from vtcli.inference.results import Failure, PredictionResult, VideoPrediction

if TYPE_CHECKING:
    from torch import nn

Source: TypeAlias = Any
"""A path, the bytes of a video file, a file opened in binary mode, or frames uint8 [T,H,W,3]."""


def predict(
    source: Source | Iterable[Source],
    model: str | Path | nn.Module = "uniformerv2-b",
    topk: int = 5,
    views: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    fps: float | None = None,
) -> PredictionResult:
    """Predict the action in one or several videos.

    A video is a path (also a folder, a shell pattern or a URL), the bytes of a file, a file opened
    in binary mode, or RGB frames uint8 [T,H,W,3] with their rate `fps` per second. `model` is what
    `load_model` takes, or a network that it returned. The other parameters are those of
    `PredictSettings`.

    A single video that cannot be read raises `VideoDecodeError`; of several, each such video
    becomes a `Failure`. Raises `TypeError` for anything that is not a video or a model, and what
    `Predictor` raises.

    >>> result = vtcli.predict("clip.mp4", model="uniformerv2-nano", topk=3)
    >>> result[0].label
    'clockwise'
    >>> [round(p.score) for p in result.predictions]
    [1, 0, 0]
    >>> frames = np.zeros((24, 80, 80, 3), np.uint8)
    >>> len(vtcli.predict(frames, model="uniformerv2-nano", fps=15))
    1
    """
    settings = PredictSettings(topk, views, device, precision, batch_size=batch_size)
    sources, alone = _listed(source)
    with Predictor(model, settings) as predictor:
        if all(isinstance(one, str | os.PathLike) for one in sources):
            paths = find_videos(sources)
            outcomes = list(predictor.predict(paths))
            alone = alone and paths == [str(source)]
        else:
            outcomes = [_outcome(predictor, one, fps) for one in sources]
    if alone and isinstance(outcomes[0], Failure):
        raise outcomes[0].error
    return PredictionResult.of(predictor.header, outcomes)


def _listed(source: object) -> tuple[list[Source], bool]:
    """The sources as a list, and whether it is one that stands alone."""
    if _is_video(source):
        return [source], True
    if isinstance(source, Iterable) and not isinstance(source, dict):
        return list(source), False
    raise _not_a_video(source)


def _is_video(source: object) -> bool:
    is_named = isinstance(source, str | os.PathLike | bytes | bytearray | memoryview)
    return is_named or hasattr(source, "read") or hasattr(source, "__array__")


def _outcome(predictor: Predictor, source: object, fps: float | None) -> VideoPrediction | Failure:
    name = MEMORY_NAME
    try:
        if isinstance(source, str | os.PathLike):
            (outcome,) = predictor.predict([os.fspath(source)])
            return outcome
        if hasattr(source, "__array__"):
            if fps is None:
                raise TypeError("frames need their rate: predict(frames, fps=25)")
            return predictor.predict_frames(np.asarray(source), fps)
        data: Any = source
        if hasattr(source, "read"):
            data, name = source.read(), str(getattr(source, "name", MEMORY_NAME))
            if isinstance(data, str):
                raise TypeError(f"{name} is open as text; open it in binary mode, 'rb'")
        if not isinstance(data, bytes | bytearray | memoryview):
            raise _not_a_video(source)
        return predictor.predict_bytes(bytes(data), name)
    except VideoDecodeError as error:
        return Failure(name, error)


def _not_a_video(source: object) -> TypeError:
    return TypeError(
        "a video is a path, bytes, a file opened in binary mode or frames uint8 [T,H,W,3], not "
        f"{type(source).__name__}"
    )
