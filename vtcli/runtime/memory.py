"""Memory that is freed and needed again: the settings of glibc's allocator."""

from __future__ import annotations

import os

# Settings of the environment that decide instead.
SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")
# Numbers of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 1 << 30
# The largest value that glibc chooses by itself. A larger block is returned at once.
LARGEST_KEPT_BLOCK = 32 << 20

_when_loaded = False


def keep_freed_memory_when_loaded() -> None:
    """In a program: `keep_freed_memory` as soon as there is a network, whose loading frees more."""
    global _when_loaded
    _when_loaded = True


def network_is_loaded() -> None:
    """What `keep_freed_memory_when_loaded` waits for."""
    if _when_loaded:
        keep_freed_memory()


def keep_freed_memory() -> bool:
    """Keep freed memory for the next allocations, unless the environment decides; whether it does.

    A forward pass on a CPU allocates and frees the same blocks again and again. By default glibc
    returns most of them to the system each time, which then has to clear every page again: up to a
    fifth of the time of a pass. At most `KEPT_BYTES` are kept. This holds for the whole process, so
    that only a program may decide it and a library may not. Other allocators are left as they are.
    """
    if any(name in os.environ for name in SETTINGS) or not _has_glibc():
        return False
    import ctypes  # not before a network is loaded: the command line starts without it

    mallopt = ctypes.CDLL(None).mallopt
    # Setting one of them also stops glibc from changing both as it goes.
    return bool(
        mallopt(_MMAP_THRESHOLD, LARGEST_KEPT_BLOCK) and mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
    )


def _has_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError):  # Windows; another C library
        return False
