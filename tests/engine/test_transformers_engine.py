"""How the embedded engine spends its steps: batching, fairness, cancelling, failing."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from engine.asking import Fleet, answer_of, job, pieces_of
from engine.tiny_models import CONTEXT_TOKEN_COUNT
from engine.watching import ForwardWatch
from safetensors.torch import load_file

from model_pool.engine import Job, Piece, Weights
from model_pool.errors import EngineFailed, PoolSaturated, PromptTooLong
from model_pool.transformers_engine import TransformersEngine

Start = Callable[..., AbstractAsyncContextManager[TransformersEngine]]
LONG = {"max_output_token_count": 100}


@pytest.fixture
def watch() -> Iterator[ForwardWatch]:
    with ForwardWatch() as watching:
        yield watching


@pytest.fixture
def start(fleet: Fleet) -> Start:
    """An engine with "base" and "sql" loaded."""

    @asynccontextmanager
    async def started(**options: Any) -> AsyncIterator[TransformersEngine]:
        engine = TransformersEngine(fleet.base, thread_count=1, **options)
        await engine.start()
        try:
            await engine.load(fleet.weights["base"])
            await engine.load(fleet.weights["sql"])
            yield engine
        finally:
            await engine.stop()

    return started


async def submit(
    engine: TransformersEngine, jobs: Sequence[Job], ended: list[int] | None = None
) -> list[asyncio.Task[Any]]:
    """Tasks whose jobs are all with the step thread. ended: takes each job's number as it ends.

    Prompts are read in the order they came: once a later one is refused, the others are through.
    """
    order: list[int] = [] if ended is None else ended
    tasks = [
        asyncio.create_task(pieces_of(engine, asked, lambda _, number=number: order.append(number)))
        for number, asked in enumerate(jobs)
    ]
    await asyncio.sleep(0)
    with pytest.raises(PromptTooLong):
        await pieces_of(engine, job("x" * 3 * CONTEXT_TOKEN_COUNT))
    return tasks


def last_usage(pieces: list[Piece]) -> tuple[int, float]:
    return pieces[-1].usage.prompt_token_count, pieces[-1].usage.busy_s


async def test_a_prompt_is_read_once_and_then_one_token_at_a_time(
    start: Start, watch: ForwardWatch
) -> None:
    async with start() as engine:
        last = (await pieces_of(engine, job("hello")))[-1].usage

    expected = [(1, last.prompt_token_count)] + [(1, 1)] * (last.output_token_count - 1)
    assert watch.shapes == expected


async def test_jobs_that_wait_together_compute_together(start: Start, watch: ForwardWatch) -> None:
    async with start() as engine:
        watch.close_gate()
        tasks = await submit(engine, [job(f"prompt {'long ' * i}", **LONG) for i in range(6)])
        watch.open_gate()
        await asyncio.gather(*tasks)

    # Some may have been read before the others came; those came together.
    reads = [rows for rows, tokens in watch.shapes if tokens > 1]
    assert sum(reads) == 6
    assert len(reads) <= 2
    assert max(rows for rows, tokens in watch.shapes if tokens == 1) >= 4


async def test_a_cancelled_job_computes_no_further_step(start: Start, watch: ForwardWatch) -> None:
    async with start() as engine:
        watch.close_gate(after=5)
        stream = engine.generate(job("go on", **LONG))
        await anext(stream)
        await asyncio.to_thread(watch.is_waiting.wait)
        await stream.aclose()
        assert engine.report().running_count == 0
        watch.open_gate()

    assert len(watch.shapes) == 6


async def test_a_cancelled_job_leaves_the_others_their_answers(
    start: Start, watch: ForwardWatch
) -> None:
    async with start() as engine:
        jobs = [job(f"prompt {'long ' * i}", **LONG) for i in range(5)]
        expected = [await answer_of(engine, asked) for asked in jobs]
        watch.close_gate(after=8)
        tasks = await submit(engine, jobs)
        await asyncio.to_thread(watch.is_waiting.wait)
        tasks[0].cancel()
        tasks[3].cancel()
        await asyncio.wait([tasks[0], tasks[3]])
        watch.open_gate()
        answers = {i: "".join(p.text for p in await tasks[i]) for i in (1, 2, 4)}

    assert answers == {i: expected[i] for i in (1, 2, 4)}


async def test_a_queued_job_that_is_cancelled_never_runs(start: Start, watch: ForwardWatch) -> None:
    async with start(max_running_count=1) as engine:
        watch.close_gate()
        running, queued = await submit(engine, [job("first"), job("second " * 9)])
        queued.cancel()
        await asyncio.wait([queued])
        watch.open_gate()
        await running

    assert sum(tokens > 1 for _, tokens in watch.shapes) == 1


async def test_no_more_jobs_run_than_the_limit(start: Start, watch: ForwardWatch) -> None:
    async with start(max_running_count=3) as engine:
        watch.close_gate()
        tasks = await submit(engine, [job(f"prompt {i}") for i in range(10)])
        report = engine.report()
        watch.open_gate()
        await asyncio.gather(*tasks)

    assert report.running_count <= 3
    assert report.running_count + report.queued_count == 10
    assert max(rows for rows, _ in watch.shapes) == 3


async def test_a_long_queue_of_one_model_does_not_keep_another_out(
    start: Start, watch: ForwardWatch
) -> None:
    async with start(max_running_count=2) as engine:
        watch.close_gate()
        jobs = [job(f"number {i}", max_output_token_count=4) for i in range(8)]
        jobs.append(job("query", "sql", max_output_token_count=4))
        # As the engine ends them: tasks of one step may wake in another order.
        ended: list[int] = []
        tasks = await submit(engine, jobs, ended)
        watch.open_gate()
        await asyncio.gather(*tasks)

    assert ended.index(8) <= 3
    assert [number for number in ended if number < 8] == sorted(range(8))


async def test_a_full_queue_tells_when_to_come_again(start: Start, watch: ForwardWatch) -> None:
    async with start(max_running_count=1, max_queued_count=2) as engine:
        watch.close_gate()
        stream = asyncio.create_task(pieces_of(engine, job("running")))
        await asyncio.to_thread(watch.is_waiting.wait)
        queued = [asyncio.create_task(pieces_of(engine, job("queued"))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(PoolSaturated) as refusal:
            await pieces_of(engine, job("one too many"))
        watch.open_gate()
        await asyncio.gather(stream, *queued)

    assert (refusal.value.retry_after_s or 0) > 0


async def test_a_failing_step_ends_the_jobs_of_its_model_only(
    start: Start, watch: ForwardWatch, fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    embeddings = load_file(fleet.variant / "model.safetensors")["model.embed_tokens.weight"]
    async with start() as engine:
        expected = await answer_of(engine, job("others", **LONG))
        watch.close_gate(after=6)
        jobs = [job("others", **LONG), job("who?", "sql", **LONG), job("why?", "sql", **LONG)]
        tasks = await submit(engine, jobs)
        await asyncio.to_thread(watch.is_waiting.wait)
        watch.break_passes_over(embeddings)
        watch.open_gate()
        with caplog.at_level(logging.ERROR):
            answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert engine.report().running_count == 0
        assert [type(answer) for answer in answers[1:]] == [EngineFailed, EngineFailed]
        assert "".join(piece.text for piece in answers[0]) == expected
        assert [record.message for record in caplog.records] == ["engine_step_failed"]

        watch.break_passes_over(embeddings[:1])
        assert await answer_of(engine, job("again", "sql"))


async def test_a_step_is_divided_among_its_jobs_by_tokens(
    start: Start, watch: ForwardWatch
) -> None:
    ticks = itertools.count()
    async with start(clock=lambda: float(next(ticks))) as engine:
        alone = last_usage(await pieces_of(engine, job("hello", max_output_token_count=4)))
        assert alone[1] == 4
        assert engine.report().spent.busy_s == 4

        watch.close_gate()
        short, long = (job("hi " * n, max_output_token_count=3) for n in (1, 30))
        blocker, *tasks = await submit(engine, [job("first", "sql"), short, long])
        watch.open_gate()
        (short_count, short_s), (long_count, long_s) = [last_usage(await task) for task in tasks]
        blocker_s = last_usage(await blocker)[1]
        assert engine.report().spent.busy_s == pytest.approx(4 + short_s + long_s + blocker_s)

    # Read in one pass of one second, by prompt tokens; then two passes with a token of each.
    assert short_s == pytest.approx(short_count / (short_count + long_count) + 1.0)
    assert long_s == pytest.approx(long_count / (short_count + long_count) + 1.0)


async def test_prompts_and_answers_are_measured_apart(start: Start) -> None:
    async with start() as engine:
        usages = [
            (await pieces_of(engine, job("hi " * n, max_output_token_count=n)))[-1].usage
            for n in (1, 3, 9)
        ]
        report = engine.report()

    # An answer's first token comes out of reading its prompt.
    assert report.work.prefill_token_count == sum(one.prompt_token_count for one in usages)
    assert report.work.decode_token_count == sum(one.output_token_count - 1 for one in usages)
    assert report.work.decode_s > 0 < report.work.prefill_s
    assert report.work.prefill_s + report.work.decode_s == pytest.approx(report.spent.busy_s)


async def test_weights_that_are_built_beside_a_step_cost_nothing_of_their_own(
    start: Start, watch: ForwardWatch, fleet: Fleet
) -> None:
    async with start() as engine:
        watch.close_gate()
        task = asyncio.create_task(pieces_of(engine, job("hold on")))
        await asyncio.to_thread(watch.is_waiting.wait)
        before = engine.report().spent
        await engine.load(fleet.weights["chat"])
        after = engine.report().spent.since(before)
        watch.open_gate()
        await task
        whole = engine.report().spent

    assert after.load_s == 0
    assert after.busy_s == after.elapsed_s > 0
    assert whole.busy_s + whole.load_s + whole.switch_s <= whole.elapsed_s
    assert before.load_s > 0 == whole.switch_s


async def test_running_answers_end_on_the_weights_that_they_began_with(
    start: Start, watch: ForwardWatch, fleet: Fleet
) -> None:
    renewed = Weights("sql", "digest-renewed", fleet.weights["chat"].delta)
    async with start() as engine:
        expected = await answer_of(engine, job("who?", "sql", **LONG))
        watch.close_gate(after=3)
        (running,) = await submit(engine, [job("who?", "sql", **LONG)])
        await asyncio.to_thread(watch.is_waiting.wait)
        await engine.load(renewed)
        watch.open_gate()
        later = await pieces_of(engine, job("who?", "sql", **LONG))
        former = await running

    assert "".join(piece.text for piece in former) == expected
    assert former[-1].weights_digest == "digest-of-sql"
    assert later[-1].weights_digest == "digest-renewed"
    assert "".join(piece.text for piece in later) != expected


async def test_a_context_beyond_the_base_is_refused(fleet: Fleet) -> None:
    engine = TransformersEngine(fleet.base, context_token_count=CONTEXT_TOKEN_COUNT + 1)
    with pytest.raises(ValueError, match="more than the base's"):
        await engine.start()
    await engine.stop()


async def test_stop_ends_running_jobs_after_the_step_they_are_in(
    start: Start, watch: ForwardWatch
) -> None:
    async with start() as engine:
        watch.close_gate(after=3)
        tasks = await submit(engine, [job("go on", **LONG), job("why?", "sql", **LONG)])
        await asyncio.to_thread(watch.is_waiting.wait)
        stopping = asyncio.create_task(engine.stop())
        await asyncio.sleep(0)
        watch.open_gate()
        await stopping
        failures = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(failure) for failure in failures] == [EngineFailed, EngineFailed]


async def test_weights_in_sixteen_bits_answer(fleet: Fleet) -> None:
    engine = TransformersEngine(fleet.base, dtype="bfloat16", thread_count=1)
    await engine.start()
    await engine.load(fleet.weights["base"])
    answers = await asyncio.gather(*(answer_of(engine, job("hi " * n)) for n in range(1, 6)))
    await engine.stop()

    assert all(answers)


async def test_who_would_be_late_is_told_at_once(start: Start, watch: ForwardWatch) -> None:
    """And only who finds others waiting: the forecast is of their line."""
    async with start(max_running_count=1) as engine:
        hurried = replace(job("hurry"), time_left_s=1e-9)
        await asyncio.gather(*(pieces_of(engine, job("learn")) for _ in range(3)))
        watch.close_gate()
        waiting = await submit(engine, [job("one"), job("two"), job("three")])
        with pytest.raises(PoolSaturated, match="too late") as refusal:
            await pieces_of(engine, hurried)
        patient = asyncio.create_task(pieces_of(engine, job("patient")))
        watch.open_gate()
        await asyncio.gather(*waiting, patient)

        assert refusal.value.retry_after_s is not None
        assert await pieces_of(engine, hurried), "nobody waits any more"
