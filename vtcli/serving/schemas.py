"""The JSON of requests and responses, for the OpenAPI description at /openapi.json."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class ClassScore(BaseModel):
    """One class of a ranking; `score` is a probability."""

    index: int
    label: str
    score: float
    upstream_score: float


class Prediction(BaseModel):
    """The best classes of a video, best first."""

    path: str
    model: str
    predictions: list[ClassScore]
    frames: int
    fps: float
    duration: float
    width: int
    height: int
    warnings: list[str]
    seconds: float


class Embedding(BaseModel):
    """What the classifier of a model reads, the mean over the views of a video."""

    path: str
    model: str
    embedding: list[float]


class TimelineJob(BaseModel):
    """A timeline that is computed: `state` is waiting, running, done or failed."""

    id: str
    state: str
    events: str
    result: str


class Segment(BaseModel):
    """Part of a video with one class; times in seconds."""

    start: float
    end: float
    index: int
    label: str
    score: float
    windows: int


class TimelineResult(BaseModel):
    """The segments and the windows of a video."""

    path: str
    model: str
    window: float
    stride: float
    segments: list[Segment]
    windows: list[dict[str, Any]]


class Head(BaseModel):
    """A classifier of a model and its classes, in the order of their indices."""

    name: str
    labels: list[str]


class ModelInfo(BaseModel):
    """A model of the server."""

    id: str
    dataset: str | None
    views: str
    precision: str
    device: str
    heads: list[Head]


class Models(BaseModel):
    """The models of the server; the first one is the default."""

    models: list[ModelInfo]


class ErrorDetail(BaseModel):
    """Why there is no result: one word, and one sentence."""

    reason: str
    message: str


class ErrorBody(BaseModel):
    """The body of every response with a status from 400 on."""

    error: ErrorDetail


_OPTIONS: dict[str, Any] = {
    "model": {"type": "string", "description": "One of /v1/models; the first by default."},
    "topk": {"type": "integer", "default": 5, "description": "Classes per head."},
    "window": {"type": "string", "default": "2s", "description": "Length of a window (timelines)."},
    "stride": {"type": "string", "description": "From one window to the next (timelines)."},
    "min_score": {"type": "number", "default": 0, "description": "Lowest score (timelines)."},
}
_FILE = {"type": "string", "format": "binary"}


def video_body() -> dict[str, Any]:
    """The request body of a route that takes a video, as OpenAPI describes it."""
    form = {"type": "object", "required": ["file"], "properties": {"file": _FILE, **_OPTIONS}}
    named = {
        "type": "object",
        "properties": {"path": {"type": "string"}, "url": {"type": "string"}, **_OPTIONS},
    }
    content = {
        "multipart/form-data": {"schema": form},
        "application/json": {"schema": named},
        "video/mp4": {"schema": _FILE},
    }
    return {"requestBody": {"required": True, "content": content}}


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route, as FastAPI takes them."""
    return {status: {"model": ErrorBody} for status in statuses}
