"""make measure-demo: how fast the embedded fleet answers on this machine.

One client alone, then 64 at once for 30 seconds, all tasks mixed. Prints the rows of the README's
table. The fleet, the gateway and the clients share the machine.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from dataclasses import dataclass

import grpc

from deltafleet.v1 import inference_pb2, inference_pb2_grpc
from examples.demo.run import serving
from examples.demo.tasks import TASKS

SEED = 33
ALONE_COUNT = 100
CLIENT_COUNT = 64
CROWD_S = 30.0


@dataclass(frozen=True, slots=True)
class Timed:
    """One answer: seconds to its first token and to its end, and its tokens."""

    first_token_s: float
    total_s: float
    output_token_count: int


async def ask(stub: inference_pb2_grpc.InferenceServiceAsyncStub, rng: random.Random) -> Timed:
    """Stream one answer to a fresh problem, timed by the caller's clock."""
    prompt = TASKS[rng.choice(sorted(TASKS))].generate(rng).prompt
    began = time.perf_counter()
    first_token_s = 0.0
    output_token_count = 0
    async for event in stub.StreamGenerate(inference_pb2.GenerateRequest(prompt=prompt)):
        if event.HasField("text") and not first_token_s:
            first_token_s = time.perf_counter() - began
        if event.HasField("summary"):
            output_token_count = event.summary.output_token_count
    return Timed(first_token_s, time.perf_counter() - began, output_token_count)


async def alone(stub: inference_pb2_grpc.InferenceServiceAsyncStub) -> list[Timed]:
    """One request at a time."""
    rng = random.Random(SEED)
    return [await ask(stub, rng) for _ in range(ALONE_COUNT)]


async def crowd(stub: inference_pb2_grpc.InferenceServiceAsyncStub) -> list[Timed]:
    """CLIENT_COUNT clients, each sending its next request when it has the last answer."""
    end = time.perf_counter() + CROWD_S
    answers: list[Timed] = []

    async def client(number: int) -> None:
        rng = random.Random(number)
        while time.perf_counter() < end:
            answers.append(await ask(stub, rng))

    await asyncio.gather(*(client(number) for number in range(CLIENT_COUNT)))
    return answers


def describe(name: str, answers: list[Timed], seconds: float) -> str:
    """One row of the README's table."""
    firsts = statistics.quantiles([one.first_token_s for one in answers], n=100)
    tokens = sum(one.output_token_count for one in answers)
    return (
        f"| {name} | {len(answers) / seconds:.0f} answers/s, {tokens / seconds:.0f} tokens/s, "
        f"first token after {firsts[49] * 1e3:.0f} ms (median), {firsts[98] * 1e3:.0f} ms (p99) "
        "| `make measure-demo` |"
    )


async def main() -> int:
    """Measure and print. Returns the exit code."""
    async with serving() as address, grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        await alone(stub)  # builds every specialist once
        began = time.perf_counter()
        answers = await alone(stub)
        print(describe("one client", answers, time.perf_counter() - began))
        began = time.perf_counter()
        answers = await crowd(stub)
        print(describe(f"{CLIENT_COUNT} clients at once", answers, time.perf_counter() - began))
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
