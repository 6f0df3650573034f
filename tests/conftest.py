"""Every test has a cache of its own and none of the user's settings."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("VT_CACHE", str(folder))
    for name in ("VT_REGISTRY", "VT_WEIGHTS", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return folder
