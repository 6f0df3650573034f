"""Every test has its own cache and none of the user's settings."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Parallel tests share the cores. Read when torch is loaded, here and in child processes.
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
def _one_decoding_process() -> Iterator[None]:
    """Where a test names no number, one is enough for its few videos: each takes time to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vtcli.data.clip_loader.MOST_WORKERS", 1)
        yield


@pytest.fixture(autouse=True, scope="session")
def _golden_weights_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    goldens.weights_folder = tmp_path_factory.mktemp("golden_weights")
    yield
    goldens.weights_folder = None


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Networks as small as those of the tests are slower on several threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
