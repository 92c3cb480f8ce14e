"""/v1/chat/completions and /v1/completions, over the walk."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from deltafleet.v1 import inference_pb2, routing_pb2
from gateway.caller import Call
from gateway.http_door.answers import Chat, Completion, Events, Shape, to_answer
from gateway.http_door.batches import batched
from gateway.http_door.fields import Asked, ChatAsked, CompletionAsked
from gateway.http_door.frame import Incoming
from gateway.http_door.reading import read_fields, to_chat, to_completion
from gateway.http_door.reply import Reply
from gateway.http_door.usage import cost_headers, route_headers
from gateway.walk import Event, Walker

Asking = TypeVar("Asking", bound=Asked)
Request = inference_pb2.GenerateRequest


class Completions:
    """Answers prompts. clock: seconds since 1970."""

    def __init__(self, walk: Walker, *, clock: Callable[[], float] = time.time) -> None:
        self._walk = walk
        self._clock = clock

    async def chat(self, incoming: Incoming, reply: Reply) -> None:
        """POST /v1/chat/completions."""
        asked = read_fields(ChatAsked, incoming.body)
        await self._answer(Chat(), asked, to_chat(asked), incoming.call, reply)

    async def complete(self, incoming: Incoming, reply: Reply) -> None:
        """POST /v1/completions."""
        asked = read_fields(CompletionAsked, incoming.body)
        await self._answer(Completion(), asked, to_completion(asked), incoming.call, reply)

    async def _answer(
        self, shape: Shape, asked: Asked, request: Request, call: Call, reply: Reply
    ) -> None:
        if asked.stream:
            await self._stream(shape, asked, request, call, reply)
            return
        response = await self._walk.whole(request, replace(call, is_unary=True))
        body = to_answer(
            shape,
            asked,
            response,
            request_id=call.request_id,
            created_s=int(self._clock()),
        )
        await reply.whole(body, route_headers(response.decision) | cost_headers(response.summary))

    async def _stream(
        self, shape: Shape, asked: Asked, request: Request, call: Call, reply: Reply
    ) -> None:
        """The status is sent with the first word: what fails before it has a status of its own."""
        created_s, decision = int(self._clock()), routing_pb2.Decision()
        events: Events | None = None
        async with batched(self._walk.stream(request, call)) as batches:
            async for batch in batches:
                if batch[0].HasField("decision"):
                    decision = batch.pop(0).decision
                if not batch:
                    continue
                opening = b""
                if events is None:
                    events = Events(
                        shape, asked, decision, request_id=call.request_id, created_s=created_s
                    )
                    opening = events.opening()
                await reply.events(opening + _render(events, batch), route_headers(decision))
        await reply.end()


def _render(events: Events, batch: list[Event]) -> bytes:
    """Texts as one piece, then the end where it is there."""
    text = "".join(event.text for event in batch)
    data = events.piece(text) if text else b""
    if batch[-1].HasField("summary"):
        data += events.closing(batch[-1].summary)
    return data
