"""Part "switch": how long weights take to change, against copying them and against a start."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from vllm import SamplingParams
from vllm.inputs import tokens_input
from vllm.v1.engine.async_llm import AsyncLLM

from benchmarks import models, probes
from benchmarks.engines import inside, our_vllm, plain_vllm, start_ours, start_plain
from benchmarks.models import Models
from benchmarks.timing import in_turns, say, timed
from merge_on_load import Checkpoint
from model_pool.engine import Weights
from model_pool.vllm.deltas import DeltaShelf, HeldDelta
from model_pool.vllm.process import VllmProcess

START_COUNT = 3
SWITCH_COUNT = 15
RELOAD_COUNT = 5
LONG_RUN_COUNT = 1000
PROBE = list(range(5, 69))  # a prompt, as token ids

Figures = dict[str, Any]


async def measure() -> Figures:
    """All figures of this part, raw: lists of seconds."""
    big, demo = await asyncio.to_thread(models.big), models.demo()
    async with our_vllm(demo.base):
        say("started once, so that what is compiled and read is on hand")
    figures: Figures = {}
    for name, chosen, specialist in (("big", big, "onebit"), ("demo", demo, "sql")):
        figures[name] = {
            "parameter_count": models.parameter_count(chosen),
            "starts": await _starts(name, chosen.base),
            "reload": await _reloads(name, chosen, specialist),
        }
    async with our_vllm(big.base) as process, _held(big) as held:
        figures["thread_count"] = await inside(process._llm, probes.thread_count)
        figures["big"]["codecs"] = {
            codec: await _codec(process, big, codec, held[codec]) for codec in big.deltas
        }
    async with our_vllm(demo.base) as process, _held(demo) as held:
        figures["demo"]["codecs"] = {
            "its seven": await _switches(process, list(held.values()), "the demo's deltas")
        }
        figures["demo"]["long_run"] = await _long_run(process, held)
    return figures


async def _starts(name: str, base: Path) -> dict[str, list[float]]:
    """Whole starts, each from nothing to an engine that takes requests. "learning": the part of
    a merged start in which it is learnt where tensors go.
    """
    seconds: dict[str, list[float]] = {"own": [], "merged": [], "learning": []}
    for _ in range(START_COUNT):
        taken, llm = await timed(asyncio.to_thread(start_plain, base))
        seconds["own"].append(taken)
        await asyncio.to_thread(llm.shutdown)
        with _learning_timed(seconds["learning"]):
            taken, process = await timed(start_ours(base))
        seconds["merged"].append(taken)
        await process.stop()
        say(f"{name}: own loader {seconds['own'][-1]:.1f} s, merged loader {taken:.1f} s")
    return seconds


@contextmanager
def _learning_timed(seconds: list[float]) -> Iterator[None]:
    inner = AsyncLLM.init_weight_transfer_engine

    async def outer(llm: Any, request: Any) -> None:
        taken, _ = await timed(inner(llm, request))
        seconds.append(taken)

    with patch.object(AsyncLLM, "init_weight_transfer_engine", outer):
        yield


async def _reloads(name: str, chosen: Models, specialist: str) -> Figures:
    """vLLM's own way to other weights: from a whole checkpoint on disk. is_right: whether the
    answers then are those of an engine started on it.
    """
    merged = await asyncio.to_thread(chosen.merged, specialist)
    async with plain_vllm(merged) as llm:
        expected = await _tokens(llm)
    async with plain_vllm(chosen.base) as llm:
        assert await _tokens(llm) != expected, "the probe does not tell the two apart"

        async def reload() -> None:
            await llm.collective_rpc("reload_weights", kwargs={"weights_path": str(merged)})

        seconds = await in_turns(RELOAD_COUNT, reload=reload)
        is_right = await _tokens(llm) == expected
    say(
        f"{name}: reload_weights {min(seconds['reload']):.3f} s, answers right after it: {is_right}"
    )
    return {"seconds": seconds["reload"], "is_right": is_right}


async def _tokens(llm: Any) -> list[int]:
    params = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True)
    await llm.reset_prefix_cache()
    async for output in llm.generate(tokens_input(PROBE), params, f"probe-{time.monotonic()}"):
        last = output
    return list(last.outputs[0].token_ids)


@asynccontextmanager
async def _held(chosen: Models) -> AsyncIterator[dict[str, HeldDelta]]:
    """The deltas, prepared."""
    shelf = DeltaShelf(Checkpoint.open(chosen.base))
    held: dict[str, HeldDelta] = {}
    for name, path in chosen.deltas.items():
        one = await asyncio.to_thread(shelf.prepare, Weights(name, name, path))
        assert isinstance(one, HeldDelta)
        held[name] = one
    yield held
    for one in held.values():
        one.close()


async def _codec(process: VllmProcess, chosen: Models, codec: str, held: HeldDelta) -> Figures:
    """Preparing a delta of this codec, and switching to it."""
    shelf = DeltaShelf(Checkpoint.open(chosen.base))
    weights = Weights(codec, codec, chosen.deltas[codec])

    async def prepare() -> None:
        (await asyncio.to_thread(shelf.prepare, weights)).close()

    figures = await _switches(process, [held], codec)
    figures |= await in_turns(3, prepare=prepare)
    return figures | {"held_bytes": held.size_bytes}


async def _switches(process: VllmProcess, held: list[HeldDelta], what: str) -> Figures:
    """copy_ of the same weights, a switch, a switch to what is live already (which is control
    alone), and back to the base, in turns. held: one after the other.
    """
    turn = iter(held * (SWITCH_COUNT + 1))
    current = held[0]

    async def copy() -> float:
        return float(await inside(process._llm, probes.copy_seconds))

    async def switch() -> None:
        nonlocal current
        current = next(turn)
        await process.switch(current.path, str(current.path))

    async def control() -> None:
        await process.switch(current.path, str(current.path))

    async def back() -> None:
        await process.switch(None, "base")

    runs: dict[str, Callable[[], Awaitable[float | None]]] = {
        "copy": copy, "switch": switch, "control": control, "back": back
    }  # fmt: skip
    seconds = await in_turns(SWITCH_COUNT, **runs)
    best = ", ".join(f"{name} {1000 * min(taken):.1f} ms" for name, taken in seconds.items())
    say(f"{what}: at best {best}")
    return dict(seconds)


async def _long_run(process: VllmProcess, held: dict[str, HeldDelta]) -> Figures:
    """A thousand switches in random order; the digests of live weights before and after."""
    paths = {"base": None} | {name: one.path for name, one in held.items()}
    before = await _digests(process, paths)
    order = random.Random(7).choices(list(paths), k=LONG_RUN_COUNT)
    began = time.perf_counter()
    for name in order:
        await process.switch(paths[name], name)
    seconds = time.perf_counter() - began
    after = await _digests(process, paths)
    say(f"{LONG_RUN_COUNT} switches in {seconds:.1f} s, digests unchanged: {before == after}")
    return {
        "count": LONG_RUN_COUNT,
        "seconds": seconds,
        "model_count": len(paths),
        "distinct_count": len(set(before.values())),
        "is_base_unchanged": after["base"] == before["base"],
        "are_all_unchanged": after == before,
    }


async def _digests(process: VllmProcess, paths: dict[str, Path | None]) -> dict[str, str]:
    found = {}
    for name, path in paths.items():
        await process.switch(path, name)
        found[name] = await inside(process._llm, probes.live_digest)
    return found
