"""A TCP proxy that can be made to behave as broken networks do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

CHUNK_BYTES = 16_384


class FaultProxy:
    """Passes bytes between its port and the target's until it is told to misbehave.

    target: host and port. port: its own, on 127.0.0.1, once open.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.port = 0
        self._server: asyncio.Server | None = None
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._delay_s = 0.0
        self._chunk_bytes = CHUNK_BYTES
        self._halves_left = 0
        self._is_refusing = False

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Open while the block runs."""
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            self._server.close()
            self.cut()

    def cut(self) -> None:
        """Reset every connection."""
        for pair in list(self._pairs):
            for writer in pair:
                writer.transport.abort()

    def refuse(self, is_refusing: bool) -> None:
        """Break new connections off at once, too."""
        self._is_refusing = is_refusing
        if is_refusing:
            self.cut()

    def slow(self, delay_s: float, chunk_bytes: int = CHUNK_BYTES) -> None:
        """Wait so long before each piece of so many bytes; 0: as fast as it comes."""
        self._delay_s, self._chunk_bytes = delay_s, chunk_bytes

    def halve(self) -> None:
        """Of the target's next piece pass on the first half, then reset the connection."""
        self._halves_left += 1

    async def _pass_on(self, near: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        try:
            if self._is_refusing:
                raise ConnectionError
            far, far_out = await asyncio.open_connection(*self.target)
        except OSError:
            near_out.transport.abort()
            return
        pair = (near_out, far_out)
        self._pairs.add(pair)
        try:
            await asyncio.gather(
                self._copy(near, far_out, is_answer=False),
                self._copy(far, near_out, is_answer=True),
            )
        except OSError:
            pass
        finally:
            self._pairs.discard(pair)
            for writer in pair:
                writer.transport.abort()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool
    ) -> None:
        while piece := await reader.read(self._chunk_bytes):
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            if is_answer and self._halves_left:
                self._halves_left -= 1
                writer.write(piece[: len(piece) // 2])
                await writer.drain()
                raise ConnectionResetError
            writer.write(piece)
            await writer.drain()
        writer.write_eof()
