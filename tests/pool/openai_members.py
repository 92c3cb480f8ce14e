"""Members that are OpenAI-compatible servers, a pool of them, and ways in which they fail."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from deltafleet.v1 import routing_pb2, worker_pb2
from model_pool.openai_member import OpenAIMember
from model_pool.pool import Pool
from model_pool.settings import OpenAIServer as Section
from support.fleet import until
from support.openai_server import (
    Call,
    OpenAIServer,
)

PRICE = 3_600_000_000


class Clock:
    """Stands still unless told otherwise."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def member_of(server: OpenAIServer, *models: str, name: str = "big", clock: Clock | None = None):
    section = Section(url=server.url, models={one: f"my-{one}" for one in models or ("sql",)})
    timing = {"clock": clock} if clock else {}
    return OpenAIMember(name, section, None, price_nano_usd_per_hour=PRICE, **timing)


@contextlib.asynccontextmanager
async def running_pool(*members: OpenAIMember, limit_count: int = 4) -> AsyncIterator[Pool]:
    """A pool whose members have all been heard."""
    pool = Pool(members, limit_count=limit_count, wait_s=60, on_change=lambda: None)
    pool.start()
    try:
        for member in members:
            await until_ready(member)
        yield pool
    finally:
        await pool.stop()


async def until_ready(member: OpenAIMember, is_ready: bool = True) -> None:
    async def is_so() -> bool:
        return member.is_ready is is_ready

    await until(is_so)


def run_request(model: str = "sql", **fields: object) -> worker_pb2.RunRequest:
    question = routing_pb2.ChatMessage(role=routing_pb2.ROLE_USER, content="How much is it?")
    return worker_pb2.RunRequest(
        request_id="r", model=model, messages=[question], max_output_token_count=9, **fields
    )


async def answer_of(pool: Pool, request: worker_pb2.RunRequest, timeout_s: float | None = 60):
    async with (
        pool.lease(request.model) as lease,
        contextlib.aclosing(lease.generate(request, timeout_s)) as responses,
    ):
        return [response async for response in responses]


def refusing(status: int, error: object = "no", **headers: str):
    async def answer(call: Call) -> None:
        await call.refuse(status, error, **headers)

    return answer


async def drop_at_once(call: Call) -> None:
    await call.drop()


async def drop_in_mid_stream(call: Call) -> None:
    await call.begin()
    await call.say("It ")
    await call.drop()
