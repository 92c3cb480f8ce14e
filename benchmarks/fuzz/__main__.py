"""make fuzz: does anything that a caller can send break the gateway?

    python -m benchmarks.fuzz [--cases 200000] [--connections 10000] [--seed 8]

Protobuf bytes to every method, HTTP/2 by hand to the gRPC port, HTTP/1.1 to the metrics port,
broken JSON to the HTTP door, known attacks, and thousands of idle connections, on the demo fleet.
Writes gateway/FUZZ.md; exits with 1 where there was a fault.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import click
import grpc
import sqlalchemy as sa

from benchmarks.fuzz.attacks import ATTACKS, PAGE_ATTACKS
from benchmarks.fuzz.bodies import chat_body
from benchmarks.fuzz.calls import cases, send_all
from benchmarks.fuzz.connections import Judge, conversations, judge_frames, send_each
from benchmarks.fuzz.crowd import stand_around
from benchmarks.fuzz.http1 import exchanges, judge_answers
from benchmarks.fuzz.report import Blow, Layer, Run, page
from benchmarks.fuzz.target import REPO, Target, running, watching
from benchmarks.machine import facts
from gateway.ledger_store.checking import check
from gateway.ledger_store.database import Database

PAGE = REPO / "gateway" / "FUZZ.md"
PATHS = (
    *("/", "/metrics", "/page/state.json", "/page/history.json", "/static/app.js", "/static/"),
    *("/nothing", "*", "http://elsewhere/metrics"),
)
DOOR_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models")
# Of all cases: calls, HTTP/2 connections (gRPC holds up whoever sends bad ones), HTTP/1.1 ones to
# the metrics port, and to the HTTP door.
SHARES = {"calls": 0.7, "frames": 0.1, "page": 0.1, "door": 0.1}
CALL_CONCURRENCY, FRAME_CONCURRENCY, PAGE_CONCURRENCY = 32, 400, 50
REST_S = 2.0  # after an attack


async def fuzz_calls(target: Target, chance: random.Random, count: int) -> Layer:
    """Bytes as messages, on two connections."""
    async with connections(target.address) as channels, watching(target) as seen:
        chosen = itertools.islice(cases(chance), count)
        tally = await send_all(channels, chosen, CALL_CONCURRENCY)
    ends = Counter({" ".join(end).strip(): times for end, times in tally.ends.items()})
    return Layer(
        "protobuf messages, all methods", tally.count, ends, tally.faults, tally.samples, seen
    )


@asynccontextmanager
async def connections(address: str) -> AsyncIterator[list[grpc.aio.Channel]]:
    """Two channels, with a connection each."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    first = grpc.aio.insecure_channel(address, options=options)
    second = grpc.aio.insecure_channel(address, options=options)
    async with first, second:
        yield [first, second]


async def fuzz_port(
    target: Target, name: str, address: str, chosen: Iterator[bytes], judge: Judge, concurrency: int
) -> Layer:
    """Bytes on connections of their own."""
    async with watching(target) as seen:
        replies = await send_each(address, chosen, judge, concurrency)
    return Layer(name, replies.count, replies.kinds, replies.faults, replies.samples, seen)


async def attack(target: Target) -> list[Blow]:
    """One after the other."""
    blows = []
    chosen = [(one, target.address) for one in ATTACKS]
    for one, address in [*chosen, *((one, target.metrics) for one in PAGE_ATTACKS)]:
        async with watching(target) as seen:
            outcome = await one.act(address)
            await asyncio.sleep(REST_S)
        blows.append(Blow(one.name, outcome, seen, target.process.memory_info().rss))
        say(f"{one.name}: {outcome}")
    return blows


async def run(options: argparse.Namespace, directory: Path) -> Run:
    """Everything, on a fleet of its own."""
    chance = random.Random(options.seed)
    count = {name: round(options.cases * share) for name, share in SHARES.items()}
    async with running(directory) as target:
        layers = [await fuzz_calls(target, chance, count["calls"])]
        say(layers[-1].name)
        for name, address, chosen, judge, concurrency in (
            (
                *("HTTP/2 by hand, the gRPC port", target.address),
                *(itertools.islice(conversations(chance), count["frames"]), judge_frames),
                FRAME_CONCURRENCY,
            ),
            (
                *("HTTP/1.1, the metrics port", target.metrics),
                *(itertools.islice(exchanges(chance, PATHS), count["page"]), judge_answers),
                PAGE_CONCURRENCY,
            ),
            (
                *("JSON, the HTTP door", target.http),
                *(
                    itertools.islice(exchanges(chance, DOOR_PATHS, chat_body), count["door"]),
                    judge_answers,
                ),
                PAGE_CONCURRENCY,
            ),
        ):
            layers.append(await fuzz_port(target, name, address, chosen, judge, concurrency))
            say(name)
        blows = await attack(target)
        crowd = await stand_around(target, options.connections)
        say(f"{crowd.count} idle connections")
    database = Database(sa.URL.create("sqlite", database=str(target.ledger)))
    problems = check(database).problems
    database.dispose()
    return Run(layers, blows, crowd, target.complaints(), problems)


def say(text: str) -> None:
    """To whoever watches."""
    click.echo(text, err=True)


def main() -> None:
    """Run, write the page, and tell whether anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200_000)
    parser.add_argument("--connections", type=int, default=10_000, help="idle ones")
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    machine = facts(["grpcio", "protobuf", "uvicorn"])
    with tempfile.TemporaryDirectory() as directory:
        outcome = asyncio.run(run(options, Path(directory)))
    told = {"cases": options.cases, "connections": options.connections, "seed": options.seed}
    options.page.write_text(page(outcome, told, machine), encoding="utf-8")
    faults = outcome.faults()
    for fault in faults:
        say(fault)
    for layer in outcome.layers:
        for fault, sample in layer.samples.items():
            say(f"{fault}, such as {sample}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
