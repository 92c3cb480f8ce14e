"""Part "gateway": what the way through the gateway costs, against vLLM called in-process."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from vllm import SamplingParams
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind

from benchmarks import models
from benchmarks.engines import CONTEXT_TOKEN_COUNT, RUNNING_COUNT, plain_vllm
from benchmarks.models import Models
from benchmarks.serving import serving, write_fleet
from benchmarks.timing import say
from deltafleet.v1 import inference_pb2, inference_pb2_grpc
from examples.demo.tasks import TASKS
from model_pool.engine import Message, Role
from model_pool.vllm.plugin import LOAD_FORMAT
from model_pool.vllm.prompt import PromptReader

ROUND_COUNT = 3
TOKEN_COUNT = 64
ALONE_TOKEN_COUNT = 4
ALONE_COUNT = 15
CROWD_COUNTS = {"big": 64, "demo": 512}


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer: seconds to its first text, and its tokens."""

    first_text_s: float
    token_count: int


Ask = Callable[[str, int], Awaitable[Answered]]
Side = Callable[[], AbstractAsyncContextManager[dict[str, Ask]]]


async def measure() -> dict[str, Any]:
    """All figures of this part: {model: {way: {"token_rates": [...], "first_s": [[...], ...]}}}."""
    big, twenty = await asyncio.to_thread(models.big), await asyncio.to_thread(models.twenty)
    figures: dict[str, Any] = {"token_count": TOKEN_COUNT, "running_count": RUNNING_COUNT}
    figures["big"] = await _compare("big", big, "onebit")
    figures["demo"] = await _compare("demo", twenty, "sql-0")
    return figures


async def _compare(name: str, chosen: Models, specialist: str) -> dict[str, Any]:
    """The ways to one specialist, an engine at a time, in turns."""
    home = models.ROOT / "gateway" / name
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    crowd_count = CROWD_COUNTS[name]
    prompts = _prompts(2 * (crowd_count + ALONE_COUNT))
    ids = await _token_ids(chosen.base, prompts)
    merged = await asyncio.to_thread(chosen.merged, specialist)
    delta = chosen.deltas[specialist]
    fleet = write_fleet(home, chosen.base, "measured", delta)
    extra = {"load_format": LOAD_FORMAT, "model_loader_extra_config": {"delta": str(delta)}}
    sides: list[Side] = [
        lambda: _direct("direct", merged, ids),
        lambda: _gateway(fleet),
        lambda: _direct("direct, merged loader", chosen.base, ids, **extra),
    ]
    figures: dict[str, Any] = {}
    for number in range(ROUND_COUNT):
        for side in sides:
            async with side() as ways:
                await _warm_up(ways)
                for place, (way, ask) in enumerate(ways.items()):
                    # Other prompts for the second way to one engine, which has a prefix cache.
                    own = prompts[place * len(prompts) // 2 :][: len(prompts) // 2]
                    rate, firsts = await _measure(ask, own[:crowd_count], own[crowd_count:])
                    figures.setdefault(way, {"token_rates": [], "first_s": []})
                    figures[way]["token_rates"].append(rate)
                    figures[way]["first_s"].append(firsts)
                    middle = sorted(firsts)[len(firsts) // 2]
                    say(f"{name} {number + 1}: {way} {rate:.0f} tokens/s, {1000 * middle:.1f} ms")
    return figures | {"request_count": crowd_count, "alone_count": ALONE_COUNT}


async def _warm_up(ways: dict[str, Ask]) -> None:
    for ask in ways.values():
        await asyncio.gather(*(ask(prompt, 8) for prompt in _prompts(RUNNING_COUNT, seed=9)))


async def _measure(
    ask: Ask, crowd: Sequence[str], alone: Sequence[str]
) -> tuple[float, list[float]]:
    """Tokens per second of RUNNING_COUNT clients, and one client's seconds to the first text."""
    waiting = iter(crowd)
    answers: list[Answered] = []

    async def client() -> None:
        for prompt in waiting:
            answers.append(await ask(prompt, TOKEN_COUNT))

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(RUNNING_COUNT)))
    seconds = time.perf_counter() - began
    assert all(one.token_count == TOKEN_COUNT for one in answers), "an answer ended early"
    firsts = [(await ask(prompt, ALONE_TOKEN_COUNT)).first_text_s for prompt in alone]
    return len(answers) * TOKEN_COUNT / seconds, firsts


def _prompts(number: int, seed: int = 3) -> list[str]:
    """Different prompts of one task of the demo."""
    rng, found = random.Random(seed), dict[str, None]()
    while len(found) < number:
        found[TASKS["sql"].generate(rng).prompt] = None
    return list(found)


async def _token_ids(base: Path, prompts: Sequence[str]) -> dict[str, list[int]]:
    """What our engine makes of each prompt."""
    reader = PromptReader.open(base)
    prompts = [*prompts, *_prompts(RUNNING_COUNT, seed=9)]
    ids = {
        prompt: await reader.read([Message(Role.USER, prompt)], CONTEXT_TOKEN_COUNT)
        for prompt in prompts
    }
    reader.close()
    return ids


@asynccontextmanager
async def _direct(
    way: str, checkpoint: Path, ids: dict[str, list[int]], **changes: Any
) -> AsyncIterator[dict[str, Ask]]:
    """vLLM in this process. Prompts come as token ids, text is vLLM's to make."""
    numbers = count()
    async with plain_vllm(checkpoint, **changes) as llm:

        async def ask(prompt: str, token_count: int) -> Answered:
            params = SamplingParams(
                temperature=0, max_tokens=token_count, output_kind=RequestOutputKind.DELTA
            )
            began, first_s, found = time.perf_counter(), 0.0, 0
            name = f"direct-{next(numbers)}"
            async for output in llm.generate(tokens_input(ids[prompt]), params, name):
                found += len(output.outputs[0].token_ids)
                if output.outputs[0].text and not first_s:
                    first_s = time.perf_counter() - began
            return Answered(first_s or time.perf_counter() - began, found)

        yield {way: ask}


@asynccontextmanager
async def _gateway(fleet: Path) -> AsyncIterator[dict[str, Ask]]:
    """The gateway, its worker and vLLM's processes: the model named, or found by the prompt."""
    async with serving(fleet) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)

        def asking(model: str) -> Ask:
            async def ask(prompt: str, token_count: int) -> Answered:
                request = inference_pb2.GenerateRequest(
                    prompt=prompt, model=model, max_output_token_count=token_count
                )
                began, first_s, found = time.perf_counter(), 0.0, 0
                async for event in stub.StreamGenerate(request):
                    if event.HasField("text") and not first_s:
                        first_s = time.perf_counter() - began
                    elif event.HasField("summary"):
                        found = event.summary.output_token_count
                return Answered(first_s or time.perf_counter() - began, found)

            return ask

        yield {"gateway": asking("measured"), "gateway, routed": asking("")}
