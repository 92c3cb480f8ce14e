"""A real fleet: `deltafleet up` in a process of its own, its workers as processes below it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deltafleet.v1 import (
    admin_pb2_grpc,
    cost_pb2_grpc,
    fleet_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    routing_pb2_grpc,
)

REPO = Path(__file__).resolve().parents[2]
DEMO = REPO / "examples" / "demo" / "fleet.yaml"
START_LIMIT_S = 240.0
LONG_TOKEN_COUNT = 250
Connect = Callable[[str], grpc.aio.Channel]


@dataclass
class Answer:
    """A streamed answer, whole."""

    decision: object
    text: str
    summary: inference_pb2.Summary
    texts: list[str]


@dataclass(frozen=True)
class Failure:
    """A refused call. retry_after_s: 0 where the server gave none."""

    code: grpc.StatusCode
    reason: str
    message: str
    metadata: dict[str, str]
    retry_after_s: float


@dataclass
class Fleet:
    """A running fleet. lines: what it logged so far."""

    address: str
    metrics: str
    ledger: Path
    process: asyncio.subprocess.Process
    channel: grpc.aio.Channel
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.inference = inference_pb2_grpc.InferenceServiceStub(self.channel)
        self.routing = routing_pb2_grpc.RoutingServiceStub(self.channel)
        self.models = fleet_pb2_grpc.FleetServiceStub(self.channel)
        self.costs = cost_pb2_grpc.CostServiceStub(self.channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    async def ask(self, prompt: str = "", **fields: object) -> inference_pb2.GenerateResponse:
        """One unary answer."""
        return await self.inference.Generate(inference_pb2.GenerateRequest(prompt=prompt, **fields))

    async def stream(self, prompt: str = "", **fields: object) -> Answer:
        """One streamed answer."""
        decision, summary, texts = None, None, []
        request = inference_pb2.GenerateRequest(prompt=prompt, **fields)
        async for event in self.inference.StreamGenerate(request):
            assert summary is None, "something came after the summary"
            if event.HasField("decision"):
                assert decision is None and not texts, "the decision comes first and once"
                decision = event.decision
            elif event.HasField("summary"):
                summary = event.summary
            else:
                texts.append(event.text)
        return Answer(decision, "".join(texts), summary, texts)

    def worker_pids(self) -> list[int]:
        """The processes of its workers."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):  # it may end meanwhile
                if "model_pool" in child.cmdline():
                    found.append(child.pid)
        return found

    async def until_serving(self) -> None:
        """Return when health says SERVING."""
        watch = self.health.Watch(health_pb2.HealthCheckRequest())
        async for answer in watch:
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                watch.cancel()
                return

    async def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await self.process.wait()


@contextlib.asynccontextmanager
async def running_fleet(
    directory: Path,
    fleet_file: Path = DEMO,
    *,
    awaits_workers: bool = True,
    connect: Connect = grpc.aio.insecure_channel,
    **overrides: object,
) -> AsyncIterator[Fleet]:
    """Start a fleet with its ledger in `directory`; it is serving when this yields.

    awaits_workers: else it only listens, and says NOT_SERVING until a worker is ready. connect: its
    address → a channel.
    overrides: pool__memory_budget_mib=40 becomes DELTAFLEET_POOL__MEMORY_BUDGET_MIB=40.
    """
    ledger = directory / "ledger.sqlite3"
    # No decision of a test depends on how busy the machine is, and none on today's date: of the
    # built-in prices none is stale, of 2020's all are.
    patient = {"routing__encoder_budget_s": 60.0, "prices__max_age_days": 2000}
    variables = {"ledger__path": str(ledger), **patient, **overrides}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "up", str(fleet_file)),
        *("--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=REPO,
        env=os.environ
        | {"HF_HUB_OFFLINE": "1"}
        | {f"DELTAFLEET_{key.upper()}": json.dumps(value) for key, value in variables.items()},
    )
    lines: list[str] = []
    reading = asyncio.create_task(_read(process, lines))
    try:
        async with asyncio.timeout(START_LIMIT_S):
            first = (await process.stdout.readline()).decode()
            assert "listens on" in first, "".join(lines)
        address = first.split()[-1]
        async with connect(address) as channel:
            fleet = Fleet(address, _metrics(lines), ledger, process, channel, lines)
            if awaits_workers:
                async with asyncio.timeout(START_LIMIT_S):
                    await fleet.until_serving()
            yield fleet
            await fleet.stop()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


async def _read(process: asyncio.subprocess.Process, lines: list[str]) -> None:
    while line := await process.stderr.readline():
        lines.append(line.decode())


def _metrics(lines: list[str]) -> str:
    for line in lines:
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if event.get("event") == "metrics_listening":
                return str(event["address"])
    raise AssertionError("no metrics address was logged")


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when the condition holds; the test's own time limit bounds it."""
    while not await condition():
        await asyncio.sleep(0.02)


def rows(fleet: Fleet) -> list[tuple[str, str]]:
    """(request id, outcome) of every row of the ledger."""
    with contextlib.closing(sqlite3.connect(f"file:{fleet.ledger}?mode=ro", uri=True)) as ledger:
        return ledger.execute("select request_id, outcome from requests order by row").fetchall()


async def first_text(call: grpc.aio.UnaryStreamCall) -> str:
    """Read a stream up to its first text."""
    async for event in call:
        if event.HasField("text"):
            return event.text
    raise AssertionError("the stream ended without text")


async def rest(call: grpc.aio.UnaryStreamCall) -> list[object]:
    """Read a stream to its end."""
    return [event async for event in call]


async def refusal(call: object) -> Failure:
    """What a call that must fail says."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return failure_of(error)
    raise AssertionError("the call did not fail")


def failure_of(error: grpc.aio.AioRpcError) -> Failure:
    """A gRPC error with its details read."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                if not detail.Unpack(info):
                    detail.Unpack(retry)
    return Failure(
        code=error.code(),
        reason=info.reason,
        message=error.details(),
        metadata=dict(info.metadata),
        retry_after_s=retry.retry_delay.ToNanoseconds() / 1e9,
    )
