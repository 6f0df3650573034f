"""What a server refuses before anything is loaded, and how it counts what it accepts."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from vtcli.cli import run
from vtcli.errors import EXIT_USAGE, UsageError
from vtcli.serving.admission import Admission
from vtcli.serving.refusals import RequestRefusedError
from vtcli.serving.settings import ServeSettings


def test_an_address_of_the_network_needs_a_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("VT_API_KEY", raising=False)
    for host in ("0.0.0.0", "192.168.0.7", "::", "example.org"):
        assert run(["serve", "--host", host]) == EXIT_USAGE
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"{host} can be reached from other machines" in error
        ServeSettings(host=host, api_key="key")
    for host in ("127.0.0.1", "127.3.2.1", "::1", "localhost"):
        ServeSettings(host=host)


def test_a_missing_package_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find: Any = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "uvicorn" else find(name, *a)
    )
    assert run(["serve"]) == EXIT_USAGE
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "pip install 'vtcli[serve]'" in error


def test_a_port_in_use_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    from vtcli.serving.server import listen

    with listen(ServeSettings(port=0)) as taken:
        port = taken.getsockname()[1]
        assert run(["serve", "--port", str(port)]) == EXIT_USAGE
    assert f"port {port}" in capsys.readouterr().err


def test_only_what_is_below_an_allowed_place_may_be_named(tmp_path: Path) -> None:
    inside, outside = tmp_path / "videos", tmp_path / "videos2"
    inside.mkdir()
    outside.mkdir()
    (inside / "link.mp4").symlink_to(outside / "a.mp4")
    settings = ServeSettings(allowed=(str(inside), "https://example.org/open/"))
    assert settings.allows(str(inside / "a.mp4"))
    assert settings.allows("https://example.org/open/a.mp4")
    for refused in (
        str(outside / "a.mp4"),
        str(inside / ".." / "videos2" / "a.mp4"),
        str(inside / "link.mp4"),
        f"file://{inside}/a.mp4",
        "\0",
        "https://example.org/open/../secret.mp4",
        "https://example.org/open/%2e%2e/secret.mp4",
        "https://example.org/opened/a.mp4",
        "https://example.org@evil.example/open/a.mp4",
        "https://example.org.evil.example/open/a.mp4",
        "http://example.org/open/a.mp4",
    ):
        assert not settings.allows(refused), refused
    for wrong in (str(tmp_path / "nothing"), "https://example.org"):
        with pytest.raises(UsageError):
            ServeSettings(allowed=(wrong,))


def test_requests_beyond_those_that_may_wait_are_refused() -> None:
    async def check() -> None:
        admission = Admission(concurrent=2, queue=1)
        with admission.accept(), admission.accept():
            with admission.accept(), pytest.raises(RequestRefusedError) as refused:
                admission.enter()
            assert refused.value.status == 429
            assert refused.value.retry_after is not None
            with admission.accept():
                assert admission.accepted == 3
        assert admission.accepted == 0
        admission.stopping = True
        with pytest.raises(RequestRefusedError) as stopped:
            admission.enter()
        assert stopped.value.status == 503

    asyncio.run(check())
