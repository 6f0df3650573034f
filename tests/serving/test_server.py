"""A server on the loopback address gives each request its result, or the status it deserves."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import vtcli
from tests import tiny
from tests.runtime.processes import wait_until
from tests.serving.running import MODEL, Reply, Running, events_of, form
from vtcli.cli import run
from vtcli.errors import EXIT_OK

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips that are named by their path; the names of two make the decoder crash or slow."""
    path = tmp_path_factory.mktemp("videos")
    tiny.video(path / "clip.mp4", 40)
    tiny.video(path / "long.mp4", 100)
    shutil.copy(path / "clip.mp4", path / "CRASH.mp4")
    shutil.copy(path / "clip.mp4", path / "SLOW.mp4")
    return path


@pytest.fixture(scope="module")
def clip(folder: Path) -> bytes:
    return (folder / "clip.mp4").read_bytes()


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    """A server with small limits: one request at a time, one that waits, 1 MiB, 3 s."""
    limits = ["--concurrent", "1", "--queue", "1", "--max-upload", "1", "--max-seconds", "3"]
    running = Running.start(*limits, "--upload-timeout", "0.5", "--allow", str(folder), "-j", "1")
    yield running
    running.stop()


def test_an_upload_is_predicted_as_the_command_predicts_the_file(
    server: Running, folder: Path, clip: bytes
) -> None:
    expected = vtcli.predict(folder / "clip.mp4", model=MODEL, topk=8)
    wanted = [(p.label, pytest.approx(p.score, abs=1e-6)) for p in expected.predictions]
    body, headers = form(clip, "my clip.mp4", topk="8")
    replies = [
        server.send("POST", "/v1/predict", body, headers),
        server.upload("/v1/predict?topk=8", clip),
        server.name("/v1/predict", folder / "clip.mp4", topk=8, model=MODEL),
    ]
    for reply in replies:
        assert reply.status == 200, reply.body
        assert [(p["label"], p["score"]) for p in reply.json["predictions"]] == wanted
    names = [reply.json["path"] for reply in replies]
    assert names == ["my clip.mp4", "upload", str(folder / "clip.mp4")]


def test_an_embedding_is_that_of_the_command(server: Running, folder: Path, clip: bytes) -> None:
    expected = vtcli.Predictor(MODEL).embed(folder / "clip.mp4").mean(0)
    reply = server.upload("/v1/embed", clip)
    assert reply.status == 200
    assert reply.json["embedding"] == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_timeline_is_followed_window_by_window(
    server: Running, folder: Path, clip: bytes, tmp_path: Path
) -> None:
    command = ["predict", str(folder / "clip.mp4"), "-m", MODEL, "--window", "0.4s"]
    out = tmp_path / "expected.json"
    assert run([*command, "--stride", "0.2s", "-o", str(out)]) == EXIT_OK
    assert run([*command, "--stride", "0.2s", "-o", str(out.with_suffix(".srt"))]) == EXIT_OK
    (expected,) = json.loads(out.read_text())["results"]

    body, headers = form(clip, window="0.4s", stride="0.2s")
    job = server.send("POST", "/v1/timeline", body, headers)
    assert job.status == 202
    events = events_of(server.get(job.json["events"]).body)
    assert [kind for kind, _ in events[-2:]] == ["windows", "done"]
    windows = [window for kind, data in events if kind == "windows" for window in data["windows"]]
    assert windows == expected["windows"]
    assert all(data["total"] == len(windows) for kind, data in events if kind == "windows")

    result = server.get(job.json["result"])
    assert result.json == events[-1][1]
    assert result.json["segments"] == expected["segments"]
    subtitles = server.get(job.json["result"] + "?format=srt")
    assert subtitles.body.decode() == out.with_suffix(".srt").read_text()
    assert server.get("/v1/timeline/nothing").status == 404
    last = str(len(events) - 1)
    late = server.get(job.json["events"], **{"Last-Event-ID": last})
    assert [kind for kind, _ in events_of(late.body)] == ["done"]


def test_what_is_not_a_video_receives_its_reason(
    server: Running, folder: Path, clip: bytes
) -> None:
    noise = server.upload("/v1/predict", b"not a video at all")
    assert (noise.status, noise.reason) == (422, "not_video")
    assert "upload: is not a video" in noise.json["error"]["message"]
    cut = server.upload("/v1/predict", clip[: len(clip) // 2])
    assert cut.status == 422
    crash = server.name("/v1/predict", folder / "CRASH.mp4")
    assert (crash.status, crash.reason) == (422, "crashed")
    missing = server.name("/v1/predict", folder / "missing.mp4")
    assert (missing.status, missing.reason) == (404, "not_found")
    assert server.upload("/v1/predict", clip).status == 200

    body, headers = form(b"noise")
    job = server.send("POST", "/v1/timeline", body, headers).json
    ((kind, data),) = events_of(server.get(job["events"]).body)
    assert (kind, data["error"]["reason"]) == ("failed", "not_video")
    assert server.get(job["result"]).status == 422


def test_what_exceeds_a_limit_is_refused(server: Running, folder: Path, clip: bytes) -> None:
    huge = bytes(3 << 20)
    stated = server.upload("/v1/predict", huge)
    assert (stated.status, stated.reason) == (413, "limit")
    connection = server.connect()
    connection.request(
        "POST", "/v1/predict", iter([huge]), {"Content-Type": "video/mp4"}, encode_chunked=True
    )
    assert connection.getresponse().status == 413
    connection.close()
    long = server.name("/v1/predict", folder / "long.mp4")
    assert (long.status, long.reason) == (413, "limit")
    assert server.name("/v1/predict", Path("x" * (100 << 10))).status == 413


def test_a_slow_upload_is_refused_and_gives_its_place_back(server: Running, clip: bytes) -> None:
    head = f"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
    head += f"Content-Type: video/mp4\r\nContent-Length: {len(clip)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as slow:
        slow.sendall(head.encode() + clip[:100])
        assert b" 408 " in slow.recv(100)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as gone:
        gone.sendall(head.encode() + clip[:100])
    assert server.upload("/v1/predict", clip).status == 200


def test_too_many_requests_are_told_when_to_come_again(
    server: Running, folder: Path, clip: bytes
) -> None:
    replies: list[Reply] = []
    slow = folder / "SLOW.mp4"
    threads = [
        threading.Thread(target=lambda: replies.append(server.name("/v1/predict", slow)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: b"vt_accepted 2.0" in server.get("/metrics").body)
    refused = server.upload("/v1/predict", clip)
    assert (refused.status, refused.reason) == (429, "busy")
    assert int(refused.headers["Retry-After"]) >= 1
    for thread in threads:
        thread.join()
    assert [reply.status for reply in replies] == [200, 200]
    assert server.upload("/v1/predict", clip).status == 200


def test_a_request_that_is_wrong_is_told_what_is(server: Running, clip: bytes) -> None:
    assert server.upload("/v1/predict?topk=0", clip).status == 400
    other = server.upload("/v1/predict?model=other", clip)
    assert MODEL in other.json["error"]["message"]
    assert server.upload("/v1/predict?colour=red", clip).status == 400
    assert server.upload("/v1/timeline?window=soon", clip).status == 400
    assert server.send("POST", "/v1/predict", b"text", {"Content-Type": "text/plain"}).status == 415
    assert server.name("/v1/predict", Path("/etc/passwd")).status == 403
    assert server.get("/v1/predict").status == 405
    assert server.get("/nothing").reason == "http"


def test_pages_of_other_sites_cannot_use_it(server: Running, clip: bytes) -> None:
    assert server.get("/v1/models", Host="example.org").status == 421
    assert server.upload("/v1/predict", clip, Origin="https://example.org").status == 403
    own = f"http://127.0.0.1:{server.port}"
    assert server.upload("/v1/predict", clip, Origin=own).status == 200


def test_the_page_loads_nothing_from_elsewhere(server: Running) -> None:
    page = server.get("/")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert b"://" not in page.body
    for name in (b"/static/app.js", b"/static/app.css", b"/static/icon.svg"):
        assert name in page.body
        assert server.get(name.decode()).status == 200
    assert server.get("/static/..%2fapp.py").status == 404


def test_models_metrics_and_openapi_describe_the_server(server: Running, clip: bytes) -> None:
    (model,) = server.get("/v1/models").json["models"]
    assert model["id"] == MODEL
    assert len(model["heads"][0]["labels"]) == 8
    server.upload("/v1/predict", clip)
    metrics = server.get("/metrics").body.decode()
    assert 'vt_requests_total{route="/v1/predict",status="200"}' in metrics
    assert f'vt_videos_total{{model="{MODEL}",outcome="ok"}}' in metrics
    description = server.get("/openapi.json").json
    assert {"/v1/predict", "/v1/embed", "/v1/timeline", "/v1/models"} <= set(description["paths"])
    assert (
        "multipart/form-data"
        in (description["paths"]["/v1/predict"]["post"]["requestBody"]["content"])
    )


def test_a_stop_finishes_what_was_accepted_and_a_key_is_needed(folder: Path, clip: bytes) -> None:
    server = Running.start("--api-key", "secret", "--allow", str(folder), "-j", "1")
    assert server.get("/v1/models").status == 401
    assert server.upload("/v1/predict", clip, Authorization="Bearer wrong").status == 401
    assert server.get("/metrics").status == 401
    assert server.get("/healthz").status == server.get("/").status == 200
    key = {"Authorization": "Bearer secret"}
    assert server.get("/v1/models", **key).status == 200
    assert server.get("/v1/models", **{"X-API-Key": "secret"}).status == 200

    def name(path: str) -> Reply:
        body = json.dumps({"path": str(folder / "SLOW.mp4")}).encode()
        return server.send("POST", path, body, {"Content-Type": "application/json", **key})

    replies: list[Reply] = []
    busy = threading.Thread(target=lambda: replies.append(name("/v1/predict")))
    busy.start()
    job = name("/v1/timeline").json
    head = "POST /v1/timeline HTTP/1.1\r\nHost: localhost\r\nX-API-Key: secret\r\n"
    head += f"Content-Type: video/mp4\r\nContent-Length: {len(clip)}\r\n\r\n"
    upload = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    upload.sendall(head.encode() + clip[:100])
    wait_until(lambda: b"vt_accepted 3.0" in server.get("/metrics", **key).body)
    codes: list[int] = []
    stop = threading.Thread(target=lambda: codes.append(server.stop()))
    stop.start()
    wait_until(lambda: server.get("/healthz").status == 503)
    refused = server.upload("/v1/predict", clip, **key)
    assert (refused.status, refused.reason) == (503, "stopping")
    events = events_of(server.get(job["events"], **key).body)
    assert events[-1][0] == "done"
    busy.join()
    with upload:  # the rest of an upload that began before the stop
        upload.sendall(clip[100:])
        reply = http.client.HTTPResponse(upload)
        reply.begin()
        late = json.loads(reply.read())
    assert events_of(server.get(late["events"], **key).body)[-1][0] == "done"
    stop.join()
    assert replies[0].status == 200
    assert codes == [0]
