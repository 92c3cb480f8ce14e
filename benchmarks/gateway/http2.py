"""HTTP/2 that costs little, for stubs and clients of a run: frames written and read by hand.

It knows nothing but what such a run needs (RFC 9113 frames; RFC 7541 headers without a dynamic
table; gRPC's length-prefixed messages).
"""

from __future__ import annotations

import asyncio
import struct
from typing import cast

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
HEADER_TABLE_SIZE, ENABLE_PUSH, INITIAL_WINDOW_SIZE = 1, 2, 4
LARGEST_WINDOW = 2**31 - 1
FIRST_WINDOW = 65_535
LARGEST_FRAME_BYTES = 2**14
CANCEL = struct.pack(">I", 8)
# Where the rest of the connection's window is less, it is filled up again.
REFILL_BYTES = 2**30
HEAD_BYTES = 9
_HEAD = struct.Struct(">HBBBI")
_SETTING = struct.Struct(">HI")


class Messages:
    """The messages of one call, of the bytes as they come."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Those that are whole by now."""
        buffer = self._buffer + data if self._buffer else data
        found, start = [], 0
        while len(buffer) - start >= 5:
            end = start + 5 + int.from_bytes(buffer[start + 1 : start + 5], "big")
            if len(buffer) < end:
                break
            found.append(buffer[start + 5 : end])
            start = end
        self._buffer = buffer[start:]
        return found


class Http2Connection(asyncio.Protocol):
    """Either side of one connection, which takes as much as it is sent."""

    preface = b""

    def __init__(self) -> None:
        self._buffer = b""
        self._unread_bytes = LARGEST_WINDOW
        self._out: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        settings = _SETTING.pack(INITIAL_WINDOW_SIZE, LARGEST_WINDOW)
        settings += _SETTING.pack(ENABLE_PUSH, 0)
        grown = struct.pack(">I", LARGEST_WINDOW - FIRST_WINDOW)
        first = frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, grown)
        self._transport.write(self.preface + first)

    def close(self) -> None:
        """End the connection."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        buffer = self._buffer + data if self._buffer else data
        start, total = 0, len(buffer)
        while total - start >= HEAD_BYTES:
            high, low, kind, flags, stream = _HEAD.unpack_from(buffer, start)
            end = start + HEAD_BYTES + (high << 8 | low)
            if total < end:
                break
            self._take(kind, flags, stream, buffer[start + HEAD_BYTES : end])
            start = end
        self._buffer = buffer[start:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """What either side does; more is the sides' own."""
        if kind == DATA:
            self._unread_bytes -= len(payload)
            if self._unread_bytes < REFILL_BYTES:
                grown = struct.pack(">I", LARGEST_WINDOW - self._unread_bytes)
                self._unread_bytes = LARGEST_WINDOW
                self._write(frame(WINDOW_UPDATE, 0, 0, grown))
        elif kind == SETTINGS and not flags & ACK:
            self._write(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self._write(frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            self._transport.close()

    def _write(self, data: bytes) -> None:
        """What is written in one turn of the loop leaves together."""
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """As it is sent."""
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def settings_of(payload: bytes) -> dict[int, int]:
    """Of a SETTINGS frame."""
    return dict(_SETTING.iter_unpack(payload))


def header_block(headers: dict[str, str]) -> bytes:
    """Headers as they are sent: literal, never indexed (RFC 7541, 6.2.2)."""
    return b"".join(
        b"\x00" + header_text(name) + header_text(value) for name, value in headers.items()
    )


def header_text(value: str) -> bytes:
    """A string of RFC 7541, 5.2, not compressed."""
    data = value.encode()
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, size = len(data) - 127, bytearray([127])
    while rest >= 128:
        size.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*size, rest]) + data
