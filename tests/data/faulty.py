"""What worker processes do in tests, by the name of the item: some of it ends badly."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path

from vtcli.data.fingerprint import Unreadable, VideoFingerprint, inspect
from vtcli.runtime.worker_pool import Heartbeat


def work(item: str, heartbeat: Heartbeat) -> str:
    """`hang`, `segfault`, `exit`, `raise` do so; `slow` takes a second and says so; `pid PATH`
    writes down its process and hangs.
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
    """Decodes as usual what is not called after a fault."""
    work(path.stem, heartbeat)
    return inspect(path, heartbeat)


def pretend(path: Path, heartbeat: Heartbeat) -> VideoFingerprint | Unreadable:
    """Takes a file's text for a video of 100 frames, 10 a second, that shows it."""
    text = path.read_bytes()
    shades = b"".join(hashlib.sha256(text + bytes([part])).digest() for part in range(8))
    return VideoFingerprint(100, 10.0, len(text), shades)
