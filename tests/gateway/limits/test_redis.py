"""What only counts that several gateways share can get wrong."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest_asyncio

from gateway.caller import Limits
from gateway.limits.account import month_of
from gateway.limits.counters import SECONDS_PER_DAY, Ask, Draw, Grant, Limit, Rest, Spent
from gateway.limits.redis import SCRIPTS, RedisCounters
from support.redis_server import ClockedCounters, RedisServer, counters_at

STREAMS = Limits(concurrent_streams=2)
BUDGET = Limits(daily_budget_nano_usd=1000)
START_S = 20_000 * SECONDS_PER_DAY


@pytest_asyncio.fixture(loop_scope="session")
async def two(redis: RedisServer) -> AsyncIterator[tuple[RedisCounters, RedisCounters]]:
    """Two gateways' counters, in a fleet of their own, by a clock that is set."""
    prefix = uuid.uuid4().hex
    pair = [counters_at(redis.url, prefix=prefix, kind=ClockedCounters) for _ in range(2)]
    with redis.client() as client:
        client.set("clock", START_S)
    yield pair[0], pair[1]
    for one in pair:
        await one.stop()


def ask(limits: Limits, **fields: object) -> Ask:
    return Ask("me", limits, 0, uuid.uuid4().hex, **fields)


async def test_both_gateways_together_let_in_what_the_limit_says(two) -> None:
    limits = Limits(requests_per_minute=50)
    verdicts = await asyncio.gather(*(two[i % 2].admit(ask(limits)) for i in range(200)))

    assert sum(one.refused is None for one in verdicts) == 50


async def test_many_draws_at_once_grant_the_budget_and_no_more(two) -> None:
    await two[0].seed("me", Spent(20_000, 0, month_of(20_000), 0))
    nothing = Grant(0, "nobody's", 0, 0)
    draws = [Draw("me", BUDGET, nothing, 30, 7) for _ in range(100)]
    drawn = await asyncio.gather(*(two[i % 2].draw(draw) for i, draw in enumerate(draws)))

    assert sum(one.grant.nano_usd for one in drawn) == 1000
    assert all(one.refused or one.grant.nano_usd >= 30 for one in drawn)


async def test_the_places_of_a_gateway_that_died_are_free_when_its_leases_end(
    two, redis: RedisServer
) -> None:
    gone, living = two
    kept = ask(STREAMS)
    await gone.admit(ask(STREAMS))
    await living.admit(kept)
    with redis.client() as client:
        client.set("clock", START_S + 20)
        await living.renew("me", [kept.lease])
        client.set("clock", START_S + 29)
        assert (await living.admit(ask(STREAMS))).refused.limit is Limit.STREAMS
        client.set("clock", START_S + 30)
        assert (await living.admit(ask(STREAMS))).refused is None
        assert (await living.admit(ask(STREAMS))).refused is not None


async def test_a_clock_that_is_set_back_frees_no_place_and_no_request_and_locks_none_up(
    two, redis: RedisServer
) -> None:
    limits = Limits(requests_per_minute=2, concurrent_streams=2)
    counters = two[0]
    with redis.client() as client:
        for _ in range(2):
            await counters.admit(ask(limits))
        client.set("clock", START_S - 3600)
        back = await counters.admit(ask(limits))
        assert back.refused.limit is Limit.REQUESTS
        assert back.refused.retry_after_s <= 61
        client.set("clock", START_S - 3600 + 61)
        later = await counters.admit(ask(limits))
        assert later.refused is None


async def test_counts_that_were_lost_charge_what_was_granted_before(two, redis) -> None:
    """A grant of counts that are gone is worth nothing, and the whole cost is charged."""
    counters = two[0]
    spent = Spent(20_000, 100, month_of(20_000), 100)
    await counters.seed("me", spent)
    one = ask(BUDGET, wanted_nano_usd=50)
    admitted = await counters.admit(one)
    with redis.client() as client:
        client.delete(*client.keys(f"{counters._prefix}:*"))
    await counters.seed("me", spent)
    drawn = await counters.draw(Draw("me", BUDGET, admitted.grant, 60))
    assert drawn.grant.nano_usd == 60
    await counters.settle(Rest("me", one.lease, 0, 0, admitted.grant, 70))
    with redis.client() as client:
        (key,) = client.keys(f"{counters._prefix}:limits:account:*")
        assert int(client.hget(key, "day_spent")) == 100 + 60 + 70


async def test_nothing_stays_in_redis_for_ever(two, redis: RedisServer) -> None:
    limits = Limits(9, 9, 9, 9, 9)
    await two[0].seed("me", Spent(20_000, 0, month_of(20_000), 0))
    await two[0].admit(ask(limits))
    with redis.client() as client:
        keys = client.keys(f"{two[0]._prefix}:*")
        assert len(keys) == 4
        assert all(0 < client.ttl(key) <= 40 * SECONDS_PER_DAY for key in keys)


def test_the_scripts_months_are_the_calendars(redis: RedisServer) -> None:
    days = [*range(0, 60_000, 7), *range(19_700, 21_200)]
    texts = [(SCRIPTS / f"{name}.lua").read_text() for name in ("time", "account")]
    ask_all = "for i, day in ipairs(ARGV) do ARGV[i] = month_of(tonumber(day)) end return ARGV"
    with redis.client() as client:
        months = []
        for start in range(0, len(days), 1000):
            months += client.eval("\n".join([*texts, ask_all]), 0, *days[start : start + 1000])

    assert months == [month_of(day) for day in days]


def test_large_sums_are_exact(redis: RedisServer) -> None:
    largest = 10**15  # a million USD

    async def spend() -> list[int]:
        counters = counters_at(redis.url, prefix=uuid.uuid4().hex)
        limits = Limits(daily_budget_nano_usd=largest)
        await counters.seed("me", Spent(0, 0, month_of(0), 0))
        nothing = Grant(0, "nobody's", 0, 0)
        first = await counters.draw(Draw("me", limits, nothing, largest - 3))
        second = await counters.draw(Draw("me", limits, nothing, 1))
        third = await counters.draw(Draw("me", limits, nothing, 10))
        await counters.stop()
        return [one.grant.nano_usd for one in (first, second, third)]

    assert asyncio.run(spend()) == [largest - 3, 1, 2]
