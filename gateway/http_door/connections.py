"""What a connection may do before it is a request: slowly, at length, or nothing at all.

uvicorn with httptools bounds none of it. A head has to be whole within HEAD_LIMIT_S and
LARGEST_HEAD_BYTES; connections that do nothing give way to new ones.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any

from pydantic_core import to_json
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.http_door.frame import ABORT
from gateway.http_door.statuses import INVALID, error_json

HEAD_LIMIT_S = 10.0
LARGEST_HEAD_BYTES = 64 * 1024
LARGEST_HEADER_COUNT = 128
MOST_CONNECTIONS = 4096


def most_connections() -> int:
    """Half of what this process may open: the other half is for workers, databases and gRPC."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(1, min(MOST_CONNECTIONS, soft // 2))


class Crowd:
    """All connections of one door. most: of them; then the one that was idle longest is cut."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._idle: dict[HttpConnection, None] = {}  # the first one for the longest time
        self._count = 0

    def enter(self, one: HttpConnection) -> None:
        """A new one. Where all others are busy, it is cut itself."""
        self._count += 1
        self.rests(one)
        if self._count > self._most:
            idle = next(iter(self._idle))
            del self._idle[idle]
            idle.cut()

    def leave(self, one: HttpConnection) -> None:
        """It is lost."""
        self._count -= 1
        self._idle.pop(one, None)

    def works(self, one: HttpConnection) -> None:
        """It has a request that is being answered."""
        self._idle.pop(one, None)

    def rests(self, one: HttpConnection) -> None:
        """It has none."""
        self._idle[one] = None


class HttpConnection(HttpToolsProtocol):
    """uvicorn's connection, bounded."""

    def __init__(self, crowd: Crowd, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._crowd = crowd
        self._head_timer: asyncio.TimerHandle | None = None
        self._is_in_head = True
        self._head_bytes = 0
        self._is_too_large = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A caller is there; its first request has to come."""
        super().connection_made(transport)
        self._await_head()
        self._crowd.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more."""
        self._stop_waiting()
        self._unset_keepalive_if_required()
        self._crowd.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes, in which a head may be."""
        if self._is_in_head:
            self._await_head()  # also for what is no request yet, such as empty lines
            self._head_bytes += len(data)
        super().data_received(data)
        if self._is_in_head and self._head_bytes > LARGEST_HEAD_BYTES:
            self._is_too_large = True
            self.send_400_response("")

    def on_headers_complete(self) -> None:
        """A request, or too much of one: what is raised here ends in send_400_response."""
        size_bytes = len(self.url) + sum(len(key) + len(value) for key, value in self.headers)
        if size_bytes > LARGEST_HEAD_BYTES or len(self.headers) > LARGEST_HEADER_COUNT:
            self._is_too_large = True
            raise ValueError("the request's head is too large")
        super().on_headers_complete()
        self._stop_waiting()
        self._is_in_head = False
        self._crowd.works(self)
        self.scope["extensions"] = {ABORT: {"cut": self.cut}}

    def on_message_complete(self) -> None:
        """The body is whole: the next request may begin."""
        super().on_message_complete()
        self._is_in_head, self._head_bytes = True, 0

    def on_response_complete(self) -> None:
        """The answer is sent, or waits to be read."""
        super().on_response_complete()
        if not self._is_answering():
            self._crowd.rests(self)

    def send_400_response(self, msg: str) -> None:
        """What is no request is told so, but never in the middle of another one's answer."""
        if self._is_answering():
            self.transport.close()
            return
        status, text = 400, "this is no HTTP request"
        if self._is_too_large:
            status = 431
            text = f"a head has at most {LARGEST_HEAD_BYTES} bytes, {LARGEST_HEADER_COUNT} headers"
        body = to_json(error_json(text, INVALID, "malformed_request"))
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head % len(body) + body)
        self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing was asked for long; or nobody reads, which closing alone would wait for."""
        if self.transport.get_write_buffer_size():
            self.cut()
        super().timeout_keep_alive_handler()

    def cut(self) -> None:
        """Close at once, whatever was not sent yet."""
        self._stop_waiting()
        self.transport.abort()

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_LIMIT_S, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._is_answering():
            self._await_head()  # a client's stray line end must not cost it its answer
        else:
            self.cut()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
