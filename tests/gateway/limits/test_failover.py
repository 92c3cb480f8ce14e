"""Redis is killed, paused, and comes back: money waits for it, the rest goes on."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway.caller import Limits
from gateway.errors import LimitsUnavailable
from gateway.limits.counters import Ask, Draw, Limit, Rest, Spent
from gateway.limits.failover import FailoverCounters
from gateway.limits.memory import MemoryCounters
from gateway.limits.redis import RedisCounters
from support.fleet import until
from support.redis_server import RedisServer, counters_at

BUDGET = Limits(daily_budget_nano_usd=1000)
STREAMS = Limits(concurrent_streams=3)
OPERATION_S = 5.0


@contextlib.asynccontextmanager
async def failover(server: RedisServer) -> AsyncIterator[tuple[FailoverCounters, list[bool]]]:
    told: list[bool] = []
    shared = RedisCounters(
        server.url,
        prefix="fleet",
        connect_timeout_s=OPERATION_S,
        operation_timeout_s=OPERATION_S,
        lease_s=30,
    )
    counters = FailoverCounters(shared, MemoryCounters(), renewal_s=0.05, on_change=told.append)
    await counters.start()
    try:
        yield counters, told
    finally:
        await counters.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def counters(own_redis: RedisServer):
    async with failover(own_redis) as (one, told):
        one.told = told
        yield one


def ask(limits: Limits, **fields: object) -> Ask:
    return Ask("me", limits, 0, uuid.uuid4().hex, **fields)


def today() -> Spent:
    return Spent(int(time.time() // 86_400), 0, 0, 0)


def day_spent(server: RedisServer) -> int:
    with server.client() as client:
        return int(client.hget("fleet:limits:account:{me}", "day_spent") or -1)


async def back(counters) -> None:
    async def is_back() -> bool:
        return counters.told[-1]

    await until(is_back)


@pytest.mark.parametrize("fault", ["killed", "paused"])
async def test_money_waits_for_redis_and_rates_go_on(
    counters, own_redis: RedisServer, fault: str
) -> None:
    await counters.seed("me", today())
    rated = Limits(requests_per_minute=5)
    for _ in range(5):
        assert (await counters.admit(ask(rated))).refused is None
    assert (await counters.admit(ask(rated))).refused.limit is Limit.REQUESTS
    if fault == "killed":
        own_redis.kill()
    else:
        own_redis.pause()

    with pytest.raises(LimitsUnavailable) as refused:
        await counters.admit(ask(BUDGET))
    assert refused.value.retry_after_s > 0
    # This gateway alone, and from nothing.
    verdicts = [await counters.admit(ask(rated)) for _ in range(6)]
    assert [one.refused is None for one in verdicts] == [True] * 5 + [False]
    started_s = time.monotonic()
    for _ in range(200):
        with pytest.raises(LimitsUnavailable):
            await counters.admit(ask(BUDGET))
    # None of them waited for it: one that did would take as long as an operation may.
    assert time.monotonic() - started_s < 200 * OPERATION_S / 4
    assert counters.told == [True, False]

    if fault == "killed":
        own_redis.start()
    else:
        own_redis.go_on()
    await back(counters)
    await counters.seed("me", today())
    assert (await counters.admit(ask(BUDGET))).refused is None


async def test_what_ends_while_redis_is_away_is_charged_when_it_is_back(counters, own_redis):
    await counters.seed("me", today())
    one, other = ask(BUDGET, wanted_nano_usd=100), ask(BUDGET, wanted_nano_usd=100)
    first = await counters.admit(one)
    second = await counters.admit(other)
    own_redis.pause()
    with pytest.raises(LimitsUnavailable):
        await counters.draw(Draw("me", BUDGET, first.grant, 500))
    await counters.settle(Rest("me", one.lease, 0, 0, first.grant, 300))
    await counters.settle(Rest("me", other.lease, 0, 0, second.grant, 5))
    own_redis.go_on()
    await back(counters)

    # The draw may have been done after all, when the server went on: then it stays spent.
    assert day_spent(own_redis) - 305 in (0, 500 - first.grant.nano_usd)


async def test_streams_that_run_on_keep_their_places(counters, own_redis: RedisServer) -> None:
    before = ask(STREAMS)
    await counters.admit(before)
    own_redis.kill()
    meanwhile = ask(STREAMS)
    assert (await counters.admit(meanwhile)).refused is None
    own_redis.start()
    await back(counters)

    assert (await counters.admit(ask(STREAMS))).refused is None
    assert (await counters.admit(ask(STREAMS))).refused.limit is Limit.STREAMS
    for one in (before, meanwhile):
        await counters.settle(Rest("me", one.lease, 0, 0, None, 0))
    assert (await counters.admit(ask(STREAMS))).refused is None


async def test_a_lost_lease_is_renewed(counters, own_redis: RedisServer) -> None:
    await counters.admit(ask(STREAMS))
    with own_redis.client() as client:
        client.flushall()

        async def is_there() -> bool:
            return client.zcard("fleet:limits:places:{me}") == 1

        await until(is_there)


async def test_a_fleet_starts_without_its_redis(own_redis: RedisServer) -> None:
    own_redis.kill()
    async with failover(own_redis) as (counters, told):
        assert told == [True, False]
        with pytest.raises(LimitsUnavailable):
            await counters.admit(ask(BUDGET))
        assert (await counters.admit(ask(STREAMS))).refused is None
        own_redis.start()

        async def is_back() -> bool:
            return told[-1]

        await until(is_back)
        await counters.seed("me", today())
        assert (await counters.admit(ask(BUDGET))).refused is None


async def test_a_caller_that_leaves_at_any_moment_breaks_no_connection(redis) -> None:
    """An answer to one must never be read by another."""
    counters = counters_at(redis.url, prefix=uuid.uuid4().hex)
    limits = Limits(requests_per_minute=10**6)
    for turn in range(60):
        task = asyncio.create_task(counters.admit(ask(limits)))
        for _ in range(turn % 12):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await counters.ping()
        verdict = await counters.admit(ask(limits))
        assert verdict.requests.limit - verdict.requests.remaining <= 2 * turn + 2
    await counters.stop()
