"""A gRPC client that costs little: it writes and reads HTTP/2 frames itself.

A usual client takes as long for a call as the server does, so that it would be what is measured.
This one knows nothing but what such a run needs: one method per connection, the same headers each
time (RFC 9113 frames; RFC 7541 headers without a dynamic table), one message in, messages out. It
reads no response headers: a call has succeeded where it ended in order after a message.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import cast

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
LARGEST_WINDOW = 2**31 - 1
LARGEST_FRAME_BYTES = 2**14
CANCEL = struct.pack(">I", 8)
# Where the rest of the connection's window is less, it is filled up again.
REFILL_BYTES = 2**30
_HEAD = struct.Struct(">HBBBI")
_SETTING = struct.Struct(">HI")


class Call:
    """One call. on_message: told each message. on_end: told whether it ended in order."""

    __slots__ = ("buffer", "is_over", "message_count", "on_end", "on_message", "stream")

    def __init__(self, on_message: Callable[[bytes], None], on_end: Callable[[bool], None]) -> None:
        self.on_message = on_message
        self.on_end = on_end
        self.buffer = b""
        self.message_count = 0
        self.stream = 0
        self.is_over = False

    def feed(self, data: bytes) -> None:
        """Bytes of gRPC's length-prefixed messages."""
        buffer = self.buffer + data if self.buffer else data
        start = 0
        while len(buffer) - start >= 5:
            end = start + 5 + int.from_bytes(buffer[start + 1 : start + 5], "big")
            if len(buffer) < end:
                break
            self.message_count += 1
            self.on_message(buffer[start + 5 : end])
            start = end
        self.buffer = buffer[start:]

    def end(self, in_order: bool) -> None:
        """Once; later words do not count."""
        if not self.is_over:
            self.is_over = True
            self.on_end(in_order and self.message_count > 0)


class GrpcConnection(asyncio.Protocol):
    """One connection to one method. metadata: sent with each call."""

    def __init__(self, authority: str, method: str, metadata: dict[str, str] | None = None) -> None:
        self._block = _pseudo_headers(authority, method) + header_block(metadata or {})
        self._calls: dict[int, Call] = {}
        self._next_stream = 1
        self._buffer = b""
        self._unread_bytes = LARGEST_WINDOW
        self._window_bytes = 65_535  # that the server still takes
        self._first_window_bytes = 65_535
        self._held: deque[bytes] = deque()
        self._out: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        settings = _SETTING.pack(4, LARGEST_WINDOW) + _SETTING.pack(2, 0)
        self._transport.write(
            PREFACE
            + _frame(SETTINGS, 0, 0, settings)
            + _frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", LARGEST_WINDOW - 65_535))
        )

    def start(self, message: bytes, call: Call, headers: bytes = b"") -> None:
        """Send one request of one frame. headers: this call's, as `header_block` makes them."""
        assert len(message) <= LARGEST_FRAME_BYTES - 5
        call.stream = self._next_stream
        self._next_stream += 2
        self._calls[call.stream] = call
        body = b"\0" + len(message).to_bytes(4, "big") + message
        self._write(_frame(HEADERS, END_HEADERS, call.stream, self._block + headers))
        data = _frame(DATA, END_STREAM, call.stream, body)
        if self._held or len(body) > self._window_bytes:
            self._held.append(data)
        else:
            self._window_bytes -= len(body)
            self._write(data)

    def cancel(self, call: Call) -> None:
        """Abandon a call."""
        self._calls.pop(call.stream, None)
        self._write(_frame(RST_STREAM, 0, call.stream, CANCEL))
        call.end(False)

    def close(self) -> None:
        """End the connection."""
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        calls, self._calls = list(self._calls.values()), {}
        for call in calls:
            call.end(False)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        buffer = self._buffer + data if self._buffer else data
        start, total = 0, len(buffer)
        while total - start >= 9:
            high, low, kind, flags, stream = _HEAD.unpack_from(buffer, start)
            end = start + 9 + (high << 8 | low)
            if total < end:
                break
            self._take(kind, flags, stream, buffer[start + 9 : end])
            start = end
        self._buffer = buffer[start:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            self._unread_bytes -= len(payload)
            if self._unread_bytes < REFILL_BYTES:
                grown = struct.pack(">I", LARGEST_WINDOW - self._unread_bytes)
                self._unread_bytes = LARGEST_WINDOW
                self._write(_frame(WINDOW_UPDATE, 0, 0, grown))
            if (call := self._calls.get(stream)) is not None:
                call.feed(payload)
        if kind in (DATA, HEADERS):
            if flags & END_STREAM and (call := self._calls.pop(stream, None)) is not None:
                call.end(True)
        elif kind == RST_STREAM:
            if (call := self._calls.pop(stream, None)) is not None:
                call.end(False)
        elif kind == SETTINGS and not flags & ACK:
            self._write(_frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self._write(_frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window_bytes += int.from_bytes(payload, "big")
            self._send_held()
        elif kind == GOAWAY:
            self._transport.close()

    def _send_held(self) -> None:
        while self._held and len(self._held[0]) - 9 <= self._window_bytes:
            self._window_bytes -= len(self._held[0]) - 9
            self._write(self._held.popleft())

    def _write(self, data: bytes) -> None:
        """What is written in one turn of the loop leaves together."""
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        self._transport.write(b"".join(self._out))
        self._out.clear()


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


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def header_block(headers: dict[str, str]) -> bytes:
    """Headers as they are sent: literal, never indexed (RFC 7541, 6.2.2)."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in headers.items())


def _pseudo_headers(authority: str, method: str) -> bytes:
    """Static indices are of RFC 7541, appendix A."""
    block = b"\x83\x86" + b"\x04" + _text(method) + b"\x01" + _text(authority)
    block += b"\x0f\x10" + _text("application/grpc")  # content-type
    return block + header_block({"te": "trailers", "grpc-timeout": "60S"})


def _text(value: str) -> bytes:
    data = value.encode()
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, size = len(data) - 127, bytearray([127])
    while rest >= 128:
        size.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*size, rest]) + data
