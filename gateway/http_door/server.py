"""The HTTP door's server: uvicorn on the gateway's own event loop, which the walk lives on."""

from __future__ import annotations

import asyncio
import contextlib
import math
import ssl
from collections.abc import Iterator
from functools import partial
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from gateway.http_door.connections import Crowd, HttpConnection, most_connections
from gateway.page.server import listen_at
from model_pool.settings import SettingsError

KEEP_ALIVE_S = 75  # longer than load balancers keep a connection: they close it, not we
CANCEL_LIMIT_S = 5.0


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the gateway's."""
        yield


class HttpDoor:
    """Open from `start` to `stop`. address: host:port, once it is open."""

    def __init__(
        self, listen: str, drain_limit_s: float, tls: ssl.SSLContext | None = None
    ) -> None:
        """tls: None for plain text."""
        self._listen = listen
        self._tls = tls
        self._drain_limit_s = drain_limit_s
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self.address = ""
        self.is_open = False

    async def start(self, app: ASGIApp) -> None:
        """Take requests. Raises SettingsError where the address cannot be."""
        host, _, port = self._listen.rpartition(":")
        try:
            listener = listen_at(host, int(port))
        except (OSError, ValueError, OverflowError) as error:
            raise SettingsError(f"server.http: cannot listen on {self._listen}: {error}") from None
        self.address = f"{host}:{listener.getsockname()[1]}"
        self._server = _Server(self._config(app))
        self._task = asyncio.create_task(self._server.serve([listener]), name="http door")
        while not self._server.started:
            if self._task.done():
                await self._task
            await asyncio.sleep(0)
        self.is_open = True

    def _config(self, app: ASGIApp) -> uvicorn.Config:
        tls = self._tls
        connection = partial(HttpConnection, Crowd(most_connections()))
        return uvicorn.Config(
            app,
            loop="none",
            http=cast(type[asyncio.Protocol], connection),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=math.ceil(self._drain_limit_s),
            ssl_context_factory=None if tls is None else lambda *_: tls,
        )

    async def stop(self) -> None:
        """Not ready at once; requests that run have drain_limit_s to end, then they are told."""
        self.is_open = False
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        await self._task
        if left := set(self._server.server_state.tasks):
            await asyncio.wait(left, timeout=CANCEL_LIMIT_S)
