"""Weights switched inside a running vLLM: exact, atomic, in place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from engine.asking import Fleet, StartEngine
from engine.tiny_models import CONTEXT_TOKEN_COUNT, architectures, train_tokenizer
from vllm_engine.probing import (
    OPTIONS,
    break_next_write,
    inside,
    live_digest,
    load_by_the_model_itself,
    mapped_deltas,
    start_process,
    storage_addresses,
    token_ids,
    write_fleet,
)

from merge_on_load import Checkpoint, pack, unpack
from merge_on_load.codecs import CODEC_NAMES
from merge_on_load.errors import CorruptPayload, NotADelta, WrongBase
from model_pool.engine import Weights
from model_pool.vllm.deltas import DeltaShelf

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


Paths = dict[str, Path | None]


@pytest.fixture(scope="module")
def held(fleet: Fleet) -> Iterator[Paths]:
    """The prepared file of each model of the fleet."""
    with prepared(fleet) as paths:
        yield paths


@contextmanager
def prepared(fleet: Fleet) -> Iterator[Paths]:
    shelf = DeltaShelf(Checkpoint.open(fleet.base))
    deltas = {name: shelf.prepare(one) for name, one in fleet.weights.items() if one.delta}
    yield {"base": None} | {name: delta.path for name, delta in deltas.items()}
    for delta in deltas.values():
        delta.close()


async def answers_of(llm: Any, salt: str | None = None) -> list[list[int]]:
    answers = [token_ids(llm, prompt, salt=salt) for prompt in PROMPTS]
    return [tokens for tokens, _ in await asyncio.gather(*answers)]


async def test_a_switched_engine_answers_as_an_ordinary_one_does_on_the_merged_checkpoint(
    process: Any, fleet: Fleet, held: Paths, tmp_path: Path
) -> None:
    unpack(fleet.base, fleet.weights["sql"].delta, tmp_path / "merged")
    found = {}
    for name in ("sql", "base", "chat"):
        await process.switch(held[name], name)
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
        with prepared(tied) as paths:
            await process.switch(paths["sql"], "sql")
            found = await answers_of(process._llm, salt="sql")
            await process.switch(None, "base")
        assert await inside(process, live_digest) == untouched
    finally:
        await process.stop()

    async with ordinary_vllm(tmp_path / "merged") as ordinary:
        assert found == await answers_of(ordinary)


@pytest.mark.parametrize("codec", CODEC_NAMES)
async def test_live_weights_are_the_bits_that_streaming_gives(
    process: Any, fleet: Fleet, tmp_path: Path, codec: str
) -> None:
    delta = pack(fleet.base, fleet.variant, codec, tmp_path / "t.delta").path
    held = DeltaShelf(Checkpoint.open(fleet.base)).prepare(Weights("t", "t", delta))
    try:
        await process.switch(held.path, codec)
        found = await inside(process, live_digest)
        await process.switch(None, "base")
        base = await inside(process, live_digest)
    finally:
        held.close()

    streamed = await inside(process, load_by_the_model_itself, str(fleet.base), str(delta))
    untouched = await inside(process, load_by_the_model_itself, str(fleet.base), None)
    assert found == streamed != untouched == base


async def test_a_delta_on_a_delta_is_switched_to(
    process: Any, fleet: Fleet, tmp_path: Path
) -> None:
    paths = fleet.weights["chat"].delta, fleet.weights["sql"].delta
    assert paths[0] and paths[1]
    unpack(fleet.base, paths[0], tmp_path / "chat")
    chained = pack(
        fleet.base, tmp_path / "chat", "onebit", tmp_path / "t.delta", parent=paths[1]
    ).path
    weights = Weights("t", "t", chained)
    shelf = DeltaShelf(Checkpoint.open(fleet.base))
    held = shelf.prepare(weights)
    try:
        assert held.size_bytes == shelf.size_bytes(weights)
        await process.switch(held.path, "t")
        found = await inside(process, live_digest)
        await process.switch(None, "base")
    finally:
        held.close()

    streamed = await inside(process, load_by_the_model_itself, str(fleet.base), str(chained))
    assert found == streamed


async def test_shards_of_two_workers_are_switched_from_one_memory(
    fleet: Fleet, held: Paths
) -> None:
    process = await start_process(fleet.base, tensor_parallel_size=2)
    try:
        untouched = await of_all_workers(process, live_digest)
        await process.switch(held["sql"], "sql")
        found = await of_all_workers(process, live_digest)
        await process.switch(None, "base")
        assert await of_all_workers(process, live_digest) == untouched
        paths = str(fleet.base), str(fleet.weights["sql"].delta)
        assert await of_all_workers(process, load_by_the_model_itself, *paths) == found
    finally:
        await process.stop()

    assert len({*untouched, *found}) == 4


async def of_all_workers(process: Any, function: Any, *arguments: Any) -> list[Any]:
    """Call function(worker, *arguments) in each of vLLM's workers."""
    return list(await process._llm.collective_rpc(function, args=arguments))


async def test_a_thousand_switches_leave_no_trace(process: Any, held: Paths) -> None:
    async def digest(name: str) -> str:
        await process.switch(held[name], name)
        return await inside(process, live_digest)

    expected = {name: await digest(name) for name in held}
    addresses = await inside(process, storage_addresses)
    for turn in range(1000):
        name = ("base", "sql", "chat", "sql")[turn % 4]
        await process.switch(held[name], name)
    for name in held:
        assert await digest(name) == expected[name]

    assert len(set(expected.values())) == 3
    assert await inside(process, storage_addresses) == addresses


async def test_what_is_closed_is_let_go_and_can_be_restored_while_it_is_live(
    process: Any, fleet: Fleet
) -> None:
    await process.switch(None, "base")
    before = await inside(process, mapped_deltas)
    shelf = DeltaShelf(Checkpoint.open(fleet.base))
    live, other = shelf.prepare(fleet.weights["sql"]), shelf.prepare(fleet.weights["chat"])
    await process.switch(live.path, "sql")
    digest = await inside(process, live_digest)
    live.close()
    await inside(process, break_next_write, 9)
    with pytest.raises(Exception, match="on purpose"):
        await process.switch(other.path, "chat")

    assert await inside(process, live_digest) == digest
    with pytest.raises(CorruptPayload, match="closed"):
        await process.switch(live.path, "sql")
    assert await inside(process, live_digest) == digest
    other.close()
    await process.switch(None, "base")
    assert await inside(process, mapped_deltas) == before


async def test_the_prefix_cache_survives_a_switch_and_is_not_shared(
    process: Any, held: Paths
) -> None:
    prompt = [5 + j % 200 for j in range(160)]
    cached: list[tuple[str, int]] = []
    answers: dict[str, list[list[int]]] = {"base": [], "sql": []}
    for name in ("base", "sql", "base", "sql"):
        await process.switch(held[name], name)
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
    process: Any, held: Paths, former: str
) -> None:
    await process.switch(held[former], former)
    expected = await answers_of(process._llm, salt=former)
    before = await inside(process, live_digest)
    await inside(process, break_next_write, 9)
    with pytest.raises(Exception, match="on purpose"):
        await process.switch(held["chat"], "chat")

    assert await inside(process, live_digest) == before
    assert await process._llm.get_weight_version() == former
    assert await answers_of(process._llm, salt=former) == expected
    await process.switch(held["chat"], "chat")
    assert await process._llm.get_weight_version() == "chat"
    assert await answers_of(process._llm, salt="chat") != expected
