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
STOP_LIMIT_S = 35.0

log = logging.getLogger(__name__)


class LocalWorkers:
    """Keeps one subprocess alive per name, each on a Unix socket of its own.

    A worker also stops by itself when this process dies: its standard input closes.
    """

    def __init__(self, fleet: Path, names: Sequence[str]) -> None:
        self._fleet = fleet
        self._names = tuple(names)
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
                async with asyncio.timeout(STOP_LIMIT_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
