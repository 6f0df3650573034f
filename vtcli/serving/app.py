"""The routes of `vt serve`; what they share is a `Service`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from importlib import resources
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from vtcli._version import __version__
from vtcli.errors import VideoDecodeError, VtError
from vtcli.inference.arrays import renamed_error
from vtcli.inference.gather import VideoScores
from vtcli.inference.online import OnlineStream
from vtcli.inference.results import Failure
from vtcli.inference.scoring import EMBEDDING, require_finite
from vtcli.serving import schemas
from vtcli.serving.guard import Guard
from vtcli.serving.jobs import Job, JobRequest, result_of
from vtcli.serving.refusals import RequestRefusedError, error_body, status_of
from vtcli.serving.requests import VideoRequest, receive_video
from vtcli.serving.service import Service

router = APIRouter()
_FILES = {"app.js": "text/javascript", "app.css": "text/css", "icon.svg": "image/svg+xml"}
_MEDIA_TYPES = {"srt": "application/x-subrip", "vtt": "text/vtt", "csv": "text/csv"}
_REFUSALS = schemas.failures(400, 401, 403, 404, 408, 413, 415, 422, 429, 503, 504)


def create_app(service: Service) -> ASGIApp:
    """The application of a service, behind its `Guard`."""
    app = FastAPI(title="vt serve", version=__version__, docs_url=None, redoc_url=None)
    app.state.service = service
    app.include_router(router)
    app.add_exception_handler(VtError, _refused)
    app.add_exception_handler(HTTPException, _unknown)
    app.add_exception_handler(ClientDisconnect, _left)
    return Guard(app, service)


def service_of(request: Request) -> Service:
    """The service that a request is for."""
    service: Service = request.app.state.service
    return service


@router.post(
    "/v1/predict",
    responses={200: {"model": schemas.Prediction}, **_REFUSALS},
    openapi_extra=schemas.video_body(),
)
async def predict(request: Request) -> JSONResponse:
    """Classify the action in a video."""
    service = service_of(request)
    with service.admission.accept():
        video = await receive_video(request, service.settings, service.spool)
        try:
            model, topk = service.model(video.model), video.topk
            scores = await _scores(service, model.name, video, model.scores)
            outcome = model.predictor.outcome(video.name, scores, topk)
        finally:
            video.close()
    assert not isinstance(outcome, Failure)
    return JSONResponse({**model.predictor.header, **outcome.to_dict(), "model": model.name})


@router.post(
    "/v1/embed",
    responses={200: {"model": schemas.Embedding}, **_REFUSALS},
    openapi_extra=schemas.video_body(),
)
async def embed(request: Request) -> JSONResponse:
    """Compute the embedding of a video."""
    service = service_of(request)
    with service.admission.accept():
        video = await receive_video(request, service.settings, service.spool)
        try:
            model = service.model(video.model)
            scores = await _scores(service, model.name, video, model.features)
        finally:
            video.close()
    feature_VD = scores.logits[EMBEDDING]
    require_finite([feature_VD], video.name)
    values = feature_VD.mean(0).tolist()
    return JSONResponse({"path": video.name, "model": model.name, "embedding": values})


async def _scores(
    service: Service, model: str, video: VideoRequest, stream: OnlineStream
) -> VideoScores:
    """The scores of a video once they are known; raises `VtError` where there are none."""
    outcome = "ok"
    try:
        async with service.admission.turn():
            seconds = service.settings.request_timeout
            future = asyncio.wrap_future(stream.submit(video.path))
            scores = await asyncio.wait_for(future, seconds)
        if isinstance(scores, VideoDecodeError):
            outcome = scores.reason
            raise renamed_error(scores, video.name)
        return scores
    except TimeoutError as error:
        outcome = "request_timeout"
        raise RequestRefusedError(
            504, "timeout", f"{video.name} was not scored within {seconds:g} s; send a shorter one"
        ) from error
    except BaseException:
        outcome = "error" if outcome == "ok" else outcome
        raise
    finally:
        service.metrics.videos.labels(model, outcome).inc()


@router.post(
    "/v1/timeline",
    status_code=202,
    responses={202: {"model": schemas.TimelineJob}, **_REFUSALS},
    openapi_extra=schemas.video_body(),
)
async def timeline(request: Request) -> JSONResponse:
    """Begin to classify each window of a video; the job is followed by its events."""
    service = service_of(request)
    service.admission.enter()  # until the job is finished
    video: VideoRequest | None = None
    try:
        video = await receive_video(request, service.settings, service.spool)
        model = service.model(video.model)
        job = service.jobs.start(JobRequest(video, model.name), model.predictor)
    except BaseException:
        service.admission.leave()
        if video is not None:
            video.close()
        raise
    return JSONResponse(_state_of(job), 202)


@router.get(
    "/v1/timeline/{job_id}",
    responses={
        200: {"model": schemas.TimelineResult},
        202: {"model": schemas.TimelineJob},
        **schemas.failures(401, 404, 422),
    },
)
async def timeline_result(request: Request, job_id: str, format: str = "json") -> Response:
    """The result of a job as json, srt, vtt or csv; its state (202) while there is none."""
    service = service_of(request)
    if format not in ("json", *_MEDIA_TYPES):
        raise RequestRefusedError(
            400, "usage", f"a timeline is json, {', '.join(_MEDIA_TYPES)}, not {format}"
        )
    job = service.jobs.find(job_id)
    if not job.finished:
        return JSONResponse(_state_of(job), 202)
    job.delivered = True
    if job.timeline is None:
        assert job.error is not None
        raise job.error
    if format == "json":
        return JSONResponse(result_of(job))
    text = service.render(format, job.header, job.timeline)
    return PlainTextResponse(text, media_type=_MEDIA_TYPES[format])


@router.get("/v1/timeline/{job_id}/events", responses=schemas.failures(401, 404))
async def timeline_events(request: Request, job_id: str) -> StreamingResponse:
    """Server-sent events of a job: `windows` as they are scored, then `done` or `failed`."""
    job = service_of(request).jobs.find(job_id)
    last = request.headers.get("last-event-id", "0")
    after = int(last) if last.isdecimal() else 0
    return StreamingResponse(_event_stream(job, after), media_type="text/event-stream")


async def _event_stream(job: Job, after: int) -> AsyncIterator[str]:
    async for number, kind, data in job.follow(after):
        if number < 0:
            yield ": alive\n\n"
        else:
            yield f"id: {number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"


def _state_of(job: Job) -> dict[str, Any]:
    place = f"/v1/timeline/{job.id}"
    return {"id": job.id, "state": job.state, "events": f"{place}/events", "result": place}


@router.get("/v1/models", responses={200: {"model": schemas.Models}, **schemas.failures(401)})
async def models(request: Request) -> JSONResponse:
    """The models of this server; the first one is the default."""
    served = service_of(request).models.values()
    return JSONResponse({"models": [model.info() for model in served]})


@router.get("/healthz")
async def healthz(request: Request) -> JSONResponse:
    """Status 200 while requests are accepted, 503 while the server stops."""
    stopping = service_of(request).admission.stopping
    return JSONResponse({"status": "stopping" if stopping else "ok"}, 503 if stopping else 200)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Counters in Prometheus' text format."""
    text = service_of(request).metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """The page."""
    return Response(_static("index.html"), media_type="text/html")


@router.get("/static/{name}", include_in_schema=False)
async def static(name: str) -> Response:
    """The script and the style of the page."""
    if name not in _FILES:
        raise HTTPException(404)
    return Response(_static(name), media_type=_FILES[name])


def _static(name: str) -> bytes:
    return (resources.files("vtcli.serving") / "static" / name).read_bytes()


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, VtError)
    status, reason = status_of(error)
    seconds = getattr(error, "retry_after", None)
    headers = {} if seconds is None else {"Retry-After": str(seconds)}
    return JSONResponse(error_body(reason, str(error)), status, headers)


async def _unknown(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    text = f"{request.method} {request.url.path}: {error.detail}; see /openapi.json"
    return JSONResponse(error_body("http", text), error.status_code, error.headers)


async def _left(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse(error_body("left", "the client left during the upload"), 400)
