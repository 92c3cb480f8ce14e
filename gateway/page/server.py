"""The metrics port: Prometheus's page, and the one for people.

It has a thread and an event loop of its own: whoever looks, the gRPC door's loop does nothing for
it, and a scrape is answered while that one is busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import uvicorn
from prometheus_client import CollectorRegistry, make_asgi_app
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.page.documents import Document, load_static
from gateway.page.rough_clients import SternH11
from gateway.page.state import PageState
from gateway.page.unhurried import Unhurried

MOST_CONNECTIONS = 256
STOP_LIMIT_S = 2
# Nothing from elsewhere, nothing inline, in nobody's frame.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def make_app(registry: CollectorRegistry, state: PageState) -> Starlette:
    """Everything that the port answers, all of it for GET and HEAD."""
    files = load_static()

    async def static(request: Request) -> Response:
        found = files.get(request.path_params["path"])
        if found is None:
            raise HTTPException(404)
        return found.answer(request)

    async def page(request: Request) -> Response:
        return files["index.html"].answer(request)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        sampling = asyncio.create_task(state.sample_for_ever(), name="sample for the page")
        yield
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/metrics", _App(make_asgi_app(Unhurried(registry))), methods=["GET"]),
            Route("/page/state.json", _answers(state.state)),
            Route("/page/history.json", _answers(state.history)),
            Route("/static/{path:path}", static),
        ],
        middleware=[Middleware(_SafeHeaders)],
        lifespan=lifespan,
    )


def _answers(document: Callable[[], Awaitable[Document]]) -> Callable[..., Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return (await document()).answer(request)

    return endpoint


class _App:
    """An ASGI application as Starlette knows one: not a function.

    prometheus_client takes every header for UTF-8, and fails at others.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if value.isascii()]
        await self._app({**scope, "headers": headers}, receive, send)


class _SafeHeaders:
    """Adds HEADERS to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._headers = [(name.lower().encode(), text.encode()) for name, text in HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *self._headers]}
            await send(message)

        await self._app(scope, receive, send_more)


class MetricsPort:
    """The port, open from its construction on. Raises OSError, ValueError or OverflowError where
    that address cannot be.

    address: host:port; of port 0 one is chosen.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = listen_at(host, int(port))
        self.address = f"{host}:{self._socket.getsockname()[1]}"
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self, app: ASGIApp) -> None:
        """Begin to answer."""
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=SternH11,
                ws="none",
                lifespan="on",
                log_config=None,
                log_level="error",  # of a malformed request it would warn, each time
                access_log=False,
                server_header=False,
                limit_concurrency=MOST_CONNECTIONS,
                timeout_graceful_shutdown=STOP_LIMIT_S,
            )
        )
        self._thread = threading.Thread(
            target=asyncio.run, args=(self._server.serve([self._socket]),), name="metrics port"
        )
        self._thread.daemon = True  # whatever happens to the gateway, it does not live on
        self._thread.start()

    async def stop(self) -> None:
        """Answer nobody any more."""
        if self._server is None or self._thread is None:
            self._socket.close()
            return
        self._server.should_exit = True
        await asyncio.to_thread(self._thread.join)


def listen_at(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises OSError, OverflowError."""
    host = host.strip("[]")
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, place = found[0]
    return socket.create_server(place[:2], family=family)
