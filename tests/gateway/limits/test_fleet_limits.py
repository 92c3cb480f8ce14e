"""Two real gateways over one Redis, through their gRPC doors."""

from __future__ import annotations

import asyncio
import contextlib
import re
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import pytest
import pytest_asyncio
import sqlalchemy as sa
from grpc import StatusCode

from deltafleet.v1 import inference_pb2
from support.fleet import DEMO, Fleet, failure_of, first_text, refusal, rest, running_fleet, until
from support.redis_server import RedisServer

USD_PER_HOUR = 5  # dear, so that a long answer is worth many budgets on the fastest machine
BUDGET_NANO_USD = 20_000
CALLERS = f"""
callers:
  counted: {{requests_per_minute: 4}}
  reading: {{tokens_per_minute: 60}}
  single: {{concurrent_streams: 1}}
  poor: {{daily_budget_usd: {BUDGET_NANO_USD / 1e9:.9f}}}
  rich: {{daily_budget_usd: 1, monthly_budget_usd: 2}}
  spent: {{monthly_budget_usd: 0}}
limits: {{connect_timeout_s: 20, operation_timeout_s: 20}}
"""


@dataclass
class Pair:
    """Two gateways with a ledger each, and the Redis that they share."""

    fleets: tuple[Fleet, Fleet]
    redis: RedisServer


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    home = tmp_path_factory.mktemp("limits")
    text = re.sub(
        r"^( *path: | *(?:delta|examples_file): )(?=[a-z])",
        rf"\1{DEMO.parent}/",
        DEMO.read_text(),
        flags=re.MULTILINE,
    )
    (home / "fleet.yaml").write_text(text + CALLERS)
    server = RedisServer()
    try:
        async with contextlib.AsyncExitStack() as stack:
            fleets = []
            for name in ("one", "two"):
                (home / name).mkdir()
                running = running_fleet(
                    home / name,
                    home / "fleet.yaml",
                    limits__redis_url=server.url,
                    pool__hardware__usd_per_hour=USD_PER_HOUR,
                )
                fleets.append(await stack.enter_async_context(running))
            yield Pair((fleets[0], fleets[1]), server)
    finally:
        server.remove()


def as_caller(name: str) -> tuple[tuple[str, str], ...]:
    return (("deltafleet-caller", name),)


def asking(fleet: Fleet, caller: str, **fields: object) -> grpc.aio.UnaryUnaryCall:
    asked = {"prompt": "What is 2 + 3?", "model": "base", "max_output_token_count": 4} | fields
    request = inference_pb2.GenerateRequest(**asked)
    return fleet.inference.Generate(request, metadata=as_caller(caller))


def costs(fleet: Fleet, caller: str) -> list[tuple[str, int]]:
    engine = sa.create_engine(f"sqlite:///{fleet.ledger}")
    query = sa.text("select outcome, cost_nano_usd from requests where caller = :caller")
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(query, {"caller": caller})]
    engine.dispose()
    return found


def spent_in_redis(pair: Pair, caller: str) -> int:
    with pair.redis.client() as client:
        return int(client.hget(f"deltafleet:limits:account:{{{caller}}}", "day_spent"))


async def test_requests_of_a_minute_are_counted_by_both_together(pair: Pair) -> None:
    one, two = pair.fleets
    for fleet in (one, two, one):
        await asking(fleet, "counted")
    last = asking(two, "counted")
    await last
    told = dict(await last.trailing_metadata())
    assert told["x-ratelimit-limit-requests"] == "4"
    assert told["x-ratelimit-remaining-requests"] == "0"
    for fleet in (one, two):
        call = asking(fleet, "counted")
        failure = await refusal(call)
        assert failure.code is StatusCode.RESOURCE_EXHAUSTED
        assert failure.reason == "ERROR_REASON_RATE_LIMITED"
        assert failure.metadata == {"limit": "requests_per_minute", "limit_count": "4"}
        assert 0 < failure.retry_after_s <= 61
        assert dict(await call.trailing_metadata())["x-ratelimit-remaining-requests"] == "0"
    await asking(one, "nobody")
    page = await asyncio.to_thread(_page, one)
    assert 'deltafleet_limited_requests_total{limit="requests_per_minute"} 1.0' in page
    assert "deltafleet_limits_store_up 1.0" in page


async def test_tokens_of_a_minute_are_counted_by_both_together(pair: Pair) -> None:
    one, two = pair.fleets
    first = await asking(one, "reading", max_output_token_count=50)
    used = first.summary.prompt_token_count + first.summary.output_token_count
    too_much = await refusal(asking(two, "reading", max_output_token_count=61))
    assert too_much.metadata["limit"] == "tokens_per_minute"
    assert too_much.retry_after_s == 0  # larger than the limit: waiting does not help
    later = await refusal(asking(two, "reading", max_output_token_count=60 - used))
    assert later.reason == "ERROR_REASON_RATE_LIMITED"
    assert 0 < later.retry_after_s <= 61


async def test_streams_at_once_are_counted_by_both_together(
    pair: Pair, long_request: inference_pb2.GenerateRequest
) -> None:
    one, two = pair.fleets
    stream = one.inference.StreamGenerate(long_request, metadata=as_caller("single"))
    await first_text(stream)
    failure = await refusal(asking(two, "single"))
    assert failure.metadata == {"limit": "concurrent_streams", "limit_count": "1"}
    assert failure.retry_after_s > 0
    stream.cancel()

    async def is_free() -> bool:
        try:
            await asking(two, "single")
        except grpc.aio.AioRpcError:
            return False
        return True

    await until(is_free)


async def test_a_budget_that_runs_out_cuts_the_stream_and_both_refuse_then(
    pair: Pair, long_request: inference_pb2.GenerateRequest
) -> None:
    whole = await pair.fleets[0].inference.Generate(long_request)
    assert whole.summary.cost_nano_usd > 2 * BUDGET_NANO_USD, "too cheap to be cut"
    texts, fleet = [], pair.fleets[0]
    stream = fleet.inference.StreamGenerate(long_request, metadata=as_caller("poor"))
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        async for event in stream:
            texts.append(event.text)
    failure = failure_of(ended.value)
    assert failure.code is StatusCode.RESOURCE_EXHAUSTED
    assert failure.reason == "ERROR_REASON_CALLER_BUDGET_SPENT"
    assert failure.metadata == {"limit": "daily_budget", "limit_nano_usd": str(BUDGET_NANO_USD)}
    assert 0 < failure.retry_after_s <= 86_400
    assert whole.text.startswith("".join(texts))
    assert len("".join(texts)) < len(whole.text)
    ((outcome, cost),) = costs(fleet, "poor")
    assert outcome == "cut"
    assert cost > BUDGET_NANO_USD
    assert spent_in_redis(pair, "poor") == cost
    for one in pair.fleets:
        failure = await refusal(asking(one, "poor"))
        assert failure.reason == "ERROR_REASON_CALLER_BUDGET_SPENT"
    assert len(costs(fleet, "poor")) == 1


async def test_a_month_that_is_spent_ends_at_the_next(pair: Pair) -> None:
    failure = await refusal(asking(pair.fleets[0], "spent"))
    assert failure.metadata == {"limit": "monthly_budget", "limit_nano_usd": "0"}
    assert 0 < failure.retry_after_s <= 31 * 86_400


async def test_what_redis_counts_is_the_sum_of_the_ledgers(pair: Pair) -> None:
    asked = [asking(pair.fleets[i % 2], "rich", max_output_token_count=i + 1) for i in range(24)]
    given_up = [asking(pair.fleets[i % 2], "rich", max_output_token_count=99) for i in range(4)]
    for call in given_up:
        call.cancel()
    await asyncio.gather(*asked)

    async def is_settled() -> bool:
        ledgers = sum(cost for fleet in pair.fleets for _, cost in costs(fleet, "rich"))
        return spent_in_redis(pair, "rich") == ledgers > 0

    await until(is_settled)


async def test_money_waits_for_redis_and_nothing_else_does(pair: Pair) -> None:
    fleet = pair.fleets[0]
    stream = fleet.inference.StreamGenerate(
        inference_pb2.GenerateRequest(prompt="The sea", model="base", max_output_token_count=9),
        metadata=as_caller("rich"),
    )
    await first_text(stream)
    pair.redis.kill()
    # It goes on with what was granted, and has an end either way.
    try:
        assert (await rest(stream))[-1].HasField("summary")
    except grpc.aio.AioRpcError as error:
        assert failure_of(error).reason == "ERROR_REASON_LIMITS_UNAVAILABLE"
    failure = await refusal(asking(fleet, "rich"))
    assert failure.code is StatusCode.UNAVAILABLE
    assert failure.reason == "ERROR_REASON_LIMITS_UNAVAILABLE"
    assert failure.retry_after_s > 0
    await asking(fleet, "counted")
    page = await asyncio.to_thread(_page, fleet)
    assert "deltafleet_limits_store_up 0.0" in page
    assert 'deltafleet_limited_requests_total{limit="unavailable"}' in page

    pair.redis.start()  # without what it counted: the ledger knows

    async def is_back() -> bool:
        try:
            await asking(fleet, "rich")
        except grpc.aio.AioRpcError:
            return False
        return True

    await until(is_back)
    # This one's ledger: each of these two has its own, so that it cannot know the other's rows.
    assert spent_in_redis(pair, "rich") >= sum(cost for _, cost in costs(fleet, "rich"))
    assert (await refusal(asking(fleet, "poor"))).reason == "ERROR_REASON_CALLER_BUDGET_SPENT"


def _page(fleet: Fleet) -> str:
    with urllib.request.urlopen(f"http://{fleet.metrics}/metrics") as page:
        return page.read().decode()
