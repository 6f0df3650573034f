"""Fixtures that the tests of weights share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.hub import Hub, point_client_at, running_hub
from vtcli.weights.convert import convert


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub on localhost that the client of this process talks to."""
    with running_hub() as server:
        point_client_at(server, tmp_path, monkeypatch)
        yield server


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.video(tmp_path_factory.mktemp("video") / "clip.mp4", frames=40, size=(96, 64))


@pytest.fixture(scope="module")
def vt_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of ours, converted from upstream's."""
    folder = tmp_path_factory.mktemp("tiny")
    src = tiny.official_file(folder / "tiny.pyth")
    own = tiny.registry_file(folder / "own.toml", tiny.local_source(src))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VT_REGISTRY", str(own))
        convert(src, folder / "vt.safetensors", model="tiny.k400-8f")
    return folder / "vt.safetensors"
