"""The process: a listening socket, bounds on what a client may do before it is known, and an end without lost requests.

SIGTERM or Ctrl-C: `ready` says 503 while requests are still taken, for as long as whoever spreads the load needs to
notice; then the server stops listening, finishes what is under way and exits.  A second signal skips the waiting.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sememe.serve.service import Service
from sememe.serve.settings import Limits, ServeSettings

SWITCH_SECONDS = 0.0005
"""A thread that searches lets the event loop go on after so long, instead of Python's 5 ms."""

_log = logging.getLogger(__name__)


class DrainingServer(uvicorn.Server):
    """A server that says that it is leaving before it leaves."""

    def __init__(self, config: uvicorn.Config, *, service: Service, told: Callable[[str], None]) -> None:
        """told: is given the address once requests are taken."""
        super().__init__(config)
        self._service, self._told = service, told
        self._leaves_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the drain, the second ends it, the third does not wait for anything."""
        if self._leaves_at is None:
            self._service.draining = True
            self._leaves_at = time.monotonic() + self._service.settings.drain_seconds
        elif not self.should_exit:
            self.should_exit = True
        else:
            self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second: whether to stop listening."""
        if self._leaves_at is not None and time.monotonic() >= self._leaves_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def startup(self, sockets: Any = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._told(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")


class BoundedProtocol(HttpToolsProtocol):
    """HTTP whose headers must come whole within bounds of time and size: uvicorn has none for either."""

    limits = Limits()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._head_bytes = 0
        self._in_head = True
        self._patience: asyncio.TimerHandle | None = self.loop.call_later(self.limits.read_seconds, self._let_go)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes, of headers or of a body."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            # What came in one piece with the rest of its request is measured by the gate.
            if self._head_bytes > self.limits.header_bytes and not self.transport.is_closing():
                self.send_400_response("The headers are too long.")

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._head_bytes, self._in_head = 0, True
        if self._patience is None:
            self._patience = self.loop.call_later(self.limits.read_seconds, self._let_go)

    def on_headers_complete(self) -> None:
        """The headers are there; the body has a limit of its own."""
        self._in_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """The next request may begin."""
        super().on_response_complete()
        self._head_bytes = 0

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _let_go(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


def serve(app: ASGIApp, service: Service, *, host: str, port: int, told: Callable[[str], None]) -> None:
    """Answer until a signal comes.

    Args:
        app: of `create_app`.
        service: the one that `app` calls.
        host, port: where to listen; port 0 takes a free one.
        told: is given the address once requests are taken.
    """
    settings: ServeSettings = service.settings
    sys.setswitchinterval(SWITCH_SECONDS)
    protocol = type("Protocol", (BoundedProtocol,), {"limits": settings.limits})
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=settings.limits.connections,
        timeout_graceful_shutdown=settings.stop_seconds,
    )
    DrainingServer(config, service=service, told=told).run()
