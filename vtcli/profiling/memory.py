"""Memory of a device: the peak while a model runs, and what is still available.

CUDA reports what its allocator has handed out; on a CPU it is the resident set size of the process,
which only Linux reports (proc(5): VmRSS, VmHWM, clear_refs).
"""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

import torch


class PeakMemory:
    """Memory of a device beyond what was in use when this object was made, in bytes.

    Every value is None where the system does not report memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()
        _release_free_memory()
        self.base = self._now()

    def reset(self) -> int | None:
        """Forget earlier peaks; returns the memory in use now."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self.base is not None:
            try:
                Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
            except OSError:
                self.base = None
        now = self._now()
        return None if now is None or self.base is None else now - self.base

    def peak(self) -> int | None:
        """The peak since `reset`."""
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
    """CPU memory that this machine or container can still allocate; None where it is unknown."""
    free = _proc_bytes("/proc/meminfo", "MemAvailable")
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # not in a container, or in one without a limit
        return free
    used = _proc_bytes("/proc/self/status", "VmRSS") or 0
    return limit - used if free is None else min(free, limit - used)


def _proc_bytes(path: str, name: str) -> int | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(values[0]) * 1024 if values else None


def _release_free_memory() -> None:
    """Return freed memory to the system: glibc keeps it, and the next model would seem to need
    less.
    """
    if os.name == "posix":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
