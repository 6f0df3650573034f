"""What a worker process does: take calls one by one, send back parts and results.

Imports nothing heavy: a worker holds what its functions import, and no PyTorch.
"""

from __future__ import annotations

import mmap
import os
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Client, Connection
from typing import Any

MORE = b"more"
PARTS_AHEAD = 4
"""Parts of a stream that are on their way or wait for the consumer."""

_SHARED_BYTES = 1 << 16
"""Arrays from this size on travel through shared memory."""
_SECONDS_BETWEEN_HEARTBEATS = 0.1
_HAS_MEMFD = hasattr(os, "memfd_create") and sys.platform == "linux"

_connection: Connection
_last_heartbeat = 0.0


def heartbeat() -> None:
    """Tell the parent that the call makes progress."""
    global _last_heartbeat
    if time.monotonic() - _last_heartbeat > _SECONDS_BETWEEN_HEARTBEATS:
        _last_heartbeat = time.monotonic()
        send(_connection, ("heartbeat", None))


def send(connection: Connection, message: Any) -> None:
    """Send a picklable message; large buffers in it, such as arrays, through shared memory."""
    buffers: list[pickle.PickleBuffer] = []

    def in_band(buffer: pickle.PickleBuffer) -> bool:
        small = not _HAS_MEMFD or buffer.raw().nbytes < _SHARED_BYTES
        if not small:
            buffers.append(buffer)
        return small

    data = pickle.dumps(message, protocol=5, buffer_callback=in_band)
    sizes = [buffer.raw().nbytes for buffer in buffers]
    handle = _fill(buffers, sum(sizes)) if buffers else None
    connection.send_bytes(pickle.dumps((sizes, data)))
    if handle is not None:
        from multiprocessing.reduction import send_handle

        send_handle(connection, handle, 0)
        os.close(handle)


def receive(connection: Connection) -> Any:
    """The next message; its large arrays lie in memory that is given back with them."""
    sizes, data = pickle.loads(connection.recv_bytes())
    if not sizes:
        return pickle.loads(data)
    from multiprocessing.reduction import recv_handle

    handle = recv_handle(connection)
    memory = memoryview(mmap.mmap(handle, sum(sizes)))
    os.close(handle)
    views, start = [], 0
    for size in sizes:
        views.append(memory[start : start + size])
        start += size
    return pickle.loads(data, buffers=views)


def _fill(buffers: list[pickle.PickleBuffer], size: int) -> int:
    handle = os.memfd_create("vt")
    try:
        os.truncate(handle, size)
        with mmap.mmap(handle, size) as memory:
            start = 0
            for buffer in buffers:
                raw = buffer.raw()
                memory[start : start + raw.nbytes] = raw
                start += raw.nbytes
    except BaseException:
        os.close(handle)
        raise
    return handle


def serve(descriptor: str, limits: dict[str, Any]) -> None:
    """Take calls from an inherited socket until the parent closes it or ends."""
    _serve(Connection(int(descriptor)), limits)


def connect_and_serve(address: str, limits: dict[str, Any]) -> None:
    """Take calls from a local address; the key to it is the first line of standard input."""
    key = b""
    while (byte := os.read(0, 1)) not in (b"\n", b""):
        key += byte
    _serve(Client(address, authkey=bytes.fromhex(key.decode())), limits)


def _serve(connection: Connection, limits: dict[str, Any]) -> None:
    global _connection, _last_heartbeat
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    if limits["memory_bytes"]:
        _limit_memory(limits["memory_bytes"])
    _connection = connection
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            function, args, streams = receive(connection)
            _last_heartbeat = 0.0
            heartbeat()
            try:
                result = function(*args)
                if streams:
                    _send_parts(connection, result)
                    result = None
                reply: tuple[str, Any] = ("result", result)
            except MemoryError as error:
                reply = ("memory", f"needs more memory than a worker may take ({error})".rstrip())
            except (BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:
                error.add_note(traceback.format_exc())
                reply = ("raised", error)
            send(connection, reply)
            del function, args, reply


def _send_parts(connection: Connection, parts: Iterator[Any]) -> None:
    ahead = 0
    for part in parts:
        send(connection, ("part", part))
        ahead += 1
        while ahead >= PARTS_AHEAD or connection.poll():
            if connection.recv_bytes() == MORE:
                ahead -= 1
    while ahead:
        if connection.recv_bytes() == MORE:
            ahead -= 1


def _limit_memory(size: int) -> None:
    try:
        import resource
    except ImportError:
        return
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _leave_with_parent() -> None:
    """Standard input ends when the parent does."""
    with suppress(OSError, ValueError):
        while os.read(0, 1):
            pass
    os._exit(1)
