"""Workers that can be heard but fail what they are asked, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest
from pool.scripted import answer_of, fail, scripted_pool, to_run
from prometheus_client import CollectorRegistry

from gateway.worker_metrics import WorkerCollector
from model_pool.breaker import BreakerState
from model_pool.errors import InvalidParameter, NoWorkerReady, WorkerLost
from model_pool.pool import Pool
from support.fleet import until
from support.openai_server import Call, whole_answer

LONG = {"failures": 2, "pause_s": 600, "longest_pause_s": 600}
SHORT = {"failures": 1, "pause_s": 0.05, "longest_pause_s": 0.05}


async def refuse(call: Call) -> None:
    await call.refuse(400, "no such parameter")


async def until_heard(pool: Pool, name: str) -> None:
    """A member that failed is out of reach until it answers the next poll."""

    async def is_heard() -> bool:
        return pool.members[name].is_ready

    await until(is_heard)


async def ask(pool: Pool, name: str = "a") -> None:
    with contextlib.suppress(WorkerLost):
        await answer_of(pool, to_run())
    await until_heard(pool, name)


async def test_a_worker_that_fails_in_a_row_is_left_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with scripted_pool("a", "b", breaker=LONG) as (pool, servers):
        servers["a"].answer = fail
        with caplog.at_level(logging.INFO):
            for _ in range(5):
                await ask(pool)
        registry = CollectorRegistry()
        registry.register(WorkerCollector(pool))
        states = [
            registry.get_sample_value("deltafleet_worker_breaker_state", {"worker": name})
            for name in ("a", "b")
        ]
        retries = registry.get_sample_value("deltafleet_worker_retries_total", {"reason": "lost"})

    assert [len(servers[name].calls) for name in ("a", "b")] == [LONG["failures"], 5]
    assert states == [BreakerState.OPEN, BreakerState.CLOSED]
    assert retries == LONG["failures"]
    told = [
        (one.worker, one.state) for one in caplog.records if one.message == "worker_breaker_changed"
    ]
    assert told == [("a", "open")]


async def test_where_all_are_left_alone_the_caller_is_told_for_how_long() -> None:
    async with scripted_pool("a", breaker=LONG) as (pool, servers):
        servers["a"].answer = fail
        await ask(pool)  # it is the only one: both of its tries
        with pytest.raises(NoWorkerReady) as caught:
            await answer_of(pool, to_run())

    assert 0 < caught.value.retry_after_s <= LONG["pause_s"]
    assert caught.value.retry_after_s > LONG["pause_s"] / 2
    assert len(servers["a"].calls) == LONG["failures"]


async def test_a_probe_brings_it_back_and_others_wait_for_it() -> None:
    goes_on = asyncio.Event()

    async def answer_late(call: Call) -> None:
        await goes_on.wait()
        await whole_answer(call)

    async with scripted_pool("a", breaker=SHORT) as (pool, servers):
        servers["a"].answer = fail
        with pytest.raises((WorkerLost, NoWorkerReady)):
            await answer_of(pool, to_run())
        await until_heard(pool, "a")
        servers["a"].answer, servers["a"].calls = answer_late, []

        async def is_over() -> bool:
            return pool._breakers.of(pool.members["a"]).allows

        await until(is_over)
        callers = [asyncio.create_task(answer_of(pool, to_run())) for _ in range(4)]

        async def is_probed() -> bool:
            return bool(servers["a"].calls)

        await until(is_probed)
        assert pool.breaker_state(pool.members["a"]) is BreakerState.HALF_OPEN
        assert len(servers["a"].calls) == 1
        goes_on.set()
        answers = await asyncio.gather(*callers)

        assert [worker for worker, _ in answers] == ["a"] * 4
        assert pool.breaker_state(pool.members["a"]) is BreakerState.CLOSED


async def test_callers_faults_open_nothing() -> None:
    async with scripted_pool("a", breaker=SHORT) as (pool, servers):
        servers["a"].answer = refuse
        for _ in range(3):
            with pytest.raises(InvalidParameter):
                await answer_of(pool, to_run())
        servers["a"].answer = Call.until_gone
        for _ in range(3):
            asked = asyncio.create_task(answer_of(pool, to_run()))
            await asyncio.sleep(0.05)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
        assert pool.breaker_state(pool.members["a"]) is BreakerState.CLOSED


async def test_an_answer_that_breaks_off_counts_too() -> None:
    async def break_off(call: Call) -> None:
        await call.begin()
        await call.say("It ")
        await call.drop()

    async with scripted_pool("a", "b", breaker=LONG) as (pool, servers):
        servers["a"].answer = break_off
        for _ in range(LONG["failures"]):
            await ask(pool)
        assert (await answer_of(pool, to_run()))[0] == "b"
        assert pool.breaker_state(pool.members["a"]) is BreakerState.OPEN


async def test_a_worker_that_was_started_again_is_another_one() -> None:
    async with scripted_pool("a", breaker=LONG) as (pool, servers):
        servers["a"].answer = fail
        await ask(pool)
        await servers["a"].stop()

        async def is_gone() -> bool:
            return pool.members["a"].last_word is None

        await until(is_gone)
        servers["a"].answer = whole_answer
        await servers["a"].start()
        await until_heard(pool, "a")
        assert (await answer_of(pool, to_run()))[0] == "a"
