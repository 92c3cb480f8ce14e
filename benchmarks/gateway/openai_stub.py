"""An OpenAI-compatible server that computes nothing, in a process of its own.

    python -m benchmarks.gateway.openai_stub

Writes its address as its first line. `max_tokens` and `seed` say what to answer, as for
`worker_stub`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, cast

from benchmarks.gateway.pacing import Pacing, token_text, unpacked

USAGE = {"prompt_tokens": 50, "completion_tokens": 0, "total_tokens": 50}
KNOWN = {"id": "stub", "created": 0, "model": "stub"}
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


class Connection(asyncio.Protocol):
    """One client's."""

    def __init__(self) -> None:
        self._buffer = b""
        self._streaming: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if self._streaming is not None:
            self._streaming.cancel()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        place = head.find(b"content-length:")
        size = int(head[place + 15 :].split(b"\r\n", 1)[0]) if place >= 0 else 0
        if len(self._buffer) < end + 4 + size:
            return
        body, self._buffer = self._buffer[end + 4 : end + 4 + size], b""
        if not head.startswith(b"post"):
            self._answer({"object": "list", "data": [{"id": "stub", "object": "model"}]})
            return
        request = json.loads(body)
        count = request.get("max_tokens") or request.get("max_completion_tokens") or 16
        if request.get("stream"):
            pacing = unpacked(request.get("seed") or 0)
            self._streaming = asyncio.create_task(self._stream(count, pacing))
        else:
            self._answer(_whole(count))

    def _answer(self, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self._transport.write(head % len(body) + body)

    async def _stream(self, token_count: int, pacing: Pacing) -> None:
        self._transport.write(STREAM_HEAD)
        loop, sent_count = asyncio.get_running_loop(), 0
        due_s = loop.time()
        while sent_count < token_count:
            if pacing.gap_s:
                due_s += pacing.gap_s
                await asyncio.sleep(max(0.0, due_s - loop.time()))
            count = min(pacing.tokens_per_event, token_count - sent_count)
            sent_count += count
            self._transport.write(_chunk(_piece(count, is_last=sent_count == token_count)))
        usage = KNOWN | {"object": "chat.completion.chunk", "choices": [], "usage": USAGE}
        self._transport.write(_chunk(json.dumps(usage)) + _chunk("[DONE]") + b"0\r\n\r\n")


def _whole(token_count: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": token_text(token_count)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = USAGE | {"completion_tokens": token_count, "total_tokens": 50 + token_count}
    return KNOWN | {"object": "chat.completion", "choices": [choice], "usage": usage}


def _piece(count: int, *, is_last: bool) -> str:
    choice = {
        "index": 0,
        "delta": {"role": "assistant", "content": token_text(count)},
        "finish_reason": "stop" if is_last else None,
    }
    return json.dumps(KNOWN | {"object": "chat.completion.chunk", "choices": [choice]})


def _chunk(event: str) -> bytes:
    data = f"data: {event}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


async def serve() -> None:
    """Until the process ends."""
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    sys.stdout.write(f"{host}:{port}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve())
