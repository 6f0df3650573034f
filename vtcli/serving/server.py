"""Runs a server until it is asked to stop; what was accepted until then is finished."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Sequence
from types import FrameType

import uvicorn

from vtcli.errors import UsageError
from vtcli.inference.predictor import Predictor
from vtcli.serving.app import create_app
from vtcli.serving.service import Service, TimelineText
from vtcli.serving.settings import ServeSettings


def listen(settings: ServeSettings) -> socket.socket:
    """The socket of a server; raises `UsageError` where the address cannot be used."""
    host = settings.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, settings.port), family=family, backlog=256)
    except OSError as error:
        raise UsageError(
            f"cannot listen on port {settings.port} of {host} ({error.strerror or error}); choose "
            "another with --port, or 0 for any that is free"
        ) from error


def serve(
    settings: ServeSettings,
    predictors: Sequence[Predictor],
    listening: socket.socket,
    render: TimelineText,
    on_ready: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or Ctrl-C; a second one does not wait for what was accepted.

    `render` writes timelines (see `Service`); `on_ready` is called with the address. Raises what
    loading the weights raises.
    """
    asyncio.run(_serve(settings, predictors, listening, render, on_ready))


async def _serve(
    settings: ServeSettings,
    predictors: Sequence[Predictor],
    listening: socket.socket,
    render: TimelineText,
    on_ready: Callable[[str], None],
) -> None:
    service = Service(settings, predictors, render)
    try:
        config = uvicorn.Config(
            create_app(service),
            log_config=None,
            access_log=False,
            lifespan="off",
            http="h11",
            server_header=False,
        )
        server = _Server(config, service, lambda: on_ready(_address(listening)))
        await server.serve([listening])
    finally:
        await asyncio.to_thread(service.close)


class _Server(uvicorn.Server):
    """Stops in two steps: new work is refused while jobs can still be followed, then it ends."""

    def __init__(
        self, config: uvicorn.Config, service: Service, on_started: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self.service, self.on_started = service, on_started
        self._loop = asyncio.get_running_loop()
        self._stop: asyncio.Task[None] | None = None
        self._ignores_interrupts = signal.getsignal(signal.SIGINT) is signal.SIG_IGN

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen; from here on signals are obeyed in two steps."""
        await super().startup(sockets)
        self.on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The handler of SIGTERM and Ctrl-C; a caller that ignores the latter is obeyed."""
        if sig == signal.SIGINT and self._ignores_interrupts:
            return
        if self.service.admission.stopping:
            self.force_exit = self.should_exit = True
            return
        self.service.admission.stopping = True
        self._loop.call_soon_threadsafe(self._begin_stop)

    def _begin_stop(self) -> None:
        self._stop = self._loop.create_task(self._finish())

    async def _finish(self) -> None:
        await self.service.jobs.drained()
        self.should_exit = True


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
