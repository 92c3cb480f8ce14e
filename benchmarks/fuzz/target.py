"""The fleet that is sent to, and what its gateway's process does meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

REPO = Path(__file__).parents[2]
DEMO = REPO / "examples" / "demo" / "fleet.yaml"
START_LIMIT_S = 300.0
RECEIVE_LIMIT_S = 5.0
SAMPLE_INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True)
class Target:
    """A running fleet. process: its gateway's. log: what it wrote to standard error."""

    address: str
    metrics: str
    http: str
    process: psutil.Process
    log: Path
    ledger: Path

    def complaints(self) -> Counter[str]:
        """What the log says that went wrong: the event, and how its traceback ends."""
        found: Counter[str] = Counter()
        for line in self.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if event["level"] == "error" or "traceback" in event:
                    end = event.get("traceback", "").strip().rpartition("\n")[2]
                    found[f"{event['logger']}: {event['event'][:80].strip()} {end[:200]}"] += 1
        return found


@contextlib.asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Target]:
    """The demo fleet, serving, with feedback and short limits. Raises RuntimeError."""
    log, ledger = directory / "gateway.log", directory / "ledger.sqlite3"
    settings = {
        "LEDGER__PATH": str(ledger),
        "ROUTING__FEEDBACK": {"path": str(directory / "feedback.sqlite3")},
        "SERVER__RECEIVE_LIMIT_S": RECEIVE_LIMIT_S,
        "SERVER__HTTP": "127.0.0.1:0",
    }
    variables = {f"DELTAFLEET_{name}": json.dumps(value) for name, value in settings.items()}
    with log.open("w") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "up", str(DEMO)),
            *("--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"),
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            cwd=REPO,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **variables},
        )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(START_LIMIT_S):
            listens = (await process.stdout.readline()).decode()
            http = (await process.stdout.readline()).decode()
            page = (await process.stdout.readline()).decode()
            if "listens on" not in listens:
                raise RuntimeError(f"the fleet did not start; {log} shows why")
            address = listens.split()[-1]
            await until_serving(address)
        metrics = page.split()[-1].removeprefix("http://").rstrip("/")
        door = http.split()[-1].removeprefix("http://").removesuffix("/v1")
        yield Target(address, metrics, door, psutil.Process(process.pid), log, ledger)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
    if process.returncode != 0:
        raise RuntimeError(f"the gateway ended with {process.returncode}")


async def until_serving(address: str) -> None:
    """Return when health says SERVING."""
    async with grpc.aio.insecure_channel(address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        async for answer in watch:
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                watch.cancel()
                return


@dataclass
class Watch:
    """What was seen while something went on. latencies_s: of calls by somebody else meanwhile."""

    started_s: float
    rss_bytes: list[int] = field(default_factory=list)
    descriptor_counts: list[int] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    took_s: float = 0.0


@contextlib.asynccontextmanager
async def watching(target: Target) -> AsyncIterator[Watch]:
    """Look at the gateway again and again, and let somebody else ask it, until the end.

    That one has a process of its own: whoever sends is busy, and would measure that.
    """
    asking = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.fuzz.beside", target.address),
        stdout=asyncio.subprocess.PIPE,
        cwd=REPO,
    )
    seen = Watch(time.perf_counter())
    tasks = [
        asyncio.create_task(_sample(target.process, seen)),
        asyncio.create_task(_hear(asking, seen)),
    ]
    try:
        yield seen
    finally:
        seen.took_s = time.perf_counter() - seen.started_s
        tasks[0].cancel()
        asking.terminate()
        await asking.wait()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _sample(process: psutil.Process, seen: Watch) -> None:
    while True:
        seen.rss_bytes.append(process.memory_info().rss)
        seen.descriptor_counts.append(process.num_fds())
        await asyncio.sleep(SAMPLE_INTERVAL_S)


async def _hear(asking: asyncio.subprocess.Process, seen: Watch) -> None:
    assert asking.stdout is not None
    async for line in asking.stdout:
        took_s, _, failure = line.decode().strip().partition(" ")
        seen.latencies_s.append(float(took_s))
        if failure:
            seen.failures.append(failure)
