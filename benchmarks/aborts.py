"""make bench-aborts: how long a request goes on computing after its caller has left.

The demo fleet, its gateway and its worker in processes of their own; callers that cancel long
answers, most of them in the middle, some before the first word. From the caller's cancel to the
moment at which the engine has dropped the request and computes nothing for it. Writes
gateway/ABORTS.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.conservation import demo_fleet
from benchmarks.fleet_process import running
from benchmarks.machine import facts
from benchmarks.timing import say
from deltafleet.v1 import inference_pb2, inference_pb2_grpc
from loadtests.scenario import load_scenario

REPORT = Path(__file__).parent.parent / "gateway" / "ABORTS.md"
SEED = 8
EARLY_SHARE = 0.2  # cancelled before the first word, as far as it is later than that
LONGEST_PAUSE_S = 0.1
GOAL_S, LIMIT_S = 0.05, 0.2
TOLD_S = 5.0  # after the last one, until the engine has dropped all that it ever had

Inference = Any  # the stub on a grpc.aio channel: mypy-protobuf types the other one


@dataclass(slots=True)
class Aborts:
    """cancelled_s: when each was cancelled, by its id; early_count: of them without a word."""

    cancelled_s: dict[str, float] = field(default_factory=dict)
    early_count: int = 0
    whole_count: int = 0  # that ended before they were cancelled


def main() -> int:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aborts", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="aborts; %(default)s")
    parser.add_argument("--crowd", type=int, default=16, help="requests at a time; %(default)s")
    chosen = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="deltafleet-aborts-"))
    try:
        aborts, left_s, dropped_s = asyncio.run(_measure(home, chosen.count, chosen.crowd))
    finally:
        shutil.rmtree(home, ignore_errors=True)
    seen = [one for one in aborts.cancelled_s.items() if one[0] in dropped_s]
    delays_s = sorted(dropped_s[name] - at_s for name, at_s in seen)
    ways_s = sorted(left_s[name] - at_s for name, at_s in seen if name in left_s)
    text = render(aborts, delays_s, ways_s, chosen.crowd)
    say(text)
    if chosen.count >= 1000:
        REPORT.write_text(text)
    return 0 if max(delays_s) <= LIMIT_S else 1


async def _measure(
    home: Path, count: int, crowd: int
) -> tuple[Aborts, Mapping[str, float], Mapping[str, float]]:
    """When each had reached the engine, and was dropped by it. Raises RuntimeError where not."""
    async with _fleet(home) as (inference, notes):
        long, aborts = _long_requests(), Aborts()
        await asyncio.gather(*map(inference.Generate, long))
        say(f"{count} aborts")
        await asyncio.gather(
            *(_abort_many(inference, long, aborts, count, one) for one in range(crowd))
        )
        await asyncio.sleep(TOLD_S)
        begun_s, left_s, dropped_s = (_read(notes, one) for one in ("begun", "left", "dropped"))
    stuck = begun_s.keys() - dropped_s.keys()
    if stuck:
        raise RuntimeError(f"the engine has not dropped {len(stuck)} requests")
    return aborts, left_s, dropped_s


@contextlib.asynccontextmanager
async def _fleet(home: Path) -> AsyncIterator[tuple[Inference, Path]]:
    fleet = demo_fleet(home / "ledger.sqlite3")
    address, notes, path = f"unix:{home}/w.sock", home / "notes", home / "fleet.yaml"
    fleet["pool"]["workers"] = [{"name": "worker-0", "address": address}]
    path.write_text(yaml.safe_dump(fleet))
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.noting_worker", str(path)),
        *("--listen", address, "--notes", str(notes)),
    )
    try:
        async with running(path) as (channel, _):
            yield inference_pb2_grpc.InferenceServiceStub(channel), notes
    finally:
        worker.terminate()
        await worker.wait()


def _long_requests() -> list[inference_pb2.GenerateRequest]:
    """A tiny base model ends soon: these are the load test's long streams."""
    traffic = load_scenario("long_streams").traffic[0]
    return [
        inference_pb2.GenerateRequest(
            prompt=traffic.prompt or "",
            model=traffic.model or "",
            temperature=traffic.temperature,
            seed=seed,
            max_output_token_count=traffic.max_output_token_count,
        )
        for seed in traffic.seeds
    ]


async def _abort_many(
    inference: Inference,
    long: Sequence[inference_pb2.GenerateRequest],
    aborts: Aborts,
    count: int,
    number: int,
) -> None:
    choice = random.Random(SEED + number)
    for turn in range(count):
        if len(aborts.cancelled_s) >= count:
            return
        await _abort(inference, choice.choice(long), aborts, f"{number}-{turn}", choice)


async def _abort(
    inference: Inference,
    request: inference_pb2.GenerateRequest,
    aborts: Aborts,
    name: str,
    choice: random.Random,
) -> None:
    call = inference.StreamGenerate(request, metadata=(("x-request-id", name),))
    is_early = choice.random() < EARLY_SHARE
    # The decision says that a worker has a place for it.
    async for event in call:
        if is_early or event.HasField("text"):
            break
    await asyncio.sleep(choice.random() * LONGEST_PAUSE_S * (0.1 if is_early else 1.0))
    now_s = time.monotonic()
    if call.cancel():
        aborts.cancelled_s[name] = now_s
        aborts.early_count += is_early
    else:
        aborts.whole_count += 1


def _read(notes: Path, what: str) -> dict[str, float]:
    fields = (line.split() for line in notes.read_text().splitlines())
    return {one[1]: float(one[2]) for one in fields if one[0] == what}


def render(aborts: Aborts, delays_s: Sequence[float], ways_s: Sequence[float], crowd: int) -> str:
    """Markdown. delays_s: from cancel to drop; ways_s: of it, to the engine. Both ascending."""
    count = len(delays_s)
    unreached_count = len(aborts.cancelled_s) - count
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "greatest": 1.0}
    machine = ", ".join(f"{key}: {value}" for key, value in facts(("grpcio", "torch")).items())
    return "\n".join(
        [
            "# Aborts: how long a request goes on computing after its caller has left",
            "",
            "Written by `make bench-aborts`: the demo fleet, its gateway and its worker (embedded",
            f"engine) in processes of their own, {crowd} requests for long answers at a time. From",
            "the caller's cancel to the moment at which the engine has dropped the request, place",
            f"and cache included. {count} aborts, {aborts.early_count} of them sent before a first",
            f"word was waited for. {unreached_count} more never reached the engine, and",
            f"{aborts.whole_count} answers ended before they were cancelled.",
            "",
            "| | to the drop | of it, to the engine |",
            "| --- | ---: | ---: |",
            *(
                f"| {name} | {_at(delays_s, share)} | {_at(ways_s, share)} |"
                for name, share in shares.items()
            ),
            *(
                f"| within {limit_s * 1e3:.0f} ms | {_within(delays_s, limit_s)} | "
                f"{_within(ways_s, limit_s)} |"
                for limit_s in (GOAL_S, LIMIT_S)
            ),
            "",
            f"The goal is all within {GOAL_S * 1e3:.0f} ms, the promise all within "
            f"{LIMIT_S * 1e3:.0f} ms.",
            f"The machine, shared by all of them: {machine}.",
            "",
        ]
    )


def _at(sorted_s: Sequence[float], share: float) -> str:
    place = min(len(sorted_s) - 1, int(share * len(sorted_s)))
    return f"{sorted_s[place] * 1e3:.1f} ms"


def _within(delays_s: Sequence[float], limit_s: float) -> str:
    return f"{sum(one <= limit_s for one in delays_s)} of {len(delays_s)}"


if __name__ == "__main__":
    sys.exit(main())
