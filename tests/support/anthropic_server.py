"""A server on a real socket that speaks Anthropic's Messages API, as a test plays it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from support.openai_server import OUTPUT_TOKEN_COUNT, PROMPT_TOKEN_COUNT, TEXTS, Call, OpenAIServer


async def event(call: Call, kind: str, **content: Any) -> None:
    """One server-sent event."""
    await call.raw(f"event: {kind}\ndata: {json.dumps({'type': kind} | content)}\n\n")


async def start(call: Call, **usage: object) -> None:
    """The head of a stream. usage: beside input_tokens and output_tokens."""
    counts = {"input_tokens": PROMPT_TOKEN_COUNT, "output_tokens": 1} | usage
    message = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": []}
    await call.begin()
    await event(call, "message_start", message=message | {"stop_reason": None, "usage": counts})
    block = {"type": "text", "text": ""}
    await event(call, "content_block_start", index=0, content_block=block)
    await event(call, "ping")


async def say(call: Call, *texts: str) -> None:
    """Some words of the answer, an event each."""
    for text in texts:
        delta = {"type": "text_delta", "text": text}
        await event(call, "content_block_delta", index=0, delta=delta)


async def end(call: Call, reason: str = "end_turn", **usage: object) -> None:
    """Why it ended, what was used, and the end of the stream."""
    await event(call, "content_block_stop", index=0)
    told = {"output_tokens": OUTPUT_TOKEN_COUNT} | usage
    delta = {"stop_reason": reason, "stop_sequence": None}
    await event(call, "message_delta", delta=delta, usage=told)
    await event(call, "message_stop")
    await call.close()


async def whole_message(call: Call) -> None:
    """What the server does where a test says nothing else."""
    await start(call)
    await say(call, *TEXTS)
    await end(call)


@contextlib.asynccontextmanager
async def anthropic_server(key: str = "") -> AsyncIterator[OpenAIServer]:
    """A running server; the client's base URL is its origin."""
    server = OpenAIServer((), key, path="/v1/messages", answer=whole_message)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
