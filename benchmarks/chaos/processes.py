"""The processes that are hurt: workers, started again when they die, and a Redis."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from benchmarks.chaos.fault_proxy import FaultProxy


class Kept:
    """A process that is started again whenever it ends, as an orchestrator does it.

    pid: of the one that runs; 0 between two.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self._command = command
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self.pid = 0
        self.start_count = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Kept while the block runs."""
        keeping = asyncio.create_task(self._keep(), name=f"keep {self.name}")
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            self.send(signal.SIGCONT)
            self.send(signal.SIGKILL)
            if self._process:
                await self._process.wait()

    async def _keep(self) -> None:
        with self._log.open("ab") as log:
            while True:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command, stdout=log, stderr=log
                )
                self.pid = self._process.pid
                self.start_count += 1
                await self._process.wait()
                self.pid = 0
                await asyncio.sleep(0.2)

    def send(self, number: signal.Signals) -> None:
        """A signal, where it runs."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Worker:
    """A worker of ours behind a proxy of its own; the gateway knows the proxy's address only."""

    def __init__(self, name: str, fleet: Path, home: Path) -> None:
        self.name = name
        port = free_port()
        self.proxy = FaultProxy(("127.0.0.1", port))
        self.process = Kept(
            name,
            (
                *(sys.executable, "-m", "model_pool", str(fleet), "--worker", name),
                *("--listen", f"127.0.0.1:{port}"),
            ),
            home / f"{name}.log",
        )


def free_port() -> int:
    """One that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])
