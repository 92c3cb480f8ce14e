"""A closed API that answers as it is told to: a stand-in for what cannot be reached from here."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from enum import Enum

TEXT = "A closed API has answered."
COUNTS = {"prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15}


class Mood(Enum):
    """How it answers."""

    WELL = "well"
    FAILING = "status 500"
    SILENT = "takes the request and says nothing"
    HALF = "breaks off in the middle"


class ClosedApi:
    """Speaks as much of OpenAI's chat completions as the gateway asks for, streamed."""

    def __init__(self) -> None:
        self.mood = Mood.WELL
        self.port = 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Open while the block runs."""
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = next(
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                )
                await reader.readexactly(size)
                if not await self._reply(writer):
                    break
        writer.transport.abort()

    async def _reply(self, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        mood = self.mood
        if mood is Mood.SILENT:
            await asyncio.sleep(30)
            return False
        if mood is Mood.FAILING:
            body = b'{"error": {"message": "out of order"}}'
            head = "HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\n"
            writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
            return True
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
        writer.write(b"transfer-encoding: chunked\r\n\r\n")
        for word in TEXT.split(" "):
            if mood is Mood.HALF and word == "has":
                return False
            _send(writer, {"choices": [{"index": 0, "delta": {"content": f"{word} "}}]})
            await writer.drain()
        _send(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        _send(writer, {"choices": [], "usage": COUNTS})
        _chunk(writer, "data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


def _send(writer: asyncio.StreamWriter, event: dict[str, object]) -> None:
    known = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    _chunk(writer, f"data: {json.dumps(known | event)}\n\n")


def _chunk(writer: asyncio.StreamWriter, text: str) -> None:
    writer.write(f"{len(text):x}\r\n{text}\r\n".encode())
