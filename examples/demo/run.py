"""make demo: start the fleet, ask it questions of every task, show answers and money, stop it.

Exits 0 where every prompt went to its specialist and at least nine in ten answers were right.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.table import Table

from deltafleet.v1 import inference_pb2, inference_pb2_grpc
from examples.demo.tasks import TASKS
from examples.demo.tasks.problem import Problem

FLEET = Path(__file__).with_name("fleet.yaml")
SEED = 20261121  # neither training nor evaluation draws from it
PROMPTS_PER_TASK = 3
START_LIMIT_S = 300.0
# fleet.yaml's values for another engine than its own: small, for any machine.
ENGINES: dict[str, dict[str, str]] = {
    "transformers": {},
    "vllm": {
        "DELTAFLEET_POOL__ENGINE": "vllm",
        "DELTAFLEET_POOL__VLLM": "{kv_cache_memory_bytes: 268435456, enforce_eager: true}",
    },
}
NEEDED_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Answered:
    """One prompt of the demo and what came back."""

    task: str
    problem: Problem
    response: inference_pb2.GenerateResponse

    @property
    def is_right(self) -> bool:
        """Whether the task's own checker accepts the answer."""
        return TASKS[self.task].is_right(self.problem, self.response.text)

    @property
    def is_routed(self) -> bool:
        """Whether the specialist of its task answered."""
        return self.response.decision.model == self.task


@contextlib.asynccontextmanager
async def serving(engine: str = "transformers") -> AsyncIterator[str]:
    """A fleet in a process of its own. Yields the address of its door once a worker is ready."""
    async with serving_with_page(engine) as (address, _):
        yield address


@contextlib.asynccontextmanager
async def serving_with_page(
    engine: str = "transformers", **variables: str
) -> AsyncIterator[tuple[str, str]]:
    """The same. Yields the address of its door and its page's URL. variables: its environment's."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "up", str(FLEET)),
        *("--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | ENGINES[engine] | variables,
    )
    try:
        async with asyncio.timeout(START_LIMIT_S):
            assert process.stdout is not None
            line = (await process.stdout.readline()).decode()
            if "listens on" not in line:
                raise SystemExit("the fleet did not start; `make serve` shows why")
            address = line.split()[-1]
            page = (await process.stdout.readline()).decode().split()[-1]
            await _until_serving(address)
        yield address, page
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _until_serving(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        async for answer in watch:
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return


def draw_problems() -> list[tuple[str, Problem]]:
    """Fresh problems of every task, the tasks taking turns."""
    rng = random.Random(SEED)
    return [
        (task, TASKS[task].generate(rng)) for _ in range(PROMPTS_PER_TASK) for task in sorted(TASKS)
    ]


async def ask_all(address: str, problems: list[tuple[str, Problem]]) -> list[Answered]:
    """Send them one after the other through the gRPC door."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        return [
            Answered(
                task,
                problem,
                await stub.Generate(inference_pb2.GenerateRequest(prompt=problem.prompt)),
            )
            for task, problem in problems
        ]


def show(answers: list[Answered], console: Console) -> None:
    """The table: prompt, specialist, similarity, answer, verdict, cost, savings."""
    baselines = [
        f"{one.baseline}{' (STALE price)' if one.price_is_stale else ''}"
        for one in answers[0].response.summary.baselines
    ]
    table = Table("prompt", "specialist", "sim.", "answer", "", "cost, USD", show_lines=True)
    for baseline in baselines:
        table.add_column(f"saving on {baseline}", justify="right")
    for one in answers:
        summary, decision = one.response.summary, one.response.decision
        cost = summary.cost_nano_usd
        table.add_row(
            one.problem.prompt,
            decision.model + ("" if one.is_routed else f" (not {one.task})"),
            f"{decision.similarity:.2f}",
            one.response.text,
            "right" if one.is_right else f"wrong: {one.problem.answer}",
            f"{Decimal(cost).scaleb(-9):.8f}",
            *(f"{1 - cost / theirs.cost_nano_usd:.1%}" for theirs in summary.baselines),
        )
    console.print(table)


def summarise(answers: list[Answered], console: Console) -> bool:
    """Say how it went. Returns whether it went well."""
    right = sum(one.is_right for one in answers)
    routed = sum(one.is_routed for one in answers)
    total = len(answers)
    console.print(f"{routed} of {total} prompts to the right specialist, {right} answers right.")
    spent = sum(one.response.summary.cost_nano_usd for one in answers)
    for place, theirs in enumerate(answers[0].response.summary.baselines):
        closed = sum(one.response.summary.baselines[place].cost_nano_usd for one in answers)
        console.print(
            f"Busy time cost {spent / 1e9:.6f} USD; {theirs.baseline} would have charged "
            f"{closed / 1e9:.6f} USD for the same texts (its answers assumed as long as ours)"
            f"{', at a STALE price' if theirs.price_is_stale else ''}."
        )
    return routed == total and right >= NEEDED_SHARE * total


async def main() -> int:
    """The whole demo. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo.run", description=__doc__)
    parser.add_argument("--engine", choices=sorted(ENGINES), default="transformers")
    engine = parser.parse_args().engine
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(f"Starting the fleet: one base, seven deltas, engine {engine} ...")
    async with serving(engine) as address:
        answers = await ask_all(address, draw_problems())
    show(answers, console)
    return 0 if summarise(answers, console) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
