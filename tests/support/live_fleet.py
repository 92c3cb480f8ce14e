"""A fleet whose fleet.yaml a test may write anew while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deltafleet.v1 import admin_pb2, admin_pb2_grpc
from support.fleet import DEMO, REPO, Fleet, running_fleet, until

Document = dict[str, Any]


def small_fleet(*specialists: str) -> Document:
    """The demo fleet with these specialists alone, its paths absolute."""
    document: Document = yaml.safe_load(DEMO.read_text())
    document["base"]["path"] = str(DEMO.parent / document["base"]["path"])
    listed = {name: document["specialists"][name] for name in specialists}
    for one in listed.values():
        for key in ("delta", "examples_file"):
            one[key] = str(DEMO.parent / one[key])
    document["specialists"] = listed
    del document["ledger"]
    return document


@dataclass
class LiveFleet:
    """path: its fleet.yaml. document: what that says, as it was written last."""

    fleet: Fleet
    path: Path
    document: Document

    def write(self, change: Callable[[Document], object] = lambda document: None) -> None:
        """Change the document, and the file with it."""
        change(self.document)
        write_whole(self.path, yaml.safe_dump(self.document))

    async def reload(self) -> str:
        """Ask for another reading; the digest of what is in force then."""
        admin = admin_pb2_grpc.AdminServiceStub(self.fleet.channel)
        answer = await admin.ReloadConfig(admin_pb2.ReloadConfigRequest())
        return answer.sha256

    async def change(self, change: Callable[[Document], object]) -> str:
        """Write and reload."""
        self.write(change)
        return await self.reload()

    def metric(self, start: str) -> float:
        """The value of the first sample whose line begins like that; 0 where there is none."""
        for line in self.metric_lines():
            if line.startswith(start):
                return float(line.split()[-1])
        return 0.0

    def metric_lines(self) -> list[str]:
        """What Prometheus would read."""
        with urllib.request.urlopen(f"http://{self.fleet.metrics}/metrics") as page:
            lines: list[str] = page.read().decode().splitlines()
        return lines

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Its log lines of that name so far, workers' included."""
        return events_of(self.fleet.lines, event)

    async def until_logged(self, event: str, count: int) -> dict[str, Any]:
        """The last of them, once there are so many."""

        async def are_there() -> bool:
            return len(self.logged(event)) >= count

        await until(are_there)
        return self.logged(event)[-1]


def write_whole(path: Path, text: str) -> None:
    """Aside, then renamed: nobody reads a half of it."""
    aside = path.with_name(path.name + ".new")
    aside.write_text(text)
    aside.replace(path)


@contextlib.asynccontextmanager
async def live_fleet(
    directory: Path, document: Document, **overrides: object
) -> AsyncIterator[LiveFleet]:
    """Running in `directory`. overrides: see running_fleet."""
    path = directory / "fleet.yaml"
    path.write_text(yaml.safe_dump(document))
    async with running_fleet(directory, path, **overrides) as fleet:
        yield LiveFleet(fleet, path, document)


@contextlib.asynccontextmanager
async def worker_of(
    path: Path, name: str, address: str, lines: list[str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker that nobody but us started, of the fleet.yaml at `path`. lines: what it logs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "model_pool", str(path), "--worker", name, "--listen", address),
        stderr=asyncio.subprocess.PIPE,
        cwd=REPO,
    )
    reading = asyncio.create_task(_read(process, lines))
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await reading


async def _read(process: asyncio.subprocess.Process, lines: list[str]) -> None:
    while line := await process.stderr.readline():
        lines.append(line.decode())


def events_of(lines: list[str], event: str) -> list[dict[str, Any]]:
    """The log lines of that name."""
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            told = json.loads(line)
            if told.get("event") == event:
                found.append(told)
    return found
