"""A second run of what takes long: whose word comes first, how often, and what it costs."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pool.scripted import Clock, answer_of, fail, refuse_as_full, scripted_pool, to_run

from gateway.answer import AnswerPiece
from gateway.pooled_source import PooledSource
from model_pool import call as calls
from model_pool.errors import WorkerLost
from model_pool.hedging import HedgeBudget
from support.openai_server import OUTPUT_TOKEN_COUNT, TEXTS, Call, OpenAIServer, whole_answer

ALWAYS = {"after_s": 0.05, "most_share": 1}
SOON = {"after_s": 0.001, "most_share": 1}
NEVER = {"after_s": 600, "most_share": 1}


@given(st.floats(0.01, 1), st.lists(st.booleans(), max_size=300))
def test_never_more_than_its_share_runs_twice(share: float, wants: list[bool]) -> None:
    budget, spent_count = HedgeBudget(share), 0
    for place, is_slow in enumerate(wants, 1):
        budget.arrive()
        if is_slow and budget.has_room:
            budget.spend()
            spent_count += 1
        assert spent_count <= share * place + 1e-9


def test_a_calm_saves_up_little() -> None:
    budget = HedgeBudget(0.5)
    for _ in range(1000):
        budget.arrive()
    spent_count = 0
    while budget.has_room:
        budget.spend()
        spent_count += 1
    assert spent_count == 10


def hanging(ended: asyncio.Event):
    """An answer that never comes. ended: set when the client has gone."""

    async def answer(call: Call) -> None:
        await call.until_gone()
        ended.set()

    return answer


async def test_the_second_worker_answers_where_the_first_one_hangs() -> None:
    gone = asyncio.Event()
    async with scripted_pool("a", "b", hedging=ALWAYS) as (pool, servers):
        servers["a"].answer = hanging(gone)
        worker, answer = await answer_of(pool, to_run(), may_hedge=True)

        assert worker == "b"
        assert "".join(one.text for one in answer) == "".join(TEXTS)
        await gone.wait()
        assert pool.hedging.counts == {"second": 1}
        assert [one.in_flight_count for one in pool.members.values()] == [0, 0]
        assert not pool.waits.by_model()


async def test_the_second_run_is_given_up_where_the_first_one_answers() -> None:
    gone, second_runs = asyncio.Event(), asyncio.Event()

    async def hang(call: Call) -> None:
        second_runs.set()
        await call.until_gone()
        gone.set()

    async def answer_late(call: Call) -> None:
        await second_runs.wait()
        await whole_answer(call)

    async with scripted_pool("a", "b", hedging=SOON) as (pool, servers):
        servers["a"].answer, servers["b"].answer = answer_late, hang
        worker, answer = await answer_of(pool, to_run(), may_hedge=True)

        assert worker == "a" and answer[-1].finish_reason
        await gone.wait()
        assert pool.hedging.counts == {"first": 1}
        assert [one.in_flight_count for one in pool.members.values()] == [0, 0]


async def test_a_quick_answer_and_one_that_must_not_are_run_once() -> None:
    async with scripted_pool("a", "b", hedging=NEVER) as (pool, servers):
        await answer_of(pool, to_run(), may_hedge=True)
        assert not servers["b"].calls and not pool.hedging.counts

    async def answer_late(call: Call) -> None:
        await asyncio.sleep(0.2)
        await whole_answer(call)

    async with scripted_pool("a", "b", hedging=SOON) as (pool, servers):
        servers["a"].answer = answer_late
        assert (await answer_of(pool, to_run(), may_hedge=False))[0] == "a"
        assert not servers["b"].calls


async def test_without_another_worker_it_is_run_once() -> None:
    async def answer_late(call: Call) -> None:
        await asyncio.sleep(0.2)
        await whole_answer(call)

    async with scripted_pool("a", hedging=SOON) as (pool, servers):
        servers["a"].answer = answer_late
        assert (await answer_of(pool, to_run(), may_hedge=True))[0] == "a"
        assert len(servers["a"].calls) == 1 and not pool.hedging.counts


@pytest.mark.parametrize("how", [fail, refuse_as_full])
async def test_a_first_worker_that_fails_leaves_it_to_the_second(how) -> None:
    second_runs = asyncio.Event()

    async def fail_late(call: Call) -> None:
        await second_runs.wait()
        await how(call)

    async def answer(call: Call) -> None:
        second_runs.set()
        await call.begin()
        await asyncio.sleep(0.1)
        await call.say(*TEXTS)
        await call.end()

    async with scripted_pool("a", "b", "c", hedging=SOON) as (pool, servers):
        servers["a"].answer, servers["b"].answer = fail_late, answer
        assert (await answer_of(pool, to_run(), may_hedge=True))[0] == "b"
        assert not servers["c"].calls and not pool.retries


async def test_where_both_fail_the_first_one_says_why() -> None:
    second_runs = asyncio.Event()

    async def fail_late(call: Call) -> None:
        await second_runs.wait()
        await fail(call)

    async def fail_too(call: Call) -> None:
        second_runs.set()
        await refuse_as_full(call)

    async with scripted_pool("a", "b", hedging=SOON) as (pool, servers):
        servers["a"].answer, servers["b"].answer = fail_late, fail_too
        with pytest.raises(WorkerLost, match="worker a"):
            await answer_of(pool, to_run(), may_hedge=True)
        assert pool.hedging.counts == {"none": 1}
        assert [one.in_flight_count for one in pool.members.values()] == [0, 0]


def until_gone(*servers: OpenAIServer) -> list[asyncio.Event]:
    """Let them hang."""
    events = [asyncio.Event() for _ in servers]
    for server, event in zip(servers, events, strict=True):
        server.answer = hanging(event)
    return events


async def test_a_caller_that_leaves_ends_both_runs() -> None:
    async with scripted_pool("a", "b", hedging=SOON) as (pool, servers):
        events = until_gone(*servers.values())
        asked = asyncio.create_task(answer_of(pool, to_run(), may_hedge=True))
        while not all(one.calls for one in servers.values()):
            await asyncio.sleep(0.01)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await asyncio.gather(*(one.wait() for one in events))
        assert [one.in_flight_count for one in pool.members.values()] == [0, 0]
        assert not pool._expected


async def pieces_of(source: PooledSource) -> list[AnswerPiece]:
    calls._expires_at.set(None)
    return [piece async for piece in source.generate(to_run())]


async def test_both_runs_are_charged_to_the_request() -> None:
    clock = Clock()

    async def answer_after_four_seconds(call: Call) -> None:
        clock.now_s += 4
        await whole_answer(call)

    async with scripted_pool("a", "b", clock=clock, hedging=SOON) as (pool, servers):
        until_gone(servers["a"])
        servers["b"].answer = answer_after_four_seconds
        settled: list[AnswerPiece] = []
        pieces = await pieces_of(PooledSource(pool, settled.append, may_hedge=True))
        busy_s = {name: one.last_word.busy_s for name, one in pool.members.items()}

    assert {one.worker for one in pieces[1:]} == {"b"} and not settled  # the first is empty
    # The two ran at the same time, each on its own worker, and each second is somebody's.
    assert busy_s == {"a": 4, "b": 4}
    assert pieces[-1].busy_s == 8
    assert pieces[-1].cost_nano_usd == 8_000_000
    assert pieces[-1].output_token_count == OUTPUT_TOKEN_COUNT  # of one answer


async def test_both_runs_are_charged_to_a_caller_that_leaves() -> None:
    clock = Clock()
    async with scripted_pool("a", "b", clock=clock, hedging=SOON) as (pool, servers):
        until_gone(*servers.values())
        settled: list[AnswerPiece] = []
        asked = asyncio.create_task(pieces_of(PooledSource(pool, settled.append, may_hedge=True)))
        while not all(one.calls for one in servers.values()):
            await asyncio.sleep(0.01)
        clock.now_s += 4
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked

    (rest,) = settled
    assert rest.busy_s == 8 and rest.cost_nano_usd == 8_000_000


async def test_a_lost_run_is_charged_too() -> None:
    clock = Clock()

    async def compute_then_drop(call: Call) -> None:
        clock.now_s += 4
        await call.drop()

    async with scripted_pool("a", "b", clock=clock) as (pool, servers):
        servers["a"].answer = compute_then_drop
        settled: list[AnswerPiece] = []
        pieces = await pieces_of(PooledSource(pool, settled.append))

    assert (pieces[-1].worker, pieces[-1].busy_s) == ("b", 4) and not settled
