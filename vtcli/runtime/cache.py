"""The cache folder of this program: what can be downloaded or made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """The cache folder: $VT_CACHE, else $XDG_CACHE_HOME/vtcli, else ~/.cache/vtcli."""
    own = os.environ.get("VT_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vtcli"
