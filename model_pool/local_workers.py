"""Workers as subprocesses on this machine: started, watched, started again when they die."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
# A worker that lived this long was sound; its next restart is prompt again.
SOUND_LIFE_S = 60.0
END_LIMIT_S = 5.0  # to end in, beyond the limit for what runs

log = logging.getLogger(__name__)


class LocalWorkers:
    """Keeps one subprocess alive per name, each on a Unix socket of its own.

    A worker also stops by itself when this process dies: its standard input closes.
    drain_limit_s: that what it runs may take to end when it is stopped.
    """

    def __init__(self, fleet: Path, names: Sequence[str], drain_limit_s: float = 30.0) -> None:
        self._fleet = fleet
        self._names = tuple(names)
        self._stop_limit_s = drain_limit_s + END_LIMIT_S
        self._directory = Path(tempfile.mkdtemp(prefix="deltafleet-"))
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def address(self, name: str) -> str:
        """Where the worker listens, now and after every restart."""
        return f"unix:{self._directory / name}.sock"

    def pid(self, name: str) -> int | None:
        """Its process id while it lives."""
        process = self._processes.get(name)
        return process.pid if process and process.returncode is None else None

    def start(self) -> None:
        """Start them all; returns before they are ready."""
        self._tasks = [
            asyncio.create_task(self._keep_alive(name), name=f"keep {name}") for name in self._names
        ]

    async def stop(self) -> None:
        """Let them finish what they have, then end them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self._end(process) for process in self._processes.values()))
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _keep_alive(self, name: str) -> None:
        pause_s = FIRST_PAUSE_S
        clock = asyncio.get_running_loop().time
        while True:
            started_s = clock()
            process = await self._spawn(name)
            exit_code = await process.wait()
            if clock() - started_s > SOUND_LIFE_S:
                pause_s = FIRST_PAUSE_S
            log.error(
                "worker_died",
                extra={"worker": name, "exit_code": exit_code, "restart_in_s": pause_s},
            )
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _spawn(self, name: str) -> asyncio.subprocess.Process:
        (self._directory / f"{name}.sock").unlink(missing_ok=True)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "model_pool", str(self._fleet), "--worker", name),
            *("--listen", self.address(name), "--with-parent"),
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,  # the terminal's ctrl-C is for the gateway, which drains them
        )
        self._processes[name] = process
        log.info("worker_started", extra={"worker": name, "pid": process.pid})
        return process

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(self._stop_limit_s):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
