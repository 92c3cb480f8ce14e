"""make conserve-costs: is all of the workers' time somebody's cost, whatever happens to requests?

Mixed requests to the demo fleet in two workers that cannot hold all its models: answered whole,
given up by their callers at any time, late, refused; and workers that are killed in between. Then
the ledger: what requests cost, and idle and loading time, against uptime at its price. Writes
gateway/COSTS.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import yaml

from benchmarks.fleet_process import running
from benchmarks.machine import facts
from benchmarks.models import ROOT
from benchmarks.timing import say
from deltafleet.v1 import inference_pb2, inference_pb2_grpc
from examples.demo import plan
from examples.demo.tasks import TASKS
from gateway.pricing import US_PER_HOUR, to_usd

HOME = ROOT.resolve() / "conservation"
REPORT = Path(__file__).parent.parent / "gateway" / "COSTS.md"
SEED = 6
CROWD_COUNT = 24
KILL_COUNT = 6
# What becomes of a request, and how often.
FATES = {"whole": 60, "given up after some text": 15, "given up at any time": 10, "late": 10}
FATES |= {"refused": 5}
# What a worker's uptime is paid for.
PARTS = ("requests", "loading", "switching", "idle")


def main() -> int:
    """Run the campaign and write the report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.conservation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--count", type=int, default=10_000, help="requests; %(default)s")
    chosen = parser.parse_args()
    began = time.perf_counter()
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    fates = asyncio.run(campaign(_fleet(), chosen.count))
    sums = read_sums(HOME / "ledger.sqlite3")
    text = _report(chosen.count, fates, sums, (time.perf_counter() - began) / 60)
    (REPORT if chosen.count >= 10_000 else HOME / REPORT.name).write_text(text)
    say(text)
    return 0 if abs(sums["difference"]) <= 0.01 else 1


def _fleet() -> Path:
    fleet = demo_fleet(HOME / "ledger.sqlite3")
    fleet["pool"]["workers"] = [{"name": "worker-0"}, {"name": "worker-1"}]
    fleet["pool"]["memory_budget_mib"] = 48  # three or four of the eight models
    path = HOME / "fleet.yaml"
    path.write_text(yaml.safe_dump(fleet))
    return path


def demo_fleet(ledger: Path) -> dict[str, Any]:
    """The demo's fleet.yaml, to be written anywhere, with a ledger of its own."""
    fleet: dict[str, Any] = yaml.safe_load((plan.DEMO_DIR / "fleet.yaml").read_text())
    fleet["base"]["path"] = str((plan.DEMO_DIR / "base").resolve())
    for one in fleet["specialists"].values():
        for key in ("delta", "examples_file"):
            one[key] = str((plan.DEMO_DIR / one[key]).resolve())
    fleet["ledger"]["path"] = str(ledger)
    return fleet


async def campaign(fleet: Path, count: int) -> Counter[str]:
    """How requests ended, as their callers saw it, by what was meant for them."""
    chance = random.Random(SEED)
    fates: Counter[str] = Counter()
    turns = iter(range(count))
    kills = {round(count * (place + 1) / (KILL_COUNT + 1)) for place in range(KILL_COUNT)}
    async with running(fleet) as (channel, gateway):
        stub = inference_pb2_grpc.InferenceServiceStub(channel)

        async def caller() -> None:
            for turn in turns:
                if turn in kills:
                    os.kill(chance.choice(children_of(gateway)), signal.SIGKILL)
                fates[await ask(stub, chance)] += 1
                if turn % 1000 == 999:
                    say(f"{turn + 1} of {count} requests")

        await asyncio.gather(*(caller() for _ in range(CROWD_COUNT)))
    return fates


async def ask(stub: inference_pb2_grpc.InferenceServiceAsyncStub, chance: random.Random) -> str:
    """One request of a drawn fate; that, and how it ended for its caller."""
    fate = chance.choices(list(FATES), list(FATES.values()))[0]
    task = chance.choice(list(TASKS))
    request = inference_pb2.GenerateRequest(prompt=TASKS[task].generate(chance).prompt)
    request.max_output_token_count = chance.choice([8, 32, 128])
    timeout_s = 60.0
    if fate == "late":
        timeout_s = chance.uniform(0.01, 0.4)
    elif fate == "refused":
        request.prompt = "too long " * 2000
    call = stub.StreamGenerate(request, timeout=timeout_s)
    try:
        await asyncio.wait_for(_read(call, fate, chance), timeout_s + 30)
    except grpc.aio.AioRpcError as error:
        return f"{fate}: {error.code().name}"
    except asyncio.CancelledError:
        if not call.cancelled():
            raise
    return f"{fate}: {'cancelled' if call.cancelled() else 'answered'}"


async def _read(call: Any, fate: str, chance: random.Random) -> None:
    leave_after = chance.randint(1, 6) if fate == "given up after some text" else None
    async with _given_up(call, chance.uniform(0, 0.5) if "any time" in fate else None):
        count = 0
        async for event in call:
            count += bool(event.text)
            if count == leave_after:
                call.cancel()


@contextlib.asynccontextmanager
async def _given_up(call: Any, after_s: float | None) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    alarm = None if after_s is None else loop.call_later(after_s, call.cancel)
    try:
        yield
    finally:
        if alarm:
            alarm.cancel()


def children_of(process: int) -> list[int]:
    """Process ids of those that it started itself."""
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(one) for one in text.split()]


def read_sums(ledger: Path) -> dict[str, float]:
    """USD. difference: of the parts from the whole, in parts of the whole."""
    with contextlib.closing(sqlite3.connect(ledger)) as connection:
        (rows, requests) = connection.execute(
            "SELECT count(*), sum(cost_nano_usd) FROM requests"
        ).fetchone()
        lives = connection.execute(
            "SELECT uptime_us, busy_us, load_us, switch_us, price_nano_usd_per_hour"
            " FROM worker_lives"
        ).fetchall()
    found = {"rows": float(rows), "lives": float(len(lives)), "requests": float(to_usd(requests))}
    for place, name in enumerate(("uptime", "busy", "loading", "switching")):
        found[name] = sum(life[place] * life[-1] for life in lives) / US_PER_HOUR / 1e9
    found["idle"] = found["uptime"] - found["busy"] - found["loading"] - found["switching"]
    parts = sum(found[name] for name in PARTS)
    return found | {"difference": parts / found["uptime"] - 1}


def _report(count: int, fates: Counter[str], sums: dict[str, float], minutes: float) -> str:
    lines = ["# Costs, conserved", "", "Written by", "", "```", "make conserve-costs", "```", ""]
    lines += [
        f"{count:,} requests from {CROWD_COUNT} callers at once to the demo fleet, in two workers",
        f"that hold half of its models at a time; {KILL_COUNT} times a worker was killed",
        "(`kill -9`) under load. Every second of a worker that is up is somebody's cost: of the",
        "requests that ran in it, of building weights or switching them, or of nobody, which is",
        "idle time.",
        "",
        *money_lines(sums),
        "",
        "| meant to be, and seen by its caller | requests |",
        "| --- | ---: |",
        *(f"| {name} | {number:,} |" for name, number in sorted(fates.items())),
        "",
        "| the machine | |",
        "| --- | ---: |",
        *(f"| {name} | {value} |" for name, value in facts(()).items()),
        f"| minutes | {minutes:.0f} |",
        "",
    ]
    return "\n".join(lines)


def money_lines(sums: dict[str, float]) -> list[str]:
    """A table of the parts of uptime, and how far they are from the whole."""
    parts = sum(sums[name] for name in PARTS)
    return [
        "| | USD | part of uptime |",
        "| --- | ---: | ---: |",
        *(f"| {name} | {sums[name]:.6f} | {sums[name] / sums['uptime']:.2%} |" for name in PARTS),
        f"| together | {parts:.6f} | {parts / sums['uptime']:.3%} |",
        f"| uptime at its price | {sums['uptime']:.6f} | 100% |",
        "",
        f"Difference: {sums['difference']:+.4%} (allowed: 1%).",
        f"Ledger rows: {sums['rows']:,.0f}. Lives of workers: {sums['lives']:.0f}.",
    ]


if __name__ == "__main__":
    sys.exit(main())
