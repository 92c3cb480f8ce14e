"""An HTTP/1.1 client for OpenAI-compatible servers that costs as little as `grpc_load`'s."""

from __future__ import annotations

import asyncio
from typing import cast

from benchmarks.gateway.grpc_load import Call


class HttpConnection(asyncio.Protocol):
    """One connection to /v1/chat/completions, one request at a time.

    A message is the body of a plain answer, or an event of a stream; [DONE] is none.
    """

    def __init__(self, authority: str, key: str) -> None:
        self._head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {authority}\r\n"
            f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: "
        ).encode()
        self._call: Call | None = None
        self._buffer = bytearray()
        self._is_ok = self._is_chunked = False
        self._left_bytes: int | None = None  # of the body; None: its head is not read yet

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def start(self, message: bytes, call: Call, headers: bytes = b"") -> None:
        """Send one request; the one before has ended. headers: none are sent."""
        assert self._call is None
        self._call, self._left_bytes = call, None
        self._buffer.clear()
        self._transport.write(self._head + b"%d\r\n\r\n" % len(message) + message)

    def cancel(self, call: Call) -> None:
        """Abandon a call, and the connection with it."""
        self._transport.abort()
        call.end(False)

    def close(self) -> None:
        """End the connection."""
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if self._call is not None:
            self._call.end(False)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._buffer += data
        if self._left_bytes is None and not self._read_head():
            return
        if self._is_chunked:
            self._read_chunks()
        elif len(self._buffer) >= (self._left_bytes or 0):
            self._tell(bytes(self._buffer))
            self._end()

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        lines = bytes(self._buffer[:end]).lower().split(b"\r\n")
        del self._buffer[: end + 4]
        headers = dict(line.split(b": ", 1) for line in lines[1:])
        self._is_ok = lines[0].split()[1] == b"200"
        self._is_chunked = headers.get(b"transfer-encoding") == b"chunked"
        self._left_bytes = int(headers.get(b"content-length", b"0"))
        return True

    def _read_chunks(self) -> None:
        while (line := self._buffer.find(b"\r\n")) >= 0:
            size = int(self._buffer[:line], 16)
            end = line + 2 + size + 2
            if len(self._buffer) < end:
                return
            chunk = bytes(self._buffer[line + 2 : end - 2])
            del self._buffer[:end]
            if not size:
                self._end()
                return
            for event in chunk.split(b"\n\n"):
                if event.startswith(b"data: {"):
                    self._tell(event)

    def _tell(self, message: bytes) -> None:
        if self._call is not None and self._is_ok:
            self._call.message_count += 1
            self._call.on_message(message)

    def _end(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.end(self._is_ok)


async def connect(address: str, key: str) -> HttpConnection:
    """address: host:port."""
    host, port = address.rsplit(":", 1)
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        lambda: HttpConnection(address, key), host, int(port)
    )
    return connection
