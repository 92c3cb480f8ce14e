"""A gRPC server that costs little: it writes and reads HTTP/2 frames itself.

All that calls share is a service: it hears their messages, and answers when it likes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol

import hpack

from benchmarks.gateway.http2 import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    FIRST_WINDOW,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    LARGEST_FRAME_BYTES,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Http2Connection,
    Messages,
    frame,
    header_block,
    header_text,
    settings_of,
)

_STATUS_200 = b"\x88"  # RFC 7541, appendix A
_BEGIN = _STATUS_200 + b"\x0f\x10" + header_text("application/grpc")  # content-type
_OK = header_block({"grpc-status": "0"})


class Service(Protocol):
    """What is served."""

    def hear(self, call: ServedCall, message: bytes) -> None:
        """A message of a call."""
        ...

    def lose(self, call: ServedCall) -> None:
        """The call was cancelled, or its connection is gone."""
        ...


class ServedCall:
    """One call. path: /package.Service/Method."""

    __slots__ = ("_connection", "_has_begun", "held", "messages", "path", "stream", "window_bytes")

    def __init__(self, connection: ServedConnection, stream: int, path: str) -> None:
        self._connection = connection
        self._has_begun = False
        self.path = path
        self.stream = stream
        self.messages = Messages()
        self.window_bytes = 0
        self.held: deque[bytes] = deque()

    def send(self, message: bytes) -> None:
        """One message."""
        if not self._has_begun:
            self._has_begun = True
            self._connection.send_headers(self, _BEGIN)
        data = b"\0" + len(message).to_bytes(4, "big") + message
        for start in range(0, len(data), LARGEST_FRAME_BYTES):
            self.held.append(data[start : start + LARGEST_FRAME_BYTES])
        self._connection.send_held(self)

    def end(self) -> None:
        """In order, and not before all that it sent has left, which it has where little is sent."""
        assert not self.held
        self._connection.send_headers(self, _OK, END_STREAM)


class ServedConnection(Http2Connection):
    """One client's."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service
        self._decoder = hpack.Decoder()
        self._calls: dict[int, ServedCall] = {}
        self._window_bytes = self._first_window_bytes = FIRST_WINDOW  # that the client still takes
        self._left_bytes = len(PREFACE)  # of the preface

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        calls, self._calls = list(self._calls.values()), {}
        for call in calls:
            self._service.lose(call)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._left_bytes:
            skipped = min(self._left_bytes, len(data))
            self._left_bytes -= skipped
            data = data[skipped:]
        super().data_received(data)

    def send_headers(self, call: ServedCall, block: bytes, flags: int = 0) -> None:
        """HEADERS of a call; with END_STREAM, its end."""
        if flags & END_STREAM:
            self._calls.pop(call.stream, None)
        self._write(frame(HEADERS, END_HEADERS | flags, call.stream, block))

    def send_held(self, call: ServedCall) -> None:
        """What the client takes of it now."""
        held = call.held
        while held and len(held[0]) <= min(self._window_bytes, call.window_bytes):
            data = held.popleft()
            self._window_bytes -= len(data)
            call.window_bytes -= len(data)
            self._write(frame(DATA, 0, call.stream, data))

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        super()._take(kind, flags, stream, payload)
        if kind == DATA and (call := self._calls.get(stream)) is not None:
            for message in call.messages.feed(payload):
                self._service.hear(call, message)
        elif kind == HEADERS:
            path = dict(self._decoder.decode(payload, raw=True))[b":path"].decode()
            begun = self._calls[stream] = ServedCall(self, stream, path)
            begun.window_bytes = self._first_window_bytes
        elif kind == RST_STREAM and (call := self._calls.pop(stream, None)) is not None:
            self._service.lose(call)
        elif kind == WINDOW_UPDATE:
            self._widen(stream, int.from_bytes(payload, "big"))
        elif kind == SETTINGS and not flags & ACK:
            first_bytes = settings_of(payload).get(INITIAL_WINDOW_SIZE, self._first_window_bytes)
            for other in self._calls.values():
                other.window_bytes += first_bytes - self._first_window_bytes
                self.send_held(other)
            self._first_window_bytes = first_bytes

    def _widen(self, stream: int, size_bytes: int) -> None:
        if not stream:
            self._window_bytes += size_bytes
            for other in self._calls.values():
                self.send_held(other)
        elif (call := self._calls.get(stream)) is not None:
            call.window_bytes += size_bytes
            self.send_held(call)


@contextlib.asynccontextmanager
async def serving(service: Service) -> AsyncIterator[str]:
    """At a port of its own: host:port."""
    loop = asyncio.get_running_loop()
    connections: list[ServedConnection] = []

    def connect() -> ServedConnection:
        connections.append(ServedConnection(service))
        return connections[-1]

    server = await loop.create_server(connect, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        server.close()
        for one in connections:
            one.close()
        await asyncio.sleep(0)  # what was closed lets go of its socket
