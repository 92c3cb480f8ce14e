"""Many models on one set of live weights, under load."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sys
from collections import Counter
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from engine.asking import Fleet, StartEngine, answer_of, job, pieces_of
from engine.reference import Reference
from engine.tiny_models import CONTEXT_TOKEN_COUNT
from vllm_engine.probing import OPTIONS

from model_pool.errors import WorkerLost
from model_pool.switching import Policy
from model_pool.vllm.answer import AnswerProgress
from model_pool.vllm.engine import VllmEngine

LONG = {"max_output_token_count": 100}


async def test_under_load_every_finished_answer_is_its_own_models(
    start_engine: StartEngine, fleet: Fleet
) -> None:
    choice = random.Random(3)
    asked = [
        (job(f"number {i % 7}", choice.choice(list(fleet.weights)), **LONG), i % 5 == 4)
        for i in range(80)
    ]

    async def ask(engine: Any, wanted: Any, is_cancelled: bool) -> str | None:
        async with aclosing(engine.generate(wanted)) as stream:
            text = ""
            async for piece in stream:
                assert piece.weights_digest == f"digest-of-{wanted.model}"
                text += piece.text
                if is_cancelled and len(text) > 20:
                    return None
            return text

    async with start_engine(max_running_count=8) as engine:
        for weights in fleet.weights.values():
            await engine.load(weights)
        together = await asyncio.gather(*(ask(engine, *one) for one in asked))
        report = engine.report()
        assert (report.running_count, report.queued_count) == (0, 0)
        spent, work = report.spent, report.work
        assert min(spent.busy_s, spent.switch_s, spent.load_s) > 0
        assert spent.busy_s + spent.switch_s + spent.load_s <= spent.elapsed_s
        assert min(work.prefill_s, work.decode_s, work.prefill_token_count) > 0
        assert work.decode_token_count > 0.8 * 64 * (LONG["max_output_token_count"] - 1)
        assert work.prefill_s + work.decode_s <= spent.busy_s * (1 + 1e-9)
        alone = {wanted: await answer_of(engine, wanted) for wanted, _ in asked}

    finished = [
        (alone[wanted], text)
        for (wanted, _), text in zip(asked, together, strict=True)
        if text is not None
    ]
    assert len(finished) >= 64
    assert all(text == expected for expected, text in finished)


async def test_a_caller_who_does_not_read_delays_nobody(
    start_engine: StartEngine, fleet: Fleet
) -> None:
    async with start_engine(max_running_count=1) as engine:
        await engine.load(fleet.weights["sql"])
        async with aclosing(engine.generate(job("go on", "sql", **LONG))) as stream:
            await anext(stream)
            assert await answer_of(engine, job("hello", "base"))
            assert await answer_of(engine, job("hello", "sql"))
            assert "".join([piece.text async for piece in stream])


async def test_the_busy_seconds_of_broken_off_answers_are_counted(
    start_engine: StartEngine,
) -> None:
    async with start_engine() as engine:
        stream = engine.generate(job("go on", **LONG))
        first = await anext(stream)
        await asyncio.sleep(0.05)
        await stream.aclose()
        alone_s = engine.report().spent.busy_s
        await asyncio.sleep(0.05)

        assert engine.report().spent.busy_s == alone_s > first.usage.busy_s


@pytest.mark.parametrize("seed", [-1, 0, 2**63 - 1, -(2**63)])
async def test_every_seed_repeats_its_answer(start_engine: StartEngine, seed: int) -> None:
    async with start_engine() as engine:
        asked = job("a seed", temperature=1.0, seed=seed)

        assert await answer_of(engine, asked) == await answer_of(engine, asked)


async def test_a_quantised_base_is_refused_by_name(fleet: Fleet, tmp_path: Path) -> None:
    shutil.copytree(fleet.base, tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    options = OPTIONS.model_copy(update={"dtype": "bfloat16"})
    engine = VllmEngine(tmp_path / "base", options)
    with pytest.raises(ValueError, match=r"quantised weights \(fp8\)"):
        await engine.start()
    await engine.stop()


async def test_stop_ends_vllm_and_the_death_of_vllm_ends_the_jobs(fleet: Fleet) -> None:
    engine = VllmEngine(
        fleet.base, OPTIONS, context_token_count=CONTEXT_TOKEN_COUNT, thread_count=1
    )
    others = {one.pid for one in psutil.Process().children(recursive=True)}
    await engine.start()
    mine = [one for one in psutil.Process().children(recursive=True) if one.pid not in others]
    await engine.load(fleet.weights["base"])
    stream = engine.generate(job("go on", **LONG))
    await anext(stream)
    for one in mine:
        if "EngineCore" in " ".join(one.cmdline()):
            one.kill()

    with pytest.raises(WorkerLost):
        async for _ in stream:
            pass
    assert "died" in await engine.died()
    with pytest.raises(WorkerLost):
        await pieces_of(engine, job("too late"))
    await engine.stop()
    _, alive = psutil.wait_procs(mine, timeout=30)
    assert [one for one in alive if "resource_tracker" not in " ".join(one.cmdline())] == []


async def test_vllm_does_not_outlive_a_worker_that_is_killed(fleet: Fleet) -> None:
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "vllm_engine.lonely",
        str(fleet.base),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert worker.stdout is not None
    while (line := await worker.stdout.readline()) != b"ready\n":
        assert line, "it did not start"
    mine = psutil.Process(worker.pid).children(recursive=True)
    assert mine, "vLLM computes in a process of its own"
    worker.kill()
    await worker.wait()
    _, alive = await asyncio.to_thread(psutil.wait_procs, mine, timeout=30)
    assert alive == []


async def test_a_broken_off_answer_tells_how_probable_all_its_tokens_were(
    start_engine: StartEngine, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: Counter[AnswerProgress] = Counter()
    begin_turn = AnswerProgress.begin_turn

    def count(self: AnswerProgress) -> list[int]:
        turns[self] += 1
        return begin_turn(self)

    monkeypatch.setattr(AnswerProgress, "begin_turn", count)
    paths = {"base": fleet.base, "sql": fleet.variant}
    # Drawn at another temperature than the one that is told.
    asked = [
        replace(job(f"{name} {place}", name, temperature=1.5, **LONG), wants_log_probability=True)
        for place in range(8)
        for name in paths
    ]
    restless = Policy(max_wait_s=0.0, amortisation=0.01, drain_s=0.0)
    async with start_engine(max_running_count=4, policy=restless) as engine:
        await engine.load(fleet.weights["sql"])
        answers = await asyncio.gather(*(pieces_of(engine, one) for one in asked))

    references = {name: Reference(path) for name, path in paths.items()}
    for one, pieces in zip(asked, answers, strict=True):
        reference, prompt = references[one.model], one.messages[0].content
        prompt_ids = reference.prompt_ids(prompt)
        ids = [it.token_ids for it in turns if it.token_ids[: len(prompt_ids)] == prompt_ids]
        expected = reference.mean_log_probability(prompt, ids[0][len(prompt_ids) :])
        assert pieces[-1].mean_log_probability == pytest.approx(expected, abs=1e-3)
    assert max(turns.values()) > 1, "none was broken off"
