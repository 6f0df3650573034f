"""Functions that worker processes run in tests; the name of an item says how it fails."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path

from vtcli.data.fingerprint import Unreadable, VideoFingerprint, inspect
from vtcli.runtime.worker_pool import Heartbeat


def work(item: str, heartbeat: Heartbeat) -> str:
    """`hang`, `segfault`, `exit` and `raise` do so; `slow` takes a second with heartbeats;
    `pid PATH` writes its process id to PATH and hangs.
    """
    kind, _, argument = item.partition(" ")
    if kind == "pid":
        Path(argument).write_text(str(os.getpid()))
    if kind in ("hang", "pid"):
        time.sleep(600)
    elif kind == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif kind == "exit":
        os._exit(5)
    elif kind == "raise":
        raise OSError(28, "No space left on device")
    elif kind == "slow":
        for _ in range(10):
            time.sleep(0.1)
            heartbeat()
    return item.upper()


def faulty_inspect(path: Path, heartbeat: Heartbeat) -> VideoFingerprint | Unreadable:
    """Decodes normally unless the file is named after a fault."""
    work(path.stem, heartbeat)
    return inspect(path, heartbeat)


def pretend(path: Path, heartbeat: Heartbeat) -> VideoFingerprint | Unreadable:
    """Treats a file's text as the content of a video of 100 frames at 10 fps."""
    text = path.read_bytes()
    thumbnails = b"".join(hashlib.sha256(text + bytes([part])).digest() for part in range(8))
    return VideoFingerprint(100, 10.0, len(text), thumbnails)
