"""`vt serve`: predictions, embeddings and timelines over HTTP."""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vtcli.cli.options import (
    DEFAULT_MODEL,
    BatchSizeOption,
    DecoderOption,
    DeviceOption,
    LabelSetOption,
    PipelineOption,
    PrecisionOption,
    StrictOption,
    TimeoutOption,
    WorkersOption,
    model_option,
    views_option,
)
from vtcli.errors import EXIT_OK, UsageError
from vtcli.video import TIMEOUT_SECONDS

if TYPE_CHECKING:
    from vtcli.inference.windows import Timeline

LIMITS = "Limits"
PACKAGES = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}


def serve(
    models: Annotated[list[str] | None, model_option(DEFAULT_MODEL, several=True)] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; any but loopback needs a key.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes any that is free.")
    ] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            metavar="KEY",
            envvar="VT_API_KEY",
            help="Refuse requests without this key.",
        ),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow",
            metavar="FOLDER|URL/",
            help="Let requests name videos below this folder or URL. May be repeated.",
        ),
    ] = None,
    max_upload: Annotated[
        int,
        typer.Option("--max-upload", min=1, help="Size of an upload, MiB.", rich_help_panel=LIMITS),
    ] = 512,
    max_seconds: Annotated[
        float,
        typer.Option(
            "--max-seconds", min=0.1, help="Duration of a video, seconds.", rich_help_panel=LIMITS
        ),
    ] = 3600,
    concurrent: Annotated[
        int,
        typer.Option(
            "--concurrent", min=1, help="Requests worked on at a time.", rich_help_panel=LIMITS
        ),
    ] = 8,
    queue: Annotated[
        int,
        typer.Option(
            "--queue",
            min=0,
            help="Requests that wait besides them; further ones receive status 429.",
            rich_help_panel=LIMITS,
        ),
    ] = 32,
    upload_timeout: Annotated[
        float,
        typer.Option(
            "--upload-timeout",
            min=0.1,
            help="Seconds without a byte after which an upload is refused.",
            rich_help_panel=LIMITS,
        ),
    ] = 30,
    request_timeout: Annotated[
        float,
        typer.Option(
            "--request-timeout",
            min=0.1,
            help="Seconds of decoding and scoring after which a request has failed.",
            rich_help_panel=LIMITS,
        ),
    ] = 120,
    views: Annotated[str | None, views_option("1x1, the center view")] = None,
    label_set: LabelSetOption = None,
    pipeline: PipelineOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    batch_size: BatchSizeOption = None,
    workers: WorkersOption = None,
    decoder: DecoderOption = "auto",
    timeout: TimeoutOption = TIMEOUT_SECONDS,
    strict: StrictOption = False,
) -> int:
    """Serve predictions, embeddings and timelines over HTTP, with a page to try them.

    Ctrl-C or SIGTERM stops the server once the accepted requests are finished.
    """
    _require_packages()
    from vtcli.cli.progress import fetch_progress, working
    from vtcli.inference.adaptive import refuse_auto_views
    from vtcli.inference.predictor import Predictor, PredictSettings
    from vtcli.serving.server import listen
    from vtcli.serving.server import serve as run_server
    from vtcli.serving.settings import ServeSettings

    refuse_auto_views(views, "a server")
    served = ServeSettings(
        host=host,
        port=port,
        api_key=api_key or None,
        allowed=tuple(allow or ()),
        max_bytes=max_upload << 20,
        max_seconds=max_seconds,
        concurrent=concurrent,
        queue=queue,
        upload_timeout=upload_timeout,
        request_timeout=request_timeout,
    )
    settings = PredictSettings(
        views=views,
        device=device,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
        decoder=decoder,
        label_set=label_set,
        pipeline=pipeline,
        timeout=timeout,
        strict=strict,
    )
    names = list(dict.fromkeys(models or [DEFAULT_MODEL]))
    listening = listen(served)
    with fetch_progress() as on_download:
        predictors = [Predictor(name, settings, on_download=on_download) for name in names]
        for predictor in predictors:
            with working(f"loading {predictor.model}"):
                _ = predictor.net
    run_server(served, predictors, listening, _timeline_text, _announce)
    return EXIT_OK


def _require_packages() -> None:
    """Raise `UsageError` where a package of the extra is missing."""
    from vtcli.runtime.extras import missing_package

    for module, package in PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            raise UsageError(missing_package("HTTP servers", package, "serve"))


def _announce(address: str) -> None:
    print(f"vt: serving at {address}; stop with Ctrl-C", file=sys.stderr, flush=True)


def _timeline_text(format: str, header: Mapping[str, Any], timeline: Timeline) -> str:
    from vtcli.report.timeline import make_timeline_writer

    stream = io.StringIO()
    writer = make_timeline_writer(format, stream, header)
    writer.add(timeline)
    writer.close()
    return stream.getvalue()
