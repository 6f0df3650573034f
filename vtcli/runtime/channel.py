"""Messages between a process and its worker: picklable objects, whose large arrays travel through
shared memory (Linux) or through the socket.

Imports nothing heavy: a worker waits for it at its start.
"""

from __future__ import annotations

import mmap
import os
import pickle
import sys
from multiprocessing.connection import Connection
from typing import Any

_SHARED_BYTES = 1 << 16
"""Arrays from this size on travel through shared memory."""
_KEPT_BYTES = 64 << 20
"""Arrays of at most this size use the same memory again and again."""
_HAS_MEMFD = hasattr(os, "memfd_create") and sys.platform == "linux"


class Channel:
    """One end of a connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._kept: mmap.mmap | None = None

    def send(self, message: Any, is_read_at_once: bool = False) -> None:
        """Send a message.

        With `is_read_at_once` nothing else is sent before the other end has read it, so that its
        arrays may lie where those of the last such message were.
        """
        buffers: list[pickle.PickleBuffer] = []

        def in_band(buffer: pickle.PickleBuffer) -> bool:
            small = not _HAS_MEMFD or buffer.raw().nbytes < _SHARED_BYTES
            if not small:
                buffers.append(buffer)
            return small

        data = pickle.dumps(message, protocol=5, buffer_callback=in_band)
        raws = [buffer.raw() for buffer in buffers]
        sizes = [raw.nbytes for raw in raws]
        keep = is_read_at_once and 0 < sum(sizes) <= _KEPT_BYTES
        handle = self._filled(raws, keep) if buffers else None
        self.connection.send_bytes(pickle.dumps((sizes, keep, handle is not None, data)))
        if handle is not None:
            from multiprocessing.reduction import send_handle

            send_handle(self.connection, handle, 0)
            os.close(handle)

    def receive(self) -> Any:
        """The next message; its arrays lie in memory that is given back with them."""
        sizes, kept, has_handle, data = pickle.loads(self.connection.recv_bytes())
        if not sizes:
            return pickle.loads(data)
        memory = self._received() if has_handle else self._kept
        assert memory is not None
        if kept:
            self._kept = memory
        views, start = [], 0
        for size in sizes:
            view = memoryview(memory)[start : start + size]
            views.append(bytearray(view) if kept else view)
            start += size
        return pickle.loads(data, buffers=views)

    def _received(self) -> mmap.mmap:
        from multiprocessing.reduction import recv_handle

        handle = recv_handle(self.connection)
        try:
            return mmap.mmap(handle, os.fstat(handle).st_size)
        finally:
            os.close(handle)

    def _filled(self, raws: list[memoryview], keep: bool) -> int | None:
        """Put buffers into shared memory; its file where the other end does not have it yet."""
        size = sum(raw.nbytes for raw in raws)
        handle = None
        memory = self._kept if keep else None
        if memory is None or len(memory) < size:
            handle = os.memfd_create("vt")
            try:
                # Room for somewhat larger ones in memory that is kept.
                os.truncate(handle, size + size // 2 if keep else size)
                memory = mmap.mmap(handle, os.fstat(handle).st_size)
            except BaseException:
                os.close(handle)
                raise
        start = 0
        for raw in raws:
            memory[start : start + raw.nbytes] = raw
            start += raw.nbytes
        if keep:
            self._kept = memory
        else:
            memory.close()
        return handle
