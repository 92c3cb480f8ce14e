"""How the embedded engine fills its places: every step is held, so that nothing hangs on timing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from engine.asking import Fleet, job, pieces_of
from engine.tiny_models import CONTEXT_TOKEN_COUNT
from engine.watching import ForwardWatch

from model_pool.engine import Job
from model_pool.errors import PoolSaturated, PromptTooLong
from model_pool.switching import Priority
from model_pool.transformers_engine import TransformersEngine

LONG = {"max_output_token_count": 60}


@pytest.fixture
def watch() -> Iterator[ForwardWatch]:
    with ForwardWatch() as watching:
        yield watching


@asynccontextmanager
async def started(fleet: Fleet, running_count: int) -> AsyncIterator[TransformersEngine]:
    engine = TransformersEngine(fleet.base, thread_count=1, max_running_count=running_count)
    await engine.start()
    try:
        for name in ("base", "sql", "chat"):
            await engine.load(fleet.weights[name])
        yield engine
    finally:
        await engine.stop()


async def answered_in_order(
    engine: TransformersEngine, watch: ForwardWatch, jobs: Sequence[Job]
) -> list[int]:
    """Who ends first, second, ... All wait when the first place becomes free."""
    watch.close_gate()
    blocker = asyncio.create_task(pieces_of(engine, job("hold on", max_output_token_count=2)))
    await asyncio.to_thread(watch.is_waiting.wait)
    order: list[int] = []
    tasks = [asyncio.create_task(pieces_of(engine, asked)) for asked in jobs]
    for number, task in enumerate(tasks):
        task.add_done_callback(lambda _, number=number: order.append(number))
    await asyncio.sleep(0)
    with pytest.raises(PromptTooLong):  # prompts are read in order: the others are through
        await pieces_of(engine, job("x" * 3 * CONTEXT_TOKEN_COUNT))
    watch.open_gate()
    await asyncio.gather(blocker, *tasks)
    return order


def asks(caller: str, count: int, model: str = "base", **changes: object) -> list[Job]:
    lengths = {"max_output_token_count": 4}
    one = job(f"{caller} asks", model, **lengths)
    return [replace(one, caller=caller, **changes) for _ in range(count)]  # type: ignore[arg-type]


async def test_a_burst_on_all_models_takes_turns_with_who_asks_one(
    fleet: Fleet, watch: ForwardWatch
) -> None:
    """Fairness is the worker's: the noisy one gains nothing by asking several models."""
    noisy = [*asks("noisy", 3), *asks("noisy", 3, "sql"), *asks("noisy", 3, "chat")]
    async with started(fleet, 1) as engine:
        order = await answered_in_order(engine, watch, [*noisy, *asks("quiet", 3, "sql")])

    places = [order.index(number) for number in (9, 10, 11)]
    assert places[0] <= 1
    assert places[1] <= 3
    assert places[2] <= 5


async def test_an_urgent_request_takes_the_next_place_of_any_model(
    fleet: Fleet, watch: ForwardWatch
) -> None:
    standard = [*asks("a", 2), *asks("b", 2, "sql")]
    async with started(fleet, 1) as engine:
        urgent = asks("c", 1, "chat", priority=Priority.INTERACTIVE)
        order = await answered_in_order(engine, watch, [*standard, *urgent])

    assert order[0] == 4


async def test_who_runs_is_not_sent_away_for_the_urgent(fleet: Fleet, watch: ForwardWatch) -> None:
    async with started(fleet, 1) as engine:
        batch = asyncio.create_task(
            pieces_of(engine, replace(job("go on", **LONG), priority=Priority.BATCH))
        )
        while not engine.report().running_count:
            await asyncio.sleep(0.001)
        urgent = asyncio.create_task(
            pieces_of(engine, replace(job("quick"), priority=Priority.INTERACTIVE))
        )
        await asyncio.wait([batch, urgent], return_when=asyncio.FIRST_COMPLETED)

        assert batch.done()
        await urgent


async def test_who_goes_first_is_not_told_that_the_line_is_too_long(
    fleet: Fleet, watch: ForwardWatch
) -> None:
    """The forecast counts those that go before, not those that wait."""
    async with started(fleet, 1) as engine:
        await asyncio.gather(*(pieces_of(engine, job("learn")) for _ in range(3)))
        watch.close_gate()
        tasks = [
            asyncio.create_task(pieces_of(engine, one))
            for one in asks("noisy", 9, priority=Priority.BATCH)
        ]
        await asyncio.to_thread(watch.is_waiting.wait)
        hurried = replace(job("hurry"), time_left_s=1e-9, caller="noisy")
        with pytest.raises(PoolSaturated):
            await pieces_of(engine, replace(hurried, priority=Priority.BATCH))
        urgent = asyncio.create_task(
            pieces_of(engine, replace(hurried, priority=Priority.INTERACTIVE))
        )
        await asyncio.sleep(0)
        watch.open_gate()

        assert (await urgent)[-1].finish_reason
        await asyncio.gather(*tasks)


async def test_a_cancelled_request_that_waits_is_dropped_without_a_step(
    fleet: Fleet, watch: ForwardWatch
) -> None:
    async with started(fleet, 1) as engine:
        watch.close_gate()
        running = asyncio.create_task(pieces_of(engine, job("hold on", max_output_token_count=3)))
        await asyncio.to_thread(watch.is_waiting.wait)
        waiting = [asyncio.create_task(pieces_of(engine, one)) for one in asks("a", 20)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert engine.report().queued_count == 0
        watch.open_gate()
        await running
        await engine.drain()

    assert len(watch.shapes) == 3
