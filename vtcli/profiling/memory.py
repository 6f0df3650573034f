"""TODO-HEAD"""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

import torch


class PeakMemory:
    """What this process takes of the device's memory beyond what it took at first, in bytes.

    On a CPU it is the resident memory, which only Linux tells; elsewhere it is None.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()
        _give_back_free_memory()
        self.base = self._now()

    def reset(self) -> int | None:
        """Forget earlier peaks; what is taken now."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self.base is not None:
            try:
                Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
            except OSError:
                self.base = None
        now = self._now()
        return None if now is None or self.base is None else now - self.base

    def peak(self) -> int | None:
        """The most that was taken since `reset`."""
        if self.base is None:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.base
        highest = _proc_bytes("/proc/self/status", "VmHWM")
        return None if highest is None else highest - self.base

    def _now(self) -> int | None:
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return _proc_bytes("/proc/self/status", "VmRSS") if self.device.type == "cpu" else None


def available_bytes() -> int | None:
    """Memory that processes on this machine, or in this container, can still take; None unknown."""
    free = _proc_bytes("/proc/meminfo", "MemAvailable")
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # no container, or one without a limit
        return free
    taken = _proc_bytes("/proc/self/status", "VmRSS") or 0
    return limit - taken if free is None else min(free, limit - taken)


def _proc_bytes(path: str, name: str) -> int | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(values[0]) * 1024 if values else None


def _give_back_free_memory() -> None:
    """glibc keeps what a former model has freed; it would hide the need of the next one."""
    if os.name == "posix":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
