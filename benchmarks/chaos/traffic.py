"""Callers, and what each of them was told."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from deltafleet.v1 import inference_pb2, inference_pb2_grpc

LIMIT_S = 20.0
SHORT_S = (0.02, 0.8)
RETRY_PAUSE_S = 0.3
# What a caller does, and how often.
WAYS = {"stream": 40, "unary": 25, "named": 15, "given up": 10, "short": 10}
CHANNEL_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclass(frozen=True)
class Question:
    """A prompt whose answer is known."""

    model: str
    prompt: str
    answer: str


@dataclass
class Told:
    """One request as its caller saw it. excess_s: beyond its deadline."""

    way: str
    model: str
    request_id: str = ""
    outcome: str = ""
    text: str = ""
    is_right: bool = True  # whole where answered, else as far as it came
    expected: str = ""
    excess_s: float = 0.0
    is_whole: bool = False
    ended_s: float = 0.0


@dataclass
class Crowd:
    """Callers that ask until they are stopped. told: in the order in which they ended."""

    address: str
    questions: list[Question]
    seed: int
    told: list[Told] = field(default_factory=list)
    open_count: int = 0

    @contextlib.asynccontextmanager
    async def asking(self, caller_count: int) -> AsyncIterator[None]:
        """They ask while the block runs; then what is open is heard to its end."""
        self._is_over = False
        callers = [asyncio.create_task(self._caller(one)) for one in range(caller_count)]
        try:
            yield
        finally:
            self._is_over = True
            await asyncio.gather(*callers)

    async def _caller(self, number: int) -> None:
        chance = random.Random(f"{self.seed} {number}")
        options = CHANNEL_OPTIONS
        async with grpc.aio.insecure_channel(self.address, options=options) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            while not self._is_over:
                await self.ask(stub, chance, number)

    async def ask(
        self, stub: inference_pb2_grpc.InferenceServiceAsyncStub, chance: random.Random, number: int
    ) -> None:
        """One request of a drawn way."""
        way = chance.choices(list(WAYS), list(WAYS.values()))[0]
        question = chance.choice(self.questions)
        limit_s = chance.uniform(*SHORT_S) if way == "short" else LIMIT_S
        told = Told(way, question.model, expected=question.answer)
        caller = ("deltafleet-caller", f"caller-{number}")
        began_s = time.monotonic()
        self.open_count += 1
        if way == "named":
            await _insist(stub, question, told, limit_s, caller)
        else:
            await _try(stub, question, told, limit_s, (caller,), chance)
        self.open_count -= 1
        told.ended_s = time.monotonic()
        told.excess_s = told.ended_s - began_s - limit_s
        self.told.append(told)
        if not told.is_whole:  # as a client does that is told to come back
            await asyncio.sleep(chance.uniform(0, RETRY_PAUSE_S))


async def _insist(
    stub: inference_pb2_grpc.InferenceServiceAsyncStub,
    question: Question,
    told: Told,
    limit_s: float,
    caller: tuple[str, str],
) -> None:
    """With an id of its own, again until it is answered or late."""
    told.request_id = str(uuid.uuid4())
    metadata = (caller, ("x-request-id", told.request_id))
    ends_s = time.monotonic() + limit_s
    while (left_s := ends_s - time.monotonic()) > 0:
        await _try(stub, question, told, left_s, metadata, random.Random(0))
        if told.is_whole or "UNAVAILABLE" not in told.outcome:
            return
        await asyncio.sleep(min(RETRY_PAUSE_S, max(0.0, ends_s - time.monotonic())))


async def _try(
    stub: inference_pb2_grpc.InferenceServiceAsyncStub,
    question: Question,
    told: Told,
    limit_s: float,
    metadata: tuple[tuple[str, str], ...],
    chance: random.Random,
) -> None:
    request = inference_pb2.GenerateRequest(prompt=question.prompt, model=question.model)
    leave_after = chance.randint(0, 8) if told.way == "given up" else None
    told.text = ""
    try:
        if told.way == "unary":
            answer = await stub.Generate(request, timeout=limit_s, metadata=metadata)
            told.text = answer.text
            _end(told, answer.summary)
        else:
            call = stub.StreamGenerate(request, timeout=limit_s, metadata=metadata)
            await _read(call, told, leave_after)
    except grpc.aio.AioRpcError as error:
        told.outcome = f"{error.code().name} {_reason(error)}".strip()
    told.is_right = (
        told.text == question.answer if told.is_whole else question.answer.startswith(told.text)
    )


async def _read(call: Any, told: Told, leave_after: int | None) -> None:
    count = 0
    async for event in call:
        if event.HasField("summary"):
            _end(told, event.summary)
        elif event.text:
            told.text += event.text
            count += 1
        if leave_after is not None and count >= leave_after and not told.is_whole:
            call.cancel()
            told.outcome = "given up"
            return
    if not told.is_whole:
        told.outcome = "ended without a summary"
        told.is_right = False


def _end(told: Told, summary: inference_pb2.Summary) -> None:
    told.is_whole = True
    told.outcome = "answered again" if summary.is_repeat else "answered"
    told.request_id = summary.request_id


def _reason(error: grpc.aio.AioRpcError) -> str:
    """Our own reason, where the other side is ours."""
    info = error_details_pb2.ErrorInfo()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    return str(info.reason).removeprefix("ERROR_REASON_")
    return ""
