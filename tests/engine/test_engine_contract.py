"""What every engine does, told through its public door."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest
from engine.asking import Fleet, StartEngine, answer_of, in_order, job, pieces_of
from engine.reference import Reference
from engine.tiny_models import CONTEXT_TOKEN_COUNT

from merge_on_load.errors import MergeError
from model_pool.engine import FinishReason, Job, Message, Role, Sampling, Usage
from model_pool.errors import (
    EngineFailed,
    InvalidParameter,
    PoolSaturated,
    PromptTooLong,
    UnknownModel,
)
from model_pool.switching import Priority

PROMPTS = tuple(f"{'the price of tea, ' * (i % 7)}number {i}" for i in range(40))
LONG = {"max_output_token_count": 200}  # "place wait" is answered with all of them


async def test_the_last_piece_alone_has_a_finish_reason_and_usage_grows(
    start_engine: StartEngine,
) -> None:
    async with start_engine() as engine:
        pieces = await pieces_of(engine, job("hello"))

    assert all(piece.finish_reason is None for piece in pieces[:-1])
    assert pieces[-1].finish_reason is not None
    assert {piece.weights_digest for piece in pieces} == {"digest-of-base"}
    assert len({piece.usage.prompt_token_count for piece in pieces}) == 1
    counts = [piece.usage.output_token_count for piece in pieces]
    assert counts == sorted(counts)
    busy = [piece.usage.busy_s for piece in pieces]
    assert busy == sorted(busy)
    assert busy[0] > 0


async def test_the_answer_ends_at_its_token_limit(start_engine: StartEngine) -> None:
    async with start_engine() as engine:
        last = (await pieces_of(engine, job("hello", max_output_token_count=5)))[-1]

    assert last.finish_reason is FinishReason.LENGTH
    assert last.usage.output_token_count == 5


async def test_batched_answers_equal_those_given_alone(start_engine: StartEngine) -> None:
    jobs = [job(prompt, max_output_token_count=3 + i % 40) for i, prompt in enumerate(PROMPTS)]
    async with start_engine() as engine:
        alone = [await answer_of(engine, asked) for asked in jobs]
        together = await asyncio.gather(*(answer_of(engine, asked) for asked in jobs))

    assert together == alone
    assert len(set(alone)) > len(alone) // 2


async def test_sampled_answers_depend_on_the_seed_and_not_on_the_batch(
    start_engine: StartEngine,
) -> None:
    def sampled(seed: int) -> Job:
        return job("a seed", temperature=1.0, top_p=0.9 if seed % 2 else 1.0, seed=seed)

    async with start_engine() as engine:
        alone = [await answer_of(engine, sampled(seed)) for seed in range(8)]
        others = [answer_of(engine, job(prompt)) for prompt in PROMPTS]
        together = await asyncio.gather(
            *(answer_of(engine, sampled(seed)) for seed in range(8)), *others
        )

    assert together[:8] == alone
    assert len(set(alone)) == 8


async def test_the_answer_ends_before_the_first_stop_text(start_engine: StartEngine) -> None:
    async with start_engine() as engine:
        whole = await answer_of(engine, job("stop somewhere", **LONG))
        assert len(whole) > 12
        for start in (1, len(whole) // 3, len(whole) // 2):
            stop = whole[start : start + 5]
            pieces = await pieces_of(engine, job("stop somewhere", stop=("@@@@", stop), **LONG))
            assert "".join(piece.text for piece in pieces) == whole[: whole.find(stop)]
            assert pieces[-1].finish_reason is FinishReason.STOP
        unmatched = job("stop somewhere", stop=(whole[-4:] + "and more",), **LONG)
        assert await answer_of(engine, unmatched) == whole


async def test_an_answer_tells_how_probable_its_tokens_were(
    start_engine: StartEngine, fleet: Fleet
) -> None:
    """Its end included, and nothing behind a stop text."""
    reference = Reference(fleet.base)
    ids = {prompt: reference.greedy_ids(prompt, 40) for prompt in PROMPTS[:12]}
    jobs = [job(prompt, max_output_token_count=40) for prompt in ids]
    cut_prompt = max(ids, key=lambda prompt: len(ids[prompt])) + "!"
    whole = reference.greedy_ids(cut_prompt, 40)
    texts = [reference.text(whole[: count + 1]) for count in range(len(whole))]
    pairs = (texts[-1][place : place + 2] for place in range(2, len(texts[-1]) - 2))
    stop = next(pair for pair in pairs if pair.isascii())
    ids[cut_prompt] = whole[: 1 + next(i for i, text in enumerate(texts) if stop in text)]
    jobs.append(job(cut_prompt, max_output_token_count=40, stop=(stop,)))
    async with start_engine() as engine:
        wanted = [replace(one, wants_log_probability=True) for one in jobs]
        told = await asyncio.gather(*(pieces_of(engine, one) for one in wanted))
        untold = await pieces_of(engine, jobs[0])

    assert len(ids[cut_prompt]) < len(whole)
    for prompt, pieces in zip(ids, told, strict=True):
        expected = reference.mean_log_probability(prompt, ids[prompt])
        assert pieces[-1].mean_log_probability == pytest.approx(expected, abs=1e-3)
        assert not any(piece.mean_log_probability for piece in pieces[:-1])
    reasons = [pieces[-1].finish_reason for pieces in told]
    assert set(reasons) == {FinishReason.STOP, FinishReason.LENGTH}
    assert not any(piece.mean_log_probability for piece in untold)


async def test_a_prompt_that_fills_the_context_is_refused(start_engine: StartEngine) -> None:
    async with start_engine() as engine:
        with pytest.raises(PromptTooLong) as refusal:
            await pieces_of(engine, job("x" * 3 * CONTEXT_TOKEN_COUNT))
        assert int(refusal.value.metadata["prompt_token_count"]) > CONTEXT_TOKEN_COUNT
        assert int(refusal.value.metadata["context_token_count"]) == CONTEXT_TOKEN_COUNT
        assert engine.report().queued_count == 0


async def test_a_conversation_that_the_template_refuses_is_refused(
    start_engine: StartEngine,
) -> None:
    turns = (Message(Role.USER, "hello"), Message(Role.SYSTEM, "be brief"))
    async with start_engine() as engine:
        with pytest.raises(InvalidParameter, match="chat template"):
            await pieces_of(engine, Job("a", "base", turns, Sampling(max_output_token_count=4)))


async def test_an_answer_never_outgrows_the_context(start_engine: StartEngine) -> None:
    async with start_engine() as engine:
        assert engine.context_token_count == CONTEXT_TOKEN_COUNT
        pieces = await pieces_of(engine, job("z" * 245, max_output_token_count=4096))

    used = pieces[-1].usage
    assert pieces[-1].finish_reason is FinishReason.LENGTH
    assert used.prompt_token_count + used.output_token_count == CONTEXT_TOKEN_COUNT


async def test_every_turn_of_a_conversation_is_read(start_engine: StartEngine) -> None:
    turns = (
        Message(Role.SYSTEM, "be brief"),
        Message(Role.USER, "hello"),
        Message(Role.ASSISTANT, "good day"),
        Message(Role.USER, "and now?"),
    )
    sampling = Sampling(max_output_token_count=24)
    async with start_engine() as engine:
        whole = await pieces_of(engine, Job("a", "base", turns, sampling))
        last_only = await pieces_of(engine, Job("b", "base", turns[3:], sampling))

    assert whole[-1].usage.prompt_token_count > last_only[-1].usage.prompt_token_count
    assert [piece.text for piece in whole] != [piece.text for piece in last_only]


async def test_closing_the_stream_frees_its_place(start_engine: StartEngine) -> None:
    async with start_engine() as engine:
        stream = engine.generate(job("go on", **LONG))
        await anext(stream)
        await stream.aclose()

        assert engine.report().running_count == 0
        assert await answer_of(engine, job("next"))


async def test_cancelling_the_task_frees_its_place(start_engine: StartEngine) -> None:
    has_begun = asyncio.Event()

    async def read() -> None:
        async with aclosing(engine.generate(job("go on", **LONG))) as stream:
            async for _ in stream:
                has_begun.set()

    async with start_engine() as engine:
        task = asyncio.create_task(read())
        await has_begun.wait()
        task.cancel()
        await asyncio.wait([task])

        assert engine.report().running_count == 0


async def test_models_side_by_side_answer_each_with_its_own_weights(
    start_engine: StartEngine, fleet: Fleet
) -> None:
    async with start_engine() as engine:
        await asyncio.gather(*(engine.load(fleet.weights[name]) for name in ("sql", "chat")))
        alone = {name: await answer_of(engine, job("who?", name)) for name in fleet.weights}
        pieces = await asyncio.gather(
            *(pieces_of(engine, job("who?", name)) for name in fleet.weights)
        )
        report = engine.report()
        assert engine.size_bytes(fleet.weights["sql"]) > 0

    assert len(set(alone.values())) == 3
    for name, answered in zip(fleet.weights, pieces, strict=True):
        assert "".join(piece.text for piece in answered) == alone[name]
        assert {piece.weights_digest for piece in answered} == {f"digest-of-{name}"}
    assert set(report.loaded) == set(fleet.weights.values())
    assert report.spent.load_s > 0


async def test_a_corrupt_delta_is_refused_and_the_former_weights_go_on(
    start_engine: StartEngine, fleet: Fleet
) -> None:
    async with start_engine() as engine:
        await engine.load(fleet.weights["sql"])
        before = await answer_of(engine, job("who?", "sql"))
        with pytest.raises(MergeError):
            await engine.load(fleet.corrupt)

        assert fleet.weights["sql"] in engine.report().loaded
        assert await answer_of(engine, job("who?", "sql")) == before


async def test_an_unloaded_model_is_unknown(start_engine: StartEngine, fleet: Fleet) -> None:
    async with start_engine() as engine:
        await engine.load(fleet.weights["sql"])
        await engine.unload("sql")

        assert engine.report().loaded == (fleet.weights["base"],)
        with pytest.raises(UnknownModel):
            await pieces_of(engine, job("who?", "sql"))
        assert await answer_of(engine, job("still here?"))


async def test_a_refused_job_has_ended_too(start_engine: StartEngine) -> None:
    ends: list[Usage] = []
    async with start_engine() as engine:
        with pytest.raises(UnknownModel):
            async with aclosing(engine.generate(job("who?", "nobody"), ends.append)) as stream:
                await anext(stream)

    assert ends == [Usage(0, 0, 0.0)]


async def test_shares_of_finished_jobs_add_up_to_the_busy_seconds(
    start_engine: StartEngine, fleet: Fleet
) -> None:
    async with start_engine() as engine:
        await engine.load(fleet.weights["sql"])
        names = ("base", "sql")
        answers = await asyncio.gather(
            *(pieces_of(engine, job(p, names[i % 2])) for i, p in enumerate(PROMPTS))
        )
        busy_s = engine.report().spent.busy_s

    assert sum(pieces[-1].usage.busy_s for pieces in answers) == pytest.approx(busy_s, rel=1e-9)


async def test_shares_of_broken_off_jobs_add_up_too(
    start_engine: StartEngine, fleet: Fleet
) -> None:
    ends: list[Usage] = []
    told: list[Usage] = []

    async def ask(place: int) -> None:
        asked = job(PROMPTS[place], ("base", "sql")[place % 2], max_output_token_count=40)
        async with aclosing(engine.generate(asked, ends.append)) as stream:
            count = 0
            async for piece in stream:
                told.append(piece.usage)
                count += 1
                if count == place % 7:
                    return

    async with start_engine() as engine:
        await engine.load(fleet.weights["sql"])
        tasks = [asyncio.create_task(ask(place)) for place in range(len(PROMPTS))]
        for task in tasks[::5]:  # some before they begin, some in the middle
            await asyncio.sleep(0.001)
            task.cancel()
        await asyncio.wait(tasks)
        begun = len(PROMPTS) - sum(task.cancelled() for task in tasks)
        while len(ends) < begun or engine.report().running_count:
            await asyncio.sleep(0.001)
        await engine.drain()
        # One more: whatever the step thread was in has ended before.
        async with aclosing(engine.generate(job("the end"), ends.append)) as stream:
            async for _ in stream:
                pass
        busy_s = engine.report().spent.busy_s

    assert sum(usage.busy_s for usage in ends) == pytest.approx(busy_s, rel=1e-6)
    assert max(usage.output_token_count for usage in ends) == 40


async def test_one_callers_burst_does_not_keep_another_out(start_engine: StartEngine) -> None:
    noisy = [replace(job(f"noise {i}"), caller="noisy") for i in range(8)]
    quiet = replace(job("a question"), caller="quiet")
    async with start_engine(max_running_count=1) as engine:
        order = await in_order(engine, job("place wait", **LONG), [*noisy, quiet])

    # One of the noisy may be the first that is there when the place is free, and one goes in turn.
    assert order.index("quiet") <= 2


async def test_the_urgent_pass_those_that_wait(start_engine: StartEngine) -> None:
    jobs = [
        replace(job(f"{priority.name} {i}"), caller=priority.name, priority=priority)
        for priority in (Priority.BATCH, Priority.STANDARD, Priority.INTERACTIVE)
        for i in range(3)
    ]
    async with start_engine(max_running_count=1) as engine:
        order = await in_order(engine, job("place wait", **LONG), jobs)

    # As above, one may have got the place before the others were there.
    later = [Priority[name] for name in order[1:]]
    assert later == sorted(later)


async def test_who_would_be_late_is_told_before_anything_is_computed(
    start_engine: StartEngine,
) -> None:
    hurried = replace(job("hurry"), time_left_s=1e-9)
    ends: list[Usage] = []
    async with start_engine(max_running_count=1) as engine:
        await asyncio.gather(*(pieces_of(engine, job("learn")) for _ in range(3)))
        async with aclosing(engine.generate(job("hold on", **LONG))) as stream:
            await anext(stream)
            tasks = [asyncio.create_task(pieces_of(engine, job(f"{i}"))) for i in range(3)]
            await asyncio.sleep(0)
            with pytest.raises(PoolSaturated, match="too late") as refusal:
                async with aclosing(engine.generate(hurried, ends.append)) as late:
                    await anext(late)
            # Nobody goes before the urgent one: nothing is foretold.
            urgent = replace(hurried, priority=Priority.INTERACTIVE)
            assert (await pieces_of(engine, urgent))[-1].finish_reason
        await asyncio.gather(*tasks)

        assert await pieces_of(engine, hurried), "nobody waits any more"
    assert (refusal.value.retry_after_s or 0) > 0
    assert ends == [Usage(0, 0, 0.0)]


async def test_drain_returns_when_the_last_job_has_ended(start_engine: StartEngine) -> None:
    async with start_engine(max_running_count=2) as engine:
        tasks = [asyncio.create_task(pieces_of(engine, job(prompt))) for prompt in PROMPTS[:6]]
        await asyncio.sleep(0)
        assert engine.report().queued_count == 6
        await engine.drain()

        report = engine.report()
        assert (report.queued_count, report.running_count) == (0, 0)
        assert all([(await task)[-1].finish_reason for task in tasks])
        await engine.drain()


async def test_stop_ends_the_jobs_that_are_left(start_engine: StartEngine) -> None:
    async with start_engine(max_running_count=1) as engine:
        first = asyncio.Event()
        tasks = [asyncio.create_task(pieces_of(engine, job(prompt))) for prompt in PROMPTS]
        tasks[0].add_done_callback(lambda _: first.set())
        await first.wait()
        await engine.stop()
        answers = await asyncio.gather(*tasks, return_exceptions=True)

        assert isinstance(answers[-1], EngineFailed)
        assert all(isinstance(answer, list | EngineFailed) for answer in answers)
        with pytest.raises(EngineFailed):
            await pieces_of(engine, job("too late"))
        assert engine.report().loaded == ()
        assert engine.report().running_count == 0
