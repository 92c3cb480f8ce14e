"""An OpenAI-compatible server on a real socket, which plays what a test wants to happen."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

TEXTS = ("It is ", "forty", "-two.")
PROMPT_TOKEN_COUNT, OUTPUT_TOKEN_COUNT = 11, 5


@dataclass
class Call:
    """One POST /chat/completions, to be answered step by step."""

    body: dict[str, Any]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def refuse(
        self, status: int, error: dict[str, object] | str = "no", **headers: str
    ) -> None:
        """An error in place of an answer. headers: retry_after="7" becomes retry-after: 7."""
        told = {"message": error} if isinstance(error, str) else error
        await self.reply(status, json.dumps({"error": told}), **headers)

    async def reply(
        self, status: int, content: str, kind: str = "application/json", **headers: str
    ) -> None:
        """A whole answer."""
        lines = [f"HTTP/1.1 {status} Said", f"content-type: {kind}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        lines += [f"content-length: {len(content.encode())}", "", content]
        await self._send("\r\n".join(lines))

    async def begin(self) -> None:
        """The head of a stream."""
        lines = ["HTTP/1.1 200 OK", "content-type: text/event-stream"]
        await self._send("\r\n".join([*lines, "transfer-encoding: chunked", "", ""]))

    async def say(self, *texts: str) -> None:
        """Some words of the answer, an event each."""
        for text in texts:
            await self.event({"choices": [{"index": 0, "delta": {"content": text}}]})

    async def tell(self, text: str, *log_probabilities: object) -> None:
        """Some words and how probable their tokens were, in one event."""
        tokens = [{"token": "t", "logprob": one, "top_logprobs": []} for one in log_probabilities]
        choice = {"index": 0, "delta": {"content": text}, "logprobs": {"content": tokens}}
        await self.event({"choices": [choice]})

    async def end(self, reason: str | None = "stop", **usage: object) -> None:
        """Why it ended, what was used, and the end of the stream. usage: in place of ours."""
        await self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        used = {"prompt_tokens": PROMPT_TOKEN_COUNT, "completion_tokens": OUTPUT_TOKEN_COUNT}
        await self.event({"choices": [], "usage": used | {"total_tokens": 0} | usage})
        await self.raw("data: [DONE]\n\n")
        await self.close()

    async def close(self) -> None:
        """The end of the stream."""
        await self._send("0\r\n\r\n")

    async def event(self, content: dict[str, Any]) -> None:
        """Any event of the stream."""
        if "error" not in content:
            content |= {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        await self.raw(f"data: {json.dumps(content)}\n\n")

    async def raw(self, text: str) -> None:
        """Anything within the stream."""
        await self._send(f"{len(text.encode()):x}\r\n{text}\r\n")

    async def drop(self) -> None:
        """Break the connection."""
        self.writer.transport.abort()

    async def until_gone(self) -> None:
        """Return when the client has closed the connection."""
        with contextlib.suppress(ConnectionError):
            assert not await self.reader.read(), "the client sent more"

    async def _send(self, text: str) -> None:
        self.writer.write(text.encode())
        await self.writer.drain()


async def whole_answer(call: Call) -> None:
    """What the server does where a test says nothing else."""
    await call.begin()
    await call.say(*TEXTS)
    await call.end()


@dataclass
class OpenAIServer:
    """The server. models: what it lists, anything else is sent as it is. key: which it asks for.

    answer: what happens to a call. calls: those that came so far.
    """

    models: tuple[str, ...] | str
    key: str = ""
    path: str = "/v1/chat/completions"
    context_token_count: int | None = None
    answer: Callable[[Call], Awaitable[None]] = whole_answer
    calls: list[Call] = field(default_factory=list)
    poll_count: int = 0
    port: int = 0
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """As fleet.yaml has it."""
        return f"{self.origin}/v1"

    @property
    def origin(self) -> str:
        """Without a path."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen, after the first time where it listened before."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the door and every connection."""
        if self._server:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    await self._serve(reader, writer)
        except asyncio.CancelledError:
            pass  # by `stop`; asyncio would log it
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        call = Call(json.loads(body) if body else {}, reader, writer)
        if self.key and headers["authorization"] != f"bearer {self.key}":
            await call.refuse(401)
        elif head[0].startswith("GET /v1/models "):
            self.poll_count += 1
            if isinstance(self.models, str):
                kind = "text/html" if self.models.startswith("<") else "application/json"
                await call.reply(200, self.models, kind=kind)
            else:
                context = {"max_model_len": self.context_token_count}
                listed = [{"id": name, "object": "model"} | context for name in self.models]
                await call.reply(200, json.dumps({"object": "list", "data": listed}))
        else:
            assert head[0].startswith(f"POST {self.path} "), head[0]
            self.calls.append(call)
            await self.answer(call)


@contextlib.asynccontextmanager
async def openai_server(*models: str, key: str = "") -> AsyncIterator[OpenAIServer]:
    """A running server."""
    server = OpenAIServer(models, key)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
