"""What a worker process does: take calls one by one, send back parts and results.

Imports nothing heavy: a worker holds what its functions import, and no PyTorch.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Client, Connection
from typing import Any

from vtcli.runtime.channel import Channel

MORE = b"more"
PARTS_AHEAD = 4
"""Parts of a stream that are on their way or wait for the consumer."""

_SECONDS_BETWEEN_HEARTBEATS = 0.1

_channel: Channel | None = None
_last_heartbeat = 0.0


def heartbeat() -> None:
    """Tell the parent that the call makes progress; nothing outside of a worker."""
    global _last_heartbeat
    if _channel is None:
        return
    if time.monotonic() - _last_heartbeat > _SECONDS_BETWEEN_HEARTBEATS:
        _last_heartbeat = time.monotonic()
        _channel.send(("heartbeat", None))


def serve(descriptor: str, options: dict[str, Any]) -> None:
    """Take calls from an inherited socket until the parent closes it or ends."""
    _serve(Connection(int(descriptor)), options)


def connect_and_serve(address: str, options: dict[str, Any]) -> None:
    """Take calls from a local address; the key to it is the first line of standard input."""
    key = b""
    while (byte := os.read(0, 1)) not in (b"\n", b""):
        key += byte
    _serve(Client(address, authkey=bytes.fromhex(key.decode())), options)


def _serve(connection: Connection, options: dict[str, Any]) -> None:
    global _channel, _last_heartbeat
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    if options["memory_bytes"]:
        _limit_memory(options["memory_bytes"])
    if options["preload"]:
        importlib.import_module(options["preload"])
    _channel = channel = Channel(connection)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            function, args, streams = channel.receive()
            _last_heartbeat = 0.0
            heartbeat()
            try:
                result = function(*args)
                if streams:
                    _send_parts(channel, result)
                    result = None
                reply: tuple[str, Any] = ("result", result)
            except MemoryError as error:
                reply = ("memory", f"needs more memory than a worker may take ({error})".rstrip())
            except (BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:
                error.add_note(traceback.format_exc())
                reply = ("raised", error)
            channel.send(reply, is_read_at_once=True)
            del function, args, reply


def _send_parts(channel: Channel, parts: Iterator[Any]) -> None:
    ahead, connection = 0, channel.connection
    for part in parts:
        channel.send(("part", part))
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
