"""Weights switched inside a running vLLM: exact, atomic, in place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from engine.asking import Fleet, StartEngine, answer_of, job
from engine.tiny_models import CONTEXT_TOKEN_COUNT, architectures, train_tokenizer
from vllm_engine.probing import (
    OPTIONS,
    break_next_write,
    inside,
    live_digest,
    start_process,
    storage_addresses,
    token_ids,
    write_fleet,
)

from merge_on_load import unpack
from merge_on_load.errors import CorruptPayload, NotADelta, WrongBase
from model_pool.errors import EngineFailed

# Of one length and of several: one block of the cache is 32 tokens.
PROMPTS = [[3 + (7 * i + j * j) % 300 for j in range(4 + 9 * i)] for i in range(16)]


@asynccontextmanager
async def ordinary_vllm(checkpoint: Path) -> AsyncIterator[Any]:
    """vLLM as it is: its own loader, on a checkpoint, with nothing of ours."""
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    chosen = OPTIONS.model_dump(exclude_none=True)
    arguments = AsyncEngineArgs(
        model=str(checkpoint), max_model_len=CONTEXT_TOKEN_COUNT, disable_log_stats=True, **chosen
    )
    llm = AsyncLLM.from_engine_args(arguments)
    try:
        yield llm
    finally:
        await asyncio.to_thread(llm.shutdown)


async def answers_of(llm: Any, salt: str | None = None) -> list[list[int]]:
    answers = [token_ids(llm, prompt, salt=salt) for prompt in PROMPTS]
    return [tokens for tokens, _ in await asyncio.gather(*answers)]


async def test_a_switched_engine_answers_as_an_ordinary_one_does_on_the_merged_checkpoint(
    process: Any, fleet: Fleet, tmp_path: Path
) -> None:
    weights = fleet.weights
    unpack(fleet.base, weights["sql"].delta, tmp_path / "merged")
    found = {}
    for name in ("sql", "base", "chat"):
        await process.switch(weights[name].delta, weights[name].digest)
        found[name] = await answers_of(process._llm, salt=name)

    async with ordinary_vllm(tmp_path / "merged") as ordinary:
        assert found["sql"] == await answers_of(ordinary)
    assert found["sql"] != found["base"] != found["chat"] != found["sql"]


async def test_tied_embeddings_and_biases_are_switched_too(tmp_path: Path) -> None:
    config = architectures(len(train_tokenizer()))["qwen2-tied"]
    config.hidden_size = 128  # heads of 32
    tied = write_fleet(tmp_path, config)
    unpack(tied.base, tied.weights["sql"].delta, tmp_path / "merged")
    process = await start_process(tied.base)
    try:
        untouched = await inside(process, live_digest)
        await process.switch(tied.weights["sql"].delta, "sql")
        found = await answers_of(process._llm, salt="sql")
        await process.switch(None, "base")
        assert await inside(process, live_digest) == untouched
    finally:
        await process.stop()

    async with ordinary_vllm(tmp_path / "merged") as ordinary:
        assert found == await answers_of(ordinary)


async def test_a_thousand_switches_leave_no_trace(process: Any, fleet: Fleet) -> None:
    async def digest(name: str) -> str:
        await process.switch(fleet.weights[name].delta, fleet.weights[name].digest)
        return await inside(process, live_digest)

    expected = {name: await digest(name) for name in fleet.weights}
    addresses = await inside(process, storage_addresses)
    for turn in range(1000):
        name = ("base", "sql", "chat", "sql")[turn % 4]
        await process.switch(fleet.weights[name].delta, fleet.weights[name].digest)
    for name in fleet.weights:
        assert await digest(name) == expected[name]

    assert len(set(expected.values())) == 3
    assert await inside(process, storage_addresses) == addresses


async def test_the_prefix_cache_survives_a_switch_and_is_not_shared(
    process: Any, fleet: Fleet
) -> None:
    prompt = [5 + j % 200 for j in range(160)]
    cached: list[tuple[str, int]] = []
    answers: dict[str, list[list[int]]] = {"base": [], "sql": []}
    for name in ("base", "sql", "base", "sql"):
        await process.switch(fleet.weights[name].delta, fleet.weights[name].digest)
        tokens, cached_count = await token_ids(process._llm, prompt, salt=f"salt of {name}")
        cached.append((name, cached_count))
        answers[name].append(tokens)

    assert cached[:2] == [("base", 0), ("sql", 0)]
    assert all(count >= 128 for _, count in cached[2:])
    assert answers["base"][0] == answers["base"][1] != answers["sql"][0] == answers["sql"][1]


async def test_a_refused_delta_says_why_and_leaves_the_weights(
    start_engine: StartEngine, process: Any, fleet: Fleet, tmp_path: Path
) -> None:
    async with start_engine() as engine:
        await engine.load(fleet.weights["sql"])
        before = await inside(process, live_digest)
        with pytest.raises(CorruptPayload) as refusal:
            await engine.load(fleet.corrupt)
        assert str(fleet.corrupt.delta) in str(refusal.value.file)
        with pytest.raises(NotADelta):
            await engine.load(fleet.corrupt.__class__("none", "none", tmp_path / "none"))

        assert await inside(process, live_digest) == before


async def test_a_delta_of_another_base_is_refused(
    start_engine: StartEngine, fleet: Fleet, tmp_path: Path
) -> None:
    from engine.tiny_models import write_checkpoint, write_variant
    from transformers import AutoConfig

    from merge_on_load import pack

    other = write_checkpoint(tmp_path / "other", AutoConfig.from_pretrained(fleet.base), seed=9)
    pack(other, write_variant(other, tmp_path / "tuned", seed=1), "onebit", tmp_path / "d.delta")
    stranger = fleet.corrupt.__class__("stranger", "stranger", tmp_path / "d.delta")
    async with start_engine() as engine:
        with pytest.raises(WrongBase):
            await engine.load(stranger)


@pytest.mark.parametrize("former", ["base", "sql"])
async def test_a_write_that_fails_restores_what_was_live(
    start_engine: StartEngine, process: Any, fleet: Fleet, former: str
) -> None:
    async with start_engine() as engine:
        await engine.load(fleet.weights[former])
        expected = await answer_of(engine, job("who?", former))
        before = await inside(process, live_digest)
        await inside(process, break_next_write, 9)
        with pytest.raises(EngineFailed):
            await engine.load(fleet.weights["chat"])

        assert await inside(process, live_digest) == before
        assert await answer_of(engine, job("who?", former)) == expected
        await engine.load(fleet.weights["chat"])
        assert await answer_of(engine, job("who?", "chat")) != expected
