"""A gRPC client that costs little: it writes and reads HTTP/2 frames itself.

A usual client takes as long for a call as the server does, so that it would be what is measured.
This one knows nothing but what such a run needs: one method per connection, the same headers each
time, one message in, messages out. It reads no response headers: a call has succeeded where it
ended in order after a message.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from benchmarks.gateway.http2 import (
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    FIRST_WINDOW,
    HEAD_BYTES,
    HEADERS,
    LARGEST_FRAME_BYTES,
    PREFACE,
    RST_STREAM,
    WINDOW_UPDATE,
    Http2Connection,
    Messages,
    frame,
    header_block,
    header_text,
)


class Call:
    """One call. on_message: told each message. on_end: told whether it ended in order."""

    __slots__ = ("is_over", "message_count", "messages", "on_end", "on_message", "stream")

    def __init__(self, on_message: Callable[[bytes], None], on_end: Callable[[bool], None]) -> None:
        self.on_message = on_message
        self.on_end = on_end
        self.messages = Messages()
        self.message_count = 0
        self.stream = 0
        self.is_over = False

    def feed(self, data: bytes) -> None:
        """Bytes of gRPC's length-prefixed messages."""
        for message in self.messages.feed(data):
            self.message_count += 1
            self.on_message(message)

    def end(self, in_order: bool) -> None:
        """Once; later words do not count."""
        if not self.is_over:
            self.is_over = True
            self.on_end(in_order and self.message_count > 0)


class GrpcConnection(Http2Connection):
    """One connection to one method. metadata: sent with each call."""

    preface = PREFACE

    def __init__(self, authority: str, method: str, metadata: dict[str, str] | None = None) -> None:
        super().__init__()
        self._block = _pseudo_headers(authority, method) + header_block(metadata or {})
        self._calls: dict[int, Call] = {}
        self._next_stream = 1
        self._window_bytes = FIRST_WINDOW  # that the server still takes
        self._held: deque[bytes] = deque()

    def start(self, message: bytes, call: Call, headers: bytes = b"") -> None:
        """Send one request of one frame. headers: this call's, as `header_block` makes them."""
        assert len(message) <= LARGEST_FRAME_BYTES - 5
        call.stream = self._next_stream
        self._next_stream += 2
        self._calls[call.stream] = call
        body = b"\0" + len(message).to_bytes(4, "big") + message
        self._write(frame(HEADERS, END_HEADERS, call.stream, self._block + headers))
        data = frame(DATA, END_STREAM, call.stream, body)
        if self._held or len(body) > self._window_bytes:
            self._held.append(data)
        else:
            self._window_bytes -= len(body)
            self._write(data)

    def cancel(self, call: Call) -> None:
        """Abandon a call."""
        self._calls.pop(call.stream, None)
        self._write(frame(RST_STREAM, 0, call.stream, CANCEL))
        call.end(False)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        calls, self._calls = list(self._calls.values()), {}
        for call in calls:
            call.end(False)

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        super()._take(kind, flags, stream, payload)
        if kind == DATA and (call := self._calls.get(stream)) is not None:
            call.feed(payload)
        if kind in (DATA, HEADERS):
            if flags & END_STREAM and (call := self._calls.pop(stream, None)) is not None:
                call.end(True)
        elif kind == RST_STREAM:
            if (call := self._calls.pop(stream, None)) is not None:
                call.end(False)
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window_bytes += int.from_bytes(payload, "big")
            self._send_held()

    def _send_held(self) -> None:
        while self._held and len(self._held[0]) - HEAD_BYTES <= self._window_bytes:
            self._window_bytes -= len(self._held[0]) - HEAD_BYTES
            self._write(self._held.popleft())


async def connect(
    address: str, method: str, metadata: dict[str, str] | None = None
) -> GrpcConnection:
    """address: host:port. method: /package.Service/Method."""
    host, port = address.rsplit(":", 1)
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        lambda: GrpcConnection(address, method, metadata), host, int(port)
    )
    return connection


def _pseudo_headers(authority: str, method: str) -> bytes:
    """Static indices are of RFC 7541, appendix A."""
    block = b"\x83\x86" + b"\x04" + header_text(method) + b"\x01" + header_text(authority)
    block += b"\x0f\x10" + header_text("application/grpc")  # content-type
    return block + header_block({"te": "trailers", "grpc-timeout": "60S"})
