"""From the body of a request to a video that can be read: an upload, or a path or URL by name."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from starlette.datastructures import UploadFile
from starlette.requests import Request

from vtcli.errors import UsageError
from vtcli.inference.windows import parse_windows
from vtcli.serving.refusals import RequestRefusedError
from vtcli.serving.settings import MAX_TOPK, ServeSettings
from vtcli.video.remote import is_url

OPTIONS = ("model", "topk", "window", "stride", "min_score")
UPLOAD_NAME = "upload"
_MOST_FIELDS = 16


@dataclass(frozen=True)
class VideoRequest:
    """A video to read, the name that stands for it, and the options of the request, unparsed."""

    path: str
    name: str
    options: Mapping[str, str]
    uploaded: bool

    def close(self) -> None:
        """Remove an upload."""
        if self.uploaded:
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    @property
    def model(self) -> str | None:
        """The model that was asked for."""
        return self.options.get("model")

    @property
    def topk(self) -> int:
        """Classes per head; raises `UsageError`."""
        text = self.options.get("topk", "5")
        if not text.isdecimal() or not 1 <= int(text) <= MAX_TOPK:
            raise UsageError(f"topk is a number from 1 to {MAX_TOPK}, not '{text}'")
        return int(text)

    @property
    def windows(self) -> tuple[float, float, float]:
        """Window and stride in seconds, and the lowest score; raises `UsageError`."""
        windows = parse_windows(self.options.get("window", "2s"), self.options.get("stride"), "")
        text = self.options.get("min_score", "0")
        try:
            score = float(text)
        except ValueError:
            score = -1.0
        if not 0 <= score <= 1:
            raise UsageError(f"min_score is a number from 0 to 1, not '{text}'")
        return *windows, score


async def receive_video(request: Request, settings: ServeSettings, spool: Path) -> VideoRequest:
    """Read the body of a request; an upload becomes a file in `spool`.

    Raises `UsageError` and `RequestRefusedError`.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    query = dict(request.query_params)
    if kind == "application/json":
        return _named_video(await request.body(), query, settings)
    if kind == "multipart/form-data":
        return await _from_form(request, query, spool)
    if kind.startswith("video/") or kind == "application/octet-stream":
        path = await _store(request, spool)
        return VideoRequest(path, query.pop("name", UPLOAD_NAME), _known(query), uploaded=True)
    raise RequestRefusedError(
        *(415, "content_type"),
        "send the video as multipart/form-data with a field file, as a body of the type "
        'video/mp4, or as JSON {"path": ...} or {"url": ...}',
    )


def _named_video(body: bytes, query: dict[str, str], settings: ServeSettings) -> VideoRequest:
    try:
        table = json.loads(body)
    except ValueError as error:
        raise UsageError(f"the body is not JSON ({error})") from error
    if not isinstance(table, dict):
        raise UsageError('the body is a JSON object such as {"path": "clip.mp4"}')
    sources = [table.pop(name) for name in ("path", "url") if name in table]
    if len(sources) != 1 or not isinstance(sources[0], str):
        raise UsageError("a request names one video, as path or as url")
    source = sources[0]
    if not settings.allows(source):
        raise RequestRefusedError(
            *(403, "not_allowed"),
            f"{source} is not below a folder or URL that the server allows; start it with --allow "
            f"{'URL/' if is_url(source) else 'FOLDER'}",
        )
    options = {name: str(value) for name, value in table.items() if value is not None}
    return VideoRequest(source, source, _known({**query, **options}), uploaded=False)


async def _from_form(request: Request, query: dict[str, str], spool: Path) -> VideoRequest:
    async with request.form(max_files=1, max_fields=_MOST_FIELDS) as form:
        fields: dict[str, Any] = dict(form)
        upload = fields.pop("file", None)
        if not isinstance(upload, UploadFile):
            raise UsageError("the form has no video; add it as the field file")
        options = _known({**query, **{name: str(value) for name, value in fields.items()}})
        path = await asyncio.to_thread(_copy, upload.file, spool)
        name = (upload.filename or "").replace("\\", "/").rpartition("/")[2] or UPLOAD_NAME
        return VideoRequest(path, name, options, uploaded=True)


def _known(options: Mapping[str, str]) -> Mapping[str, str]:
    """The options; raises `UsageError` for one that does not exist."""
    for name in options:
        if name not in OPTIONS:
            raise UsageError(f"there is no option '{name}'; options are {', '.join(OPTIONS)}")
    return options


async def _store(request: Request, spool: Path) -> str:
    """Write the body to a file as it arrives."""
    handle, path = tempfile.mkstemp(dir=spool)
    try:
        with os.fdopen(handle, "wb") as file:
            async for part in request.stream():
                await asyncio.to_thread(file.write, part)
    except BaseException:
        os.unlink(path)
        raise
    return path


def _copy(source: IO[bytes], spool: Path) -> str:
    handle, path = tempfile.mkstemp(dir=spool)
    with os.fdopen(handle, "wb") as file:
        source.seek(0)
        shutil.copyfileobj(source, file, 1 << 20)
    return path
