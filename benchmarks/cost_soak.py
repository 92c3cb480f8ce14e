"""make soak-costs: is all of the workers' time somebody's cost, after many minutes of anything?

Poisson traffic with bursts and silences to the demo fleet, of callers who stay, leave, come late,
ask too much, and ask again when they are told that nobody can answer; workers are killed (kill -9)
in between. On the embedded engine in two workers that cannot hold all models, and, run by an
environment with vLLM, on vLLM in one that switches between them. Meanwhile the costs are looked at
again and again: nothing that a worker spent may ever get less. Then the ledger, as in
`make conserve-costs`. Writes gateway/COSTS_SOAK.md, with a part for each engine measured so far.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import sqlalchemy as sa
import yaml

from benchmarks.conservation import ask, children_of, demo_fleet, money_lines, read_sums
from benchmarks.fleet_process import running
from benchmarks.machine import facts
from benchmarks.models import ROOT
from benchmarks.timing import say
from deltafleet.v1 import cost_pb2, cost_pb2_grpc, inference_pb2_grpc
from gateway.ledger_store.checking import check
from gateway.ledger_store.database import Database

HOME = ROOT.resolve() / "cost_soak"
REPORT = Path(__file__).parent.parent / "gateway" / "COSTS_SOAK.md"
SEED = 14
LOOK_INTERVAL_S = 2.0
# Seconds of each kind of traffic: its shortest, its longest, requests per second.
WEATHERS = {"calm": (5.0, 20.0, 6.0), "burst": (2.0, 6.0, 40.0), "silence": (3.0, 10.0, 0.0)}
MOST_TRIES = 3


@dataclass(frozen=True, slots=True)
class Setting:
    """How an engine is soaked. kill_interval_s: on average, between deaths of workers."""

    text: str
    pool: dict[str, Any]
    kill_interval_s: float
    rate: float = 1.0  # of the traffic


SETTINGS = {
    "transformers": Setting(
        "the embedded engine, two workers that hold half of the models each",
        {"workers": [{"name": "worker-0"}, {"name": "worker-1"}], "memory_budget_mib": 48},
        kill_interval_s=40.0,
    ),
    "vllm": Setting(
        "vLLM, one worker, whose live weights are switched",
        {
            "engine": "vllm",
            "vllm": {"kv_cache_memory_bytes": 268435456, "enforce_eager": True},
            "switching": {"max_wait_s": 1.0},
        },
        kill_interval_s=150.0,  # half of it is longer than a start
        rate=0.3,
    ),
}


@dataclass
class Seen:
    """What was seen on the way. fallen: of a worker's life, what got less between two looks."""

    fates: Counter[str] = field(default_factory=Counter)
    kill_count: int = 0
    look_count: int = 0
    fallen: list[str] = field(default_factory=list)
    spent: dict[str, dict[str, float]] = field(default_factory=dict)

    def look(self, workers: list[cost_pb2.WorkerCost]) -> None:
        """Compare each life with what it was."""
        self.look_count += 1
        for life in workers:
            idle_s = life.uptime_s - life.busy_s - life.load_s - life.switch_s
            now = {"busy": life.busy_s, "load": life.load_s, "switch": life.switch_s}
            now |= {"idle": round(idle_s, 6), "uptime": life.uptime_s}
            before = self.spent.get(life.incarnation, dict.fromkeys(now, 0.0))
            self.fallen += [
                f"{life.worker}: {kind} from {before[kind]} to {now[kind]} s"
                for kind in now
                if now[kind] < before[kind]
            ]
            self.spent[life.incarnation] = now


def main() -> int:
    """Run the soak and write the report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost_soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="of traffic; %(default)s")
    parser.add_argument("--engine", choices=SETTINGS, default="transformers")
    chosen = parser.parse_args()
    home = HOME / chosen.engine
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    seen = asyncio.run(soak(_fleet(home, chosen.engine), SETTINGS[chosen.engine], chosen.minutes))
    result = _result(home / "ledger.sqlite3", seen, chosen.minutes)
    (home / "result.json").write_text(json.dumps(result))
    text = _report()
    (HOME / REPORT.name).write_text(text)
    if chosen.minutes >= 2:
        REPORT.write_text(text)
    say(text)
    is_whole = abs(result["sums"]["difference"]) <= 0.01
    return 0 if is_whole and not seen.fallen and not result["problems"] else 1


def _fleet(home: Path, engine: str) -> Path:
    fleet = demo_fleet(home / "ledger.sqlite3")
    fleet["pool"] |= SETTINGS[engine].pool
    path = home / "fleet.yaml"
    path.write_text(yaml.safe_dump(fleet))
    return path


async def soak(fleet: Path, setting: Setting, minutes: float) -> Seen:
    """Send traffic for so long; wait for the last answers."""
    chance, seen = random.Random(SEED), Seen()
    async with running(fleet) as (channel, gateway), asyncio.TaskGroup() as tasks:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        watching = tasks.create_task(_look(cost_pb2_grpc.CostServiceStub(channel), seen))
        until_s = time.monotonic() + minutes * 60
        killing = tasks.create_task(_kill(gateway, setting, random.Random(SEED), seen))
        async with asyncio.TaskGroup() as callers:
            async for _ in _arrivals(chance, setting.rate, until_s):
                callers.create_task(_call(stub, chance, seen.fates))
            killing.cancel()
        await asyncio.sleep(2 * LOOK_INTERVAL_S)  # the workers' last words
        watching.cancel()
    return seen


async def _arrivals(chance: random.Random, rate: float, until_s: float) -> AsyncIterator[None]:
    for kind in _weathers(chance):
        shortest_s, longest_s, per_s = WEATHERS[kind]
        end_s = min(until_s, time.monotonic() + chance.uniform(shortest_s, longest_s))
        if not per_s:
            await asyncio.sleep(max(0.0, end_s - time.monotonic()))
        while per_s and (pause_s := chance.expovariate(per_s * rate)) < end_s - time.monotonic():
            await asyncio.sleep(pause_s)
            yield
        if time.monotonic() >= until_s or end_s == until_s:
            return


def _weathers(chance: random.Random) -> Iterator[str]:
    while True:
        kinds = list(WEATHERS)
        chance.shuffle(kinds)
        yield from kinds


async def _call(
    stub: inference_pb2_grpc.InferenceServiceAsyncStub,
    chance: random.Random,
    fates: Counter[str],
) -> None:
    """Ask, and again where nobody could answer, as a patient caller would."""
    for _ in range(MOST_TRIES):
        fate = await ask(stub, chance)
        fates[fate] += 1
        if not fate.endswith("UNAVAILABLE"):
            return
        await asyncio.sleep(chance.uniform(0.2, 1.0))


async def _kill(gateway: int, setting: Setting, chance: random.Random, seen: Seen) -> None:
    while True:
        await asyncio.sleep(setting.kill_interval_s * chance.uniform(0.5, 1.5))
        workers = children_of(gateway)
        if workers:
            os.kill(chance.choice(workers), signal.SIGKILL)
            seen.kill_count += 1
            say(f"{seen.fates.total()} requests, {seen.kill_count} workers killed")


async def _look(costs: cost_pb2_grpc.CostServiceAsyncStub, seen: Seen) -> None:
    while True:
        with contextlib.suppress(grpc.aio.AioRpcError):
            report = await costs.GetCostReport(cost_pb2.GetCostReportRequest())
            seen.look(list(report.workers))
        await asyncio.sleep(LOOK_INTERVAL_S)


def _result(ledger: Path, seen: Seen, minutes: float) -> dict[str, Any]:
    database = Database(sa.URL.create("sqlite", database=str(ledger)))
    problems = check(database).problems
    database.dispose()
    return {
        "minutes": minutes,
        "fates": dict(seen.fates),
        "kill_count": seen.kill_count,
        "look_count": seen.look_count,
        "fallen": seen.fallen,
        "problems": problems,
        "sums": read_sums(ledger),
        "machine": facts(()),
    }


def _report() -> str:
    lines = ["# Costs, conserved for longer", "", "Written by", "", "```", "make soak-costs"]
    lines += ["```", "", "Poisson traffic with bursts and silences to the demo fleet; its callers"]
    lines += ["stay, leave, are late, ask too much, and ask again where nobody could answer."]
    lines += ["Workers are killed (`kill -9`) under load, and the gateway tries once more on"]
    lines += ["another one what had no word of its answer yet."]
    for engine, setting in SETTINGS.items():
        found = HOME / engine / "result.json"
        if found.exists():
            lines += ["", f"## On {setting.text}", "", *_part(json.loads(found.read_text()))]
    return "\n".join([*lines, ""])


def _part(told: dict[str, Any]) -> list[str]:
    fallen, problems = "; ".join(told["fallen"]), "; ".join(told["problems"])
    return [
        f"{told['minutes']:g} minutes, {sum(told['fates'].values()):,} requests, "
        f"{told['kill_count']} workers killed.",
        "",
        *money_lines(told["sums"]),
        "",
        f"Looked at {told['look_count']:,} times meanwhile, no worker's seconds of any kind "
        f"ever got less: {fallen or 'true'}.",
        f"`deltafleet ledger check`: {problems or 'whole'}.",
        "",
        "| meant to be, and seen by its caller | requests |",
        "| --- | ---: |",
        *(f"| {name} | {number:,} |" for name, number in sorted(told["fates"].items())),
        "",
        "| the machine | |",
        "| --- | ---: |",
        *(f"| {name} | {value} |" for name, value in told["machine"].items()),
    ]


if __name__ == "__main__":
    sys.exit(main())
