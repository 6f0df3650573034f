"""Every test has a cache of its own and none of the user's settings."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests that run side by side share the cores; read when torch is loaded, here and in processes
    # that tests start.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests import goldens


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("VT_CACHE", str(folder))
    for name in ("VT_REGISTRY", "VT_WEIGHTS", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(autouse=True, scope="session")
def _default_interrupts() -> None:
    """Processes that tests start react to SIGINT even where the caller of pytest ignores it, as
    `nohup` and background jobs do: they would inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _drawn_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    goldens.drawn = tmp_path_factory.mktemp("drawn")
    yield
    goldens.drawn = None
