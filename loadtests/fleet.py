"""The demo fleet, changed as a scenario says: processes that can be restarted by their names."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import sqlalchemy as sa
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.postgres_server import PostgresServer
from deltafleet.v1 import worker_pb2, worker_pb2_grpc
from examples.demo import plan
from loadtests.scenario import FleetChanges, Scenario

START_LIMIT_S = 300.0
STOP_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Door:
    """A gateway. address: of its gRPC door. metrics: host:port of its page."""

    address: str
    metrics: str


class Process:
    """A gateway or a worker. Its log is in `log`, all its lives in one file."""

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str], log: Path):
        self.name = name
        self._command = command
        self._environment = environment
        self._log = log
        self._running: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Returns before it serves."""
        with self._log.open("ab") as log:
            self._running = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", *self._command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"HF_HUB_OFFLINE": "1"} | self._environment,
            )

    async def end(self, how: signal.Signals) -> int:
        """Send the signal and wait for its end. Returns the exit code."""
        assert self._running is not None
        with contextlib.suppress(ProcessLookupError):
            self._running.send_signal(how)
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                return await self._running.wait()
        except TimeoutError:
            self._running.kill()
            return await self._running.wait()

    def check(self) -> None:
        """Raises RuntimeError where it has ended by itself."""
        if self._running is not None and self._running.returncode is not None:
            raise RuntimeError(f"{self.name} ended: see {self._log}")


class Fleet:
    """A running fleet. gateways: its doors, in the order of their names."""

    def __init__(self, gateways: dict[str, Door], workers: dict[str, str]) -> None:
        """workers: where each that is not a gateway's child listens."""
        self.gateways = list(gateways.values())
        self._doors = gateways
        self._workers = workers
        self.processes: dict[str, Process] = {}

    async def start(self, name: str) -> None:
        """Start it, and return when it serves."""
        process = self.processes[name]
        await process.start()
        async with asyncio.timeout(START_LIMIT_S):
            while not await self._serves(name):
                process.check()
                await asyncio.sleep(0.1)

    async def restart(self, name: str) -> None:
        """As an operator does: SIGTERM, wait for its end, start it, wait until it serves.

        Raises RuntimeError where it did not end well.
        """
        code = await self.processes[name].end(signal.SIGTERM)
        if code:
            raise RuntimeError(f"{name} ended with {code} after SIGTERM")
        await self.start(name)

    async def kill(self, name: str) -> None:
        """SIGKILL, and start it again; returns when it serves."""
        await self.processes[name].end(signal.SIGKILL)
        await self.start(name)

    async def stop(self) -> None:
        """All of them, gateways first."""
        for process in self.processes.values():
            if process._running is not None:
                await process.end(signal.SIGTERM)

    async def _serves(self, name: str) -> bool:
        address = self._doors[name].address if name in self._doors else self._workers[name]
        with contextlib.suppress(grpc.aio.AioRpcError):
            async with grpc.aio.insecure_channel(address) as channel:
                if name in self._doors:
                    return await _says_serving(channel)
                return await _says_ready(channel)
        return False


async def _says_serving(channel: grpc.aio.Channel) -> bool:
    request = health_pb2.HealthCheckRequest()
    answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def _says_ready(channel: grpc.aio.Channel) -> bool:
    stub = worker_pb2_grpc.WorkerServiceStub(channel)
    call = stub.WatchStatus(worker_pb2.WatchStatusRequest(), timeout=5)
    async for status in call:
        call.cancel()
        return bool(status.state == worker_pb2.WORKER_STATE_READY)
    return False


@contextlib.asynccontextmanager
async def running_fleet(scenario: Scenario, directory: Path) -> AsyncIterator[Fleet]:
    """Start what the scenario needs. Logs, fleet.yaml and a SQLite ledger go to the directory."""
    changes = scenario.fleet
    workers = [f"worker-{number}" for number in range(changes.workers)]
    gateways = {f"gateway-{number}": _new_door() for number in range(changes.gateways)}
    with contextlib.ExitStack() as stack:
        sockets: dict[str, str] = {}
        if scenario.is_apart:
            # A socket's path may have about a hundred characters.
            home = Path(tempfile.mkdtemp(prefix="deltafleet-load-"))
            stack.callback(shutil.rmtree, home, ignore_errors=True)
            sockets = {name: f"unix:{home / name}.sock" for name in workers}
        environment = _ledger(stack) if changes.gateways > 1 else {}
        file = write_fleet(changes, directory, workers, sockets)
        fleet = Fleet(gateways, sockets)
        for name, door in gateways.items():
            listen = ("--listen", door.address, "--metrics", door.metrics)
            gateway = ("gateway", "up", str(file), *listen)
            fleet.processes[name] = Process(name, gateway, environment, directory / f"{name}.log")
        for name, address in sockets.items():
            worker = ("model_pool", str(file), "--worker", name, "--listen", address)
            fleet.processes[name] = Process(name, worker, {}, directory / f"{name}.log")
        try:
            # Workers first: a gateway serves when one of them does.
            for name in (*sockets, *gateways):
                await fleet.start(name)
            yield fleet
        finally:
            await fleet.stop()


def write_fleet(
    changes: FleetChanges, directory: Path, workers: Sequence[str], sockets: dict[str, str]
) -> Path:
    """fleet.yaml of the demo with the changes, its paths made whole."""
    fleet = yaml.safe_load((plan.DEMO_DIR / "fleet.yaml").read_text())
    fleet["base"]["path"] = str((plan.DEMO_DIR / "base").resolve())
    for one in fleet["specialists"].values():
        for key in ("delta", "examples_file"):
            one[key] = str((plan.DEMO_DIR / one[key]).resolve())
    fleet["pool"]["workers"] = [
        {"name": name} | ({"address": sockets[name]} if name in sockets else {}) for name in workers
    ]
    fleet["ledger"] = {"path": str(directory.resolve() / "ledger.sqlite3")}
    for place, value in changes.settings.items():
        _set(fleet, place.split("."), value)
    path = directory / "fleet.yaml"
    path.write_text(yaml.safe_dump(fleet))
    return path


def _set(document: dict[str, Any], place: list[str], value: Any) -> None:
    for section in place[:-1]:
        document = document.setdefault(section, {})
    document[place[-1]] = value


def _ledger(stack: contextlib.ExitStack) -> dict[str, str]:
    """A PostgreSQL for replicas to share."""
    server = PostgresServer()
    stack.callback(server.remove)
    server.start()
    url: sa.URL = server.create("ledger")
    return {"DELTAFLEET_LEDGER_URL": url.render_as_string(hide_password=False)}


def _new_door() -> Door:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return Door(f"127.0.0.1:{one.getsockname()[1]}", f"127.0.0.1:{other.getsockname()[1]}")
