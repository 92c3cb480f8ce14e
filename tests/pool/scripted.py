"""OpenAI-compatible servers as members of a pool, each of which does what a test wants."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from deltafleet.v1 import routing_pb2, worker_pb2
from model_pool.openai_member import OpenAIMember
from model_pool.pool import Pool
from model_pool.settings import Choice
from model_pool.settings import OpenAIServer as Section
from support.fleet import until
from support.openai_server import Call, OpenAIServer, openai_server

PRICE = 3_600_000_000  # a million nano-dollars a second


class Clock:
    """Stands still unless told otherwise."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@contextlib.asynccontextmanager
async def scripted_pool(
    *names: str, limit_count: int = 4, clock: Clock | None = None, **choice: object
) -> AsyncIterator[tuple[Pool, dict[str, OpenAIServer]]]:
    """A server for each name, all of which serve `sql`, and a pool that has heard them.

    clock: what the members measure by.
    """
    timing = {"clock": clock} if clock else {}
    async with contextlib.AsyncExitStack() as stack:
        servers = {name: await stack.enter_async_context(openai_server("my-sql")) for name in names}
        members = [
            OpenAIMember(
                name,
                Section(url=server.url, models={"sql": "my-sql"}),
                None,
                price_nano_usd_per_hour=PRICE,
                **timing,
            )
            for name, server in servers.items()
        ]
        pool = Pool(
            members,
            limit_count=limit_count,
            wait_s=60,
            on_change=lambda: None,
            choice=Choice.model_validate(choice),
        )
        pool.start()
        stack.push_async_callback(pool.stop)
        await until_ready(pool)
        yield pool, servers


async def until_ready(pool: Pool) -> None:
    """Return when every member is."""

    async def are_so() -> bool:
        return all(member.is_ready for member in pool.members.values())

    await until(are_so)


def to_run(text: str = "How much is it?") -> worker_pb2.RunRequest:
    """A short question."""
    question = routing_pb2.ChatMessage(role=routing_pb2.ROLE_USER, content=text)
    return worker_pb2.RunRequest(
        request_id="r", model="sql", messages=[question], max_output_token_count=9, top_p=1
    )


async def answer_of(
    pool: Pool, request: worker_pb2.RunRequest, *, key: str = "", may_hedge: bool = False
) -> tuple[str, list[worker_pb2.RunResponse]]:
    """Who answered, and what."""
    async with (
        pool.lease(request.model, key=key, may_hedge=may_hedge) as lease,
        contextlib.aclosing(lease.generate(request, 60)) as responses,
    ):
        answer = [response async for response in responses]
        return lease.worker, answer


async def refuse_as_full(call: Call) -> None:
    """429."""
    await call.refuse(429, "later", retry_after="7")


async def fail(call: Call) -> None:
    """500."""
    await call.refuse(500, "broken")
