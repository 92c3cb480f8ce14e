"""Locust's processes, started for one phase and awaited."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from loadtests.plan import LoadPlan

REPO = Path(__file__).resolve().parents[1]
LOCUSTFILE = REPO / "loadtests" / "locustfile.py"
BEGIN_LIMIT_S = 60.0


class Generators:
    """Locust, headless: one process, or a master and workers. `began_at`: seconds since the epoch.

    What it prints goes to locust.log of the plan's directory.
    """

    def __init__(self, plan: LoadPlan, processes: list[asyncio.subprocess.Process]) -> None:
        self._plan = plan
        self._processes = processes
        self.began_at = 0.0

    async def wait(self, limit_s: float) -> None:
        """Return when everything was sent and has ended. Raises RuntimeError where it failed."""
        try:
            async with asyncio.timeout(limit_s):
                codes = await asyncio.gather(*(process.wait() for process in self._processes))
        except TimeoutError:
            raise RuntimeError(f"locust does not end: see {_log(self._plan)}") from None
        if any(codes):
            raise RuntimeError(f"locust failed: see {_log(self._plan)}")

    def stop(self) -> None:
        """Send nothing more."""
        self._plan.stop_file.touch()

    async def until_begun(self) -> None:
        """Return when it is known when the load begins; it may not have begun yet."""
        async with asyncio.timeout(BEGIN_LIMIT_S):
            while not (self._plan.begin_file.exists() and self._plan.begin_file.read_text()):
                if any(process.returncode for process in self._processes):
                    raise RuntimeError(f"locust failed: see {_log(self._plan)}")
                await asyncio.sleep(0.05)
        self.began_at = float(self._plan.begin_file.read_text())


@contextlib.asynccontextmanager
async def generating(plan: LoadPlan, *, distributed: bool) -> AsyncIterator[Generators]:
    """Start the plan's generators; the load has its beginning when this yields."""
    plan_file = plan.directory / f"plan-{plan.phase}.json"
    plan_file.write_text(plan.model_dump_json())
    common = ["--plan", str(plan_file), "--headless", "--loglevel", "WARNING", "--only-summary"]
    common += ["--users", str(plan.generators), "--spawn-rate", "100"]
    commands = _distributed(common, plan.generators) if distributed else [common]
    processes: list[asyncio.subprocess.Process] = []
    try:
        with _log(plan).open("ab") as log:
            for command in commands:
                processes.append(
                    await asyncio.create_subprocess_exec(
                        *(sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *command),
                        stdin=asyncio.subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        cwd=REPO,
                    )
                )
        generators = Generators(plan, processes)
        await generators.until_begun()
        yield generators
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


def _distributed(common: list[str], worker_count: int) -> list[list[str]]:
    """Arguments of a master, and of so many workers."""
    port = str(_free_port())
    master = ["--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port]
    worker = ["--worker", "--master-host", "127.0.0.1", "--master-port", port]
    expected = ["--expect-workers", str(worker_count)]
    return [[*common, *master, *expected], *([*common, *worker] for _ in range(worker_count))]


def _log(plan: LoadPlan) -> Path:
    return plan.directory / "locust.log"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
