"""What goes back on one HTTP request: a whole body, or events until there is no more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from starlette.types import Send

from gateway.http_door.answers import to_event
from gateway.http_door.statuses import HTTP_OF, to_error_json, to_headers
from model_pool.call import REQUEST_ID_KEY, told
from model_pool.errors import FleetError

STUCK_LIMIT_S = 1.0  # for a reader who takes nothing, when all that is left to send is a failure
JSON, EVENTS = "application/json", "text/event-stream; charset=utf-8"


class Reply:
    """The answer to one request.

    status: what was sent; 0 until then. abort: cuts the connection.
    """

    def __init__(self, send: Send, request_id: str, abort: Callable[[], None]) -> None:
        self._send = send
        self._request_id = request_id
        self._abort = abort
        self.status = 0
        self.closes = False  # the connection is of no more use after this
        self._is_whole = False

    async def whole(
        self, body: bytes, headers: Mapping[str, str] | None = None, *, status: int = 200
    ) -> None:
        """Everything at once, as JSON."""
        self._is_whole = True
        length = {"content-length": str(len(body))}
        await self._start(status, JSON, {**(headers or {}), **length})
        await self._body(body, more=False)

    async def events(self, data: bytes, headers: Mapping[str, str]) -> None:
        """Some more events. headers: taken with the first ones."""
        if not self.status:
            # A proxy that gathers what it passes on would hold the first word back.
            unheld = {"cache-control": "no-cache", "x-accel-buffering": "no"}
            await self._start(200, EVENTS, {**unheld, **headers})
        await self._body(data, more=True)

    async def end(self) -> None:
        """No more events."""
        await self._body(b"", more=False)

    async def refuse(self, error: FleetError) -> None:
        """The failure in place of an answer, or as the last event, without [DONE], of one."""
        try:
            async with asyncio.timeout(STUCK_LIMIT_S):
                await self._tell(error)
        except TimeoutError:
            self._abort()
            await asyncio.sleep(0)  # the connection learns that it is lost before we return

    async def _tell(self, error: FleetError) -> None:
        told = to_error_json(error)
        if not self.status:
            status = HTTP_OF[error.reason].status
            await self.whole(to_event(told)[6:-2], to_headers(error), status=status)
        elif self._is_whole:
            self._abort()
            await asyncio.sleep(0)
        else:
            await self._body(to_event(told), more=True)
            await self.end()

    async def _start(self, status: int, kind: str, headers: Mapping[str, str]) -> None:
        self.status = status
        ours = {"content-type": kind, REQUEST_ID_KEY: self._request_id}
        every = {**ours, **dict(told.get(())), **headers}
        if self.closes:
            every["connection"] = "close"
        listed = [(key.encode(), value.encode("latin-1")) for key, value in every.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": listed})

    async def _body(self, data: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
