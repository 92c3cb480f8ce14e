"""make chaos: break what the gateway leans on, hundreds of times, and look at what callers got.

The demo fleet: a gateway, three workers behind proxies that misbehave, a closed API, a Redis.
Callers ask all the time, in all ways; faults come one after the other, several at once. Then the
books: every answer right and whole, every request ended in time, every answered one in the ledger
once, the gateway never started anew and not grown. Writes gateway/CHAOS.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import yaml

from benchmarks.chaos.books import compared, rows_of
from benchmarks.chaos.closed_api import TEXT, ClosedApi
from benchmarks.chaos.fault_proxy import FaultProxy
from benchmarks.chaos.faults import Scene, mend, possible
from benchmarks.chaos.processes import Kept, Worker, free_port
from benchmarks.chaos.report import Findings, is_clean, write
from benchmarks.chaos.traffic import Crowd, Question
from benchmarks.chaos.watching import Samples
from benchmarks.conservation import demo_fleet
from benchmarks.fleet_process import running
from benchmarks.models import ROOT
from benchmarks.timing import say
from deltafleet.v1 import inference_pb2, inference_pb2_grpc
from examples.demo.tasks import TASKS

HOME = ROOT.resolve() / "chaos"
REPORT = Path(__file__).parents[2] / "gateway" / "CHAOS.md"
FAKETIME = Path("build/faketime/libfaketime.so.1").resolve()
REDIS = Path("build/redis/redis-server").resolve()
SEED = 8
CALLER_COUNT = 10
PROMPTS_PER_TASK = 6
WORKER_COUNT = 3
QUIET_S = 20.0


def main() -> int:
    """Run the campaign and write the report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--faults", type=int, default=600, help="how many; %(default)s")
    parser.add_argument("--minutes", type=float, default=15, help="for them; %(default)s")
    chosen = parser.parse_args()
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    findings = asyncio.run(campaign(chosen.faults, chosen.minutes * 60))
    is_full = chosen.faults >= 500 and chosen.minutes >= 10
    say(write(REPORT if is_full else HOME / REPORT.name, findings))
    return 0 if is_clean(findings) else 1


async def campaign(fault_count: int, seconds: float) -> Findings:
    """Everything started, broken and mended."""
    async with contextlib.AsyncExitStack() as stack:
        scene, fleet = await _start_scene(stack)
        log_start = time.monotonic()
        channel, pid, address, metrics = await _start_gateway(stack, fleet, scene)
        scene.front.target = address
        await stack.enter_async_context(scene.front.serving())
        questions = await _questions(channel)
        say(
            f"{len(questions)} questions with known answers; the gateway took"
            f" {time.monotonic() - log_start:.0f} s to start"
        )
        crowd = Crowd(f"127.0.0.1:{scene.front.port}", questions, SEED)
        samples = Samples(pid, metrics)
        injected: Counter[str] = Counter()
        async with samples.sampling():
            async with crowd.asking(CALLER_COUNT):
                await asyncio.sleep(QUIET_S)
                quiet_count = len(crowd.told)
                wrong = {one.model for one in crowd.told if not one.is_right}
                if wrong:
                    raise RuntimeError(f"answers differ where nothing is broken: {wrong}")
                await _break_things(scene, fault_count, seconds, injected, crowd)
                mend(scene)
                mended_s = time.monotonic()
                await asyncio.sleep(QUIET_S)
            recovered = [one for one in crowd.told if one.ended_s > mended_s + QUIET_S / 2]
            await asyncio.sleep(5)
            samples.take(await asyncio.to_thread(samples.task_count))
        restarts = {one.name: one.process.start_count - 1 for one in scene.workers}
        faults_logged = _tracebacks(HOME / "gateway.log")
    rows = rows_of(HOME / "ledger.sqlite3")
    return Findings(
        injected,
        crowd.told,
        quiet_count,
        recovered,
        compared(crowd.told, rows),
        samples,
        restarts,
        faults_logged,
        seconds,
        0 if scene.redis is None else scene.redis.start_count - 1,
    )


async def _start_scene(stack: contextlib.AsyncExitStack) -> tuple[Scene, Path]:
    closed_api, front = ClosedApi(), FaultProxy(("127.0.0.1", 0))
    await stack.enter_async_context(closed_api.serving())
    fleet_file = HOME / "fleet.yaml"
    workers = [Worker(f"worker-{one}", fleet_file, HOME) for one in range(WORKER_COUNT)]
    for worker in workers:
        await stack.enter_async_context(worker.proxy.serving())
    redis, redis_port = _redis()
    fleet = _fleet(workers, closed_api.port, redis_port)
    fleet_file.write_text(yaml.safe_dump(fleet))
    payloads = sorted(HOME.glob("*.delta/*.safetensors"))
    clock = HOME / "clock" if FAKETIME.exists() else None
    if clock:
        clock.write_text("+0\n")
    for process in [one.process for one in workers] + ([redis] if redis else []):
        await stack.enter_async_context(process.running())
    return (
        Scene(workers, closed_api, front, payloads, clock, redis, random.Random(SEED)),
        fleet_file,
    )


def _redis() -> tuple[Kept | None, int]:
    if not REDIS.exists():
        return None, 0
    port = free_port()
    command = (str(REDIS), "--port", str(port), "--bind", "127.0.0.1", "--save", "")
    return Kept("redis", command, HOME / "redis.log"), port


def _fleet(workers: list[Worker], closed_port: int, redis_port: int) -> dict[str, Any]:
    """The demo's, its deltas copied: they are to be damaged."""
    fleet = demo_fleet(HOME / "ledger.sqlite3")
    for name, one in fleet["specialists"].items():
        copy = HOME / f"{name}.delta"
        shutil.copytree(one["delta"], copy)
        one["delta"] = str(copy)
    fleet["pool"]["workers"] = [
        {"name": one.name, "address": f"127.0.0.1:{one.proxy.port}"} for one in workers
    ]
    fleet["pool"]["memory_budget_mib"] = 40  # three of the eight models: they come and go
    fleet["pool"]["worker_wait_s"] = 10
    fleet["closed_apis"] = {
        "elsewhere": {
            "base_url": f"http://127.0.0.1:{closed_port}/v1",
            "model": "m",
            "price": "openai/gpt-5-mini",
            "timeout_s": 5,
            "max_retries": 1,
            "daily_budget_usd": 1000,
        }
    }
    if redis_port:
        fleet["limits"] = {"redis_url": f"redis://127.0.0.1:{redis_port}/0"}
        fleet["callers"] = {
            f"caller-{one}": {"requests_per_minute": 6000, "concurrent_streams": 50}
            for one in range(CALLER_COUNT // 2)
        }
    return fleet


async def _start_gateway(
    stack: contextlib.AsyncExitStack, fleet: Path, scene: Scene
) -> tuple[grpc.aio.Channel, int, tuple[str, int], str]:
    environment = {"DELTAFLEET_CLOSED_API_KEY_ELSEWHERE": "of-no-worth"}
    if scene.clock:
        environment |= {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(scene.clock),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
    ports = [free_port(), free_port()]
    metrics = f"127.0.0.1:{ports[1]}"
    channel, pid = await stack.enter_async_context(
        running(fleet, f"127.0.0.1:{ports[0]}", metrics, environment)
    )
    return channel, pid, ("127.0.0.1", ports[0]), metrics


async def _questions(channel: grpc.aio.Channel) -> list[Question]:
    """Prompts of every task and what its specialist answers to each while nothing is broken."""
    stub, chance = inference_pb2_grpc.InferenceServiceStub(channel), random.Random(SEED)
    found = []
    for task, model in plan_models().items():
        for _ in range(PROMPTS_PER_TASK):
            prompt = TASKS[task].generate(chance).prompt
            request = inference_pb2.GenerateRequest(prompt=prompt, model=model)
            answer = await stub.Generate(request, timeout=120)
            found.append(Question(model, prompt, answer.text))
    closed = [Question("elsewhere", f"What is {one}?", f"{TEXT} ") for one in range(6)]
    return found + closed


def plan_models() -> dict[str, str]:
    """The demo's tasks and the specialists for them, which have their names."""
    return {task: task for task in TASKS}


async def _break_things(
    scene: Scene, count: int, seconds: float, injected: Counter[str], crowd: Crowd
) -> None:
    faults = possible(scene)
    names, shares = list(faults), [share for _, share in faults.values()]
    running_now: set[asyncio.Task[None]] = set()
    began_s = time.monotonic()
    for number in range(count):
        await asyncio.sleep(max(0.0, began_s + seconds * number / count - time.monotonic()))
        name = scene.chance.choices(names, shares)[0]
        injected[name] += 1
        task = asyncio.create_task(faults[name][0](scene))
        running_now.add(task)
        task.add_done_callback(running_now.discard)
        if number % 50 == 49:
            ended = Counter(one.outcome for one in crowd.told).most_common(4)
            say(f"{number + 1} of {count} faults; {len(crowd.told)} requests: {ended}")
    await asyncio.gather(*running_now)


def _tracebacks(log: Path) -> int:
    """How many of the gateway's log lines tell of a fault of its own."""
    return sum('"call_failed"' in line for line in log.read_text().splitlines())


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
