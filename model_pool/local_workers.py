"""Workers as subprocesses on this machine: started, watched, started again when they die."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import sys
import tempfile
from pathlib import Path

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
# A worker that lived this long was sound; its next restart is prompt again.
SOUND_LIFE_S = 60.0
END_LIMIT_S = 5.0  # to end in, beyond the limit for what runs

log = logging.getLogger(__name__)


class LocalWorkers:
    """Keeps one subprocess alive per name, each on a Unix socket of its own.

    A worker also stops by itself when this process dies: its standard input closes. It reads a copy
    of fleet.yaml that is kept for it, so that one which starts anew goes by what is in force, not
    by what was written since. beside: where the file's paths start from. drain_limit_s: that what
    it runs may take to end when it is stopped. key: what a process is called among them.
    """

    def __init__(self, text: str, beside: Path, drain_limit_s: float = 30.0) -> None:
        """text: of fleet.yaml."""
        self._beside = beside
        self._stop_limit_s = drain_limit_s + END_LIMIT_S
        self._directory = Path(tempfile.mkdtemp(prefix="deltafleet-"))
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.text = text
        self.write(text)

    def write(self, text: str) -> None:
        """Keep another text of fleet.yaml for those that start from now on."""
        aside = self._directory / "fleet.yaml.new"
        aside.write_text(text, encoding="utf-8")
        aside.replace(self._directory / "fleet.yaml")
        self.text = text

    def address(self, key: str) -> str:
        """Where the worker listens, now and after every restart."""
        return f"unix:{self._directory / key}.sock"

    def start(self, key: str, name: str) -> None:
        """Start the worker of this name; returns before it is ready."""
        self._tasks[key] = asyncio.create_task(self._keep_alive(key, name), name=f"keep {key}")

    async def end(self, key: str) -> None:
        """Let one finish what it has, then end it."""
        task = self._tasks.pop(key)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        process = self._processes.pop(key, None)
        if process is not None:
            await self._end(process)

    async def stop(self) -> None:
        """Let them finish what they have, then end them."""
        await asyncio.gather(*(self.end(key) for key in tuple(self._tasks)))
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _keep_alive(self, key: str, name: str) -> None:
        pause_s = FIRST_PAUSE_S
        clock = asyncio.get_running_loop().time
        while True:
            started_s = clock()
            process = await self._spawn(key, name)
            exit_code = await process.wait()
            if clock() - started_s > SOUND_LIFE_S:
                pause_s = FIRST_PAUSE_S
            log.error(
                "worker_died",
                extra={"worker": name, "exit_code": exit_code, "restart_in_s": pause_s},
            )
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _spawn(self, key: str, name: str) -> asyncio.subprocess.Process:
        (self._directory / f"{key}.sock").unlink(missing_ok=True)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "model_pool", str(self._directory / "fleet.yaml")),
            *("--beside", str(self._beside), "--worker", name),
            *("--listen", self.address(key), "--with-parent"),
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,  # the terminal's ctrl-C is for the gateway, which drains them
        )
        self._processes[key] = process
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
