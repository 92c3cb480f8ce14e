"""Both counters count alike: one gateway's memory, and a real Redis, by a clock that is set."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.caller import Limits
from gateway.limits.account import first_day, month_of
from gateway.limits.counters import (
    SECONDS_PER_DAY,
    WINDOW_S,
    Ask,
    Counters,
    Draw,
    Grant,
    Limit,
    Rest,
    Spent,
    Unseeded,
)
from gateway.limits.memory import MemoryCounters
from support.redis_server import ClockedCounters, RedisServer, counters_at

DAY = 20_000  # 2024-10-04
NOON_S = DAY * SECONDS_PER_DAY + SECONDS_PER_DAY // 2
RATES = Limits(requests_per_minute=3, tokens_per_minute=100, concurrent_streams=2)
BUDGETS = Limits(daily_budget_nano_usd=1000, monthly_budget_nano_usd=1500)
SetClock = Callable[[float], None]
Scenario = Callable[[Counters, SetClock], Awaitable[None]]
# A few examples on a busy machine: each has a server to ask.
FEW = settings(max_examples=40, deadline=None)


@pytest.fixture(params=["memory", "redis"])
def run(request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
    """Runs a scenario on new counts."""
    return runner(request.param, request.getfixturevalue("redis"))


def runner(kind: str, redis: RedisServer) -> Callable[[Scenario], None]:
    async def on_memory(scenario: Scenario) -> None:
        now = [float(NOON_S)]
        counters = MemoryCounters(clock=lambda: now[0], wall_clock=lambda: now[0])
        await scenario(counters, lambda now_s: now.__setitem__(0, now_s))

    async def on_redis(scenario: Scenario) -> None:
        counters = counters_at(redis.url, prefix=uuid.uuid4().hex, kind=ClockedCounters)
        with redis.client() as client:
            client.set("clock", NOON_S)
            try:
                await scenario(counters, lambda now_s: client.set("clock", int(now_s)))
            finally:
                await counters.stop()

    chosen = on_memory if kind == "memory" else on_redis
    return lambda scenario: asyncio.run(chosen(scenario))


def ask(limits: Limits, token_count: int = 10, *, wanted: int = 0, caller: str = "me") -> Ask:
    return Ask(caller, limits, token_count, uuid.uuid4().hex, wanted)


def rest(one: Ask, second: int, used: int = 0, grant: Grant | None = None, cost: int = 0) -> Rest:
    return Rest(one.caller, one.lease, second, used - one.token_count, grant, cost)


async def seeded(counters: Counters, today: int = 0, earlier: int = 0) -> None:
    await counters.seed("me", Spent(DAY, today, month_of(DAY), today + earlier))


async def room(counters: Counters) -> int:
    """What is left of the budgets: all of it is drawn, and given back."""
    nothing = Grant(0, "nobody's", 0, 0)
    drawn = await counters.draw(Draw("me", BUDGETS, nothing, 10**9))
    await counters.settle(Rest("me", "", 0, 0, drawn.grant, 0))
    return drawn.grant.nano_usd


def test_what_does_not_fit_counts_nothing(run) -> None:
    async def scenario(counters: Counters, _: SetClock) -> None:
        first = ask(RATES, 60)
        admitted = await counters.admit(first)
        assert admitted.refused is None
        assert (admitted.requests.remaining, admitted.tokens.remaining) == (2, 40)
        for _ in range(5):
            refused = await counters.admit(ask(RATES, 41))
            assert refused.refused.limit is Limit.TOKENS
            assert refused.refused.retry_after_s == WINDOW_S + 1
            assert (refused.requests.remaining, refused.tokens.remaining) == (2, 40)
        assert (await counters.admit(ask(RATES, 40))).refused is None
        crowded = await counters.admit(ask(RATES, 0))
        assert crowded.refused.limit is Limit.STREAMS
        await counters.settle(rest(first, admitted.second, 60))
        assert (await counters.admit(ask(RATES, 0))).refused is None
        assert (await counters.admit(ask(RATES, 0))).refused.limit is Limit.REQUESTS
        assert (await counters.admit(ask(RATES, 0, caller="other"))).refused is None

    run(scenario)


def test_a_request_above_the_limit_itself_is_not_told_to_wait(run) -> None:
    async def scenario(counters: Counters, _: SetClock) -> None:
        refused = (await counters.admit(ask(RATES, 101))).refused
        assert (refused.limit, refused.retry_after_s) == (Limit.TOKENS, None)

    run(scenario)


def test_tokens_that_were_not_used_come_back_and_others_are_added(run) -> None:
    async def scenario(counters: Counters, set_clock: SetClock) -> None:
        one = ask(RATES, 60)
        second = (await counters.admit(one)).second
        set_clock(NOON_S + 5)
        await counters.settle(rest(one, second, 10))
        other = ask(RATES, 90)
        second = (await counters.admit(other)).second
        await counters.settle(rest(other, second, 95))
        refused = await counters.admit(ask(RATES, 1))
        assert refused.refused.retry_after_s == WINDOW_S + 1 - 5  # the first ten leave
        set_clock(NOON_S + WINDOW_S + 1)
        assert (await counters.admit(ask(RATES, 5))).refused is None

    run(scenario)


@FEW
@given(
    kind=st.sampled_from(["memory", "redis"]),
    waits=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 50)), max_size=25),
)
def test_no_minute_lets_in_more_than_the_limits(redis: RedisServer, kind: str, waits) -> None:
    async def scenario(counters: Counters, set_clock: SetClock) -> None:
        now_s, admitted = NOON_S, []
        limits = replace(RATES, concurrent_streams=None)
        for wait_s, token_count in waits:
            now_s += wait_s
            set_clock(now_s)
            refused = (await counters.admit(ask(limits, token_count))).refused
            within = [one for one in admitted if one[0] >= now_s - WINDOW_S]
            if refused is None:
                admitted.append((now_s, token_count))
                assert len(within) + 1 <= 3
                assert sum(count for _, count in within) + token_count <= 100
            else:
                assert len(within) + 1 > 3 or sum(one for _, one in within) + token_count > 100
                assert 0 < refused.retry_after_s <= WINDOW_S + 1

    runner(kind, redis)(scenario)


def test_who_comes_back_when_told_to_is_let_in(run) -> None:
    async def scenario(counters: Counters, set_clock: SetClock) -> None:
        limits = replace(RATES, concurrent_streams=None)
        for at_s in (0, 20, 21):
            set_clock(NOON_S + at_s)
            await counters.admit(ask(limits, 30))
        wait_s = (await counters.admit(ask(limits, 30))).refused.retry_after_s
        set_clock(NOON_S + 21 + wait_s - 1)
        assert (await counters.admit(ask(limits, 30))).refused is not None
        set_clock(NOON_S + 21 + wait_s)
        assert (await counters.admit(ask(limits, 30))).refused is None

    run(scenario)


def test_nobody_spends_before_it_is_known_what_was_spent(run) -> None:
    async def scenario(counters: Counters, _: SetClock) -> None:
        with pytest.raises(Unseeded):
            await counters.admit(ask(BUDGETS))
        await seeded(counters, 990, 505)
        await seeded(counters)  # the first word counts
        admitted = await counters.admit(ask(BUDGETS, wanted=100))
        assert admitted.grant.nano_usd == 1
        assert await room(counters) == 4

    run(scenario)


@pytest.mark.parametrize(
    ("today", "earlier", "limit", "end_day"),
    [
        (1000, 0, Limit.DAY, DAY + 1),
        (0, 1500, Limit.MONTH, first_day(month_of(DAY) + 1)),
        (2000, 0, Limit.DAY, DAY + 1),
    ],
)
def test_a_spent_budget_says_when_it_begins_anew(run, today, earlier, limit, end_day) -> None:
    async def scenario(counters: Counters, set_clock: SetClock) -> None:
        await seeded(counters, today, earlier)
        refused = (await counters.admit(ask(BUDGETS))).refused
        end_s = end_day * SECONDS_PER_DAY
        assert refused.limit is limit
        assert refused.retry_after_s == end_s - NOON_S
        set_clock(end_s - 1)
        is_month_spent = today + earlier >= 1500
        assert (await counters.admit(ask(BUDGETS))).refused is not None
        set_clock(end_s)
        refused = (await counters.admit(ask(BUDGETS))).refused
        if limit is Limit.DAY and is_month_spent:
            assert refused.limit is Limit.MONTH
        else:
            assert refused is None

    run(scenario)


def test_a_clock_that_is_set_back_begins_no_day_anew(run) -> None:
    async def scenario(counters: Counters, set_clock: SetClock) -> None:
        await seeded(counters, 400)
        set_clock(NOON_S - 2 * SECONDS_PER_DAY)
        assert await room(counters) == 600
        set_clock(NOON_S + SECONDS_PER_DAY)
        assert await room(counters) == 1000

    run(scenario)


def test_what_is_given_back_late_is_of_the_day_that_it_was_granted_in(run) -> None:
    async def scenario(counters: Counters, set_clock: SetClock) -> None:
        await seeded(counters)
        one = ask(BUDGETS, wanted=100)
        admitted = await counters.admit(one)
        set_clock(NOON_S + SECONDS_PER_DAY)
        await counters.draw(Draw("me", BUDGETS, Grant(0, "nobody's", 0, 0), 50))
        await counters.settle(rest(one, admitted.second, 0, admitted.grant, 1))
        drawn = await counters.draw(Draw("me", BUDGETS, Grant(0, "nobody's", 0, 0), 10**6))
        assert drawn.grant.nano_usd == 950  # of the new day; of the month 1 + 50 + 950 are gone
        set_clock(NOON_S + 2 * SECONDS_PER_DAY)
        assert await room(counters) == 1500 - 1 - 50 - 950

    run(scenario)


@FEW
@given(
    kind=st.sampled_from(["memory", "redis"]),
    streams=st.lists(st.lists(st.integers(0, 300), max_size=8), min_size=1, max_size=6),
    order=st.randoms(),
)
def test_each_stream_passes_the_budget_by_at_most_one_event(
    redis: RedisServer, kind: str, streams: list[list[int]], order
) -> None:
    """And what is counted as spent in the end is the sum of what all of them cost."""

    async def scenario(counters: Counters, _: SetClock) -> None:
        await seeded(counters)
        spent, last_events, running, waiting = 0, 0, [], list(streams)
        while waiting or running:
            if waiting and (not running or order.random() < 0.5):
                one, events = ask(BUDGETS, wanted=order.randrange(200)), waiting.pop()
                admitted = await counters.admit(one)
                if admitted.refused is None:
                    running.append([one, admitted.second, admitted.grant, events, 0])
                continue
            turn = order.randrange(len(running))
            one, second, grant, events, cost = running[turn]
            is_cut = False
            if events:
                cost += (event := events.pop(0))
                if cost > grant.nano_usd:
                    drawn = await counters.draw(Draw("me", BUDGETS, grant, cost, cost))
                    grant, is_cut = drawn.grant, drawn.refused is not None
                    last_events += event if is_cut else 0
                running[turn] = [one, second, grant, events, cost]
            if is_cut or not events:
                running.pop(turn)
                spent += cost
                await counters.settle(rest(one, second, 0, grant, cost))
        assert spent <= 1000 + last_events
        assert await room(counters) == max(0, 1000 - spent)

    runner(kind, redis)(scenario)


def test_a_whole_hold_takes_nothing_where_it_does_not_fit(run) -> None:
    async def scenario(counters: Counters, _: SetClock) -> None:
        await seeded(counters, 900)
        admitted = await counters.admit(ask(BUDGETS))
        draw = Draw("me", BUDGETS, admitted.grant, 101, is_whole=True)
        refused = await counters.draw(draw)
        assert refused.refused.limit is Limit.DAY
        assert refused.grant.nano_usd == 1
        held = await counters.draw(replace(draw, cost_nano_usd=100))
        assert (held.refused, held.grant.nano_usd) == (None, 100)

    run(scenario)
