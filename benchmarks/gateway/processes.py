"""The processes of one run, each on the core that it was given."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

START_LIMIT_S = 180.0
SERVER_CORE, CLIENT_CORE = 0, 1
QUOTA_PERIOD_US = 100_000  # the kernel's own


class Running:
    """A process that has told where it listens. addresses: its first line's words."""

    def __init__(self, process: asyncio.subprocess.Process, line: str) -> None:
        self._process = process
        self.addresses = line.split()
        self._known = psutil.Process(process.pid)

    async def ask(self) -> str:
        """What it answers to a line of ours."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        return (await self._process.stdout.readline()).decode()

    @property
    def pid(self) -> int:
        """Of the program itself: taskset becomes it."""
        return self._process.pid

    @property
    def cpu_s(self) -> float:
        """That it and its children took so far."""
        return sum(one.cpu_times().user + one.cpu_times().system for one in self._all())

    @property
    def memory_bytes(self) -> int:
        """Resident, with its children."""
        return sum(one.memory_info().rss for one in self._all())

    @property
    def own_memory_bytes(self) -> int:
        """What would be free without it: resident, and shared with nobody."""
        return sum(one.memory_full_info().uss for one in self._all())

    def _all(self) -> list[psutil.Process]:
        return [self._known, *self._known.children(recursive=True)]


@contextlib.asynccontextmanager
async def running(
    command: Sequence[str], *, core: int, log: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Running]:
    """A process on one core, from its first line on. log: where its standard error goes.

    Raises RuntimeError where it ends before that line.
    """
    with log.open("w") as errors:
        process = await asyncio.create_subprocess_exec(
            *("taskset", "-c", str(core), *command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            limit=2**24,
        )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(START_LIMIT_S):
            line = (await process.stdout.readline()).decode()
        if not line:
            raise RuntimeError(f"{' '.join(command)} did not start; {log} shows why")
        yield Running(process, line)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()


@contextlib.contextmanager
def limited(processes: Sequence[Running], share: float) -> Iterator[None]:
    """Each of them to this share of one core, wherever it runs (control groups; needs root)."""
    groups = []
    try:
        for one in processes:
            group = Path("/sys/fs/cgroup/cpu") / f"deltafleet-bench-{one.pid}"
            group.mkdir()
            groups.append(group)
            (group / "cpu.cfs_quota_us").write_text(str(int(share * QUOTA_PERIOD_US)))
            (group / "cgroup.procs").write_text(str(one.pid))
        yield
    finally:
        for group in groups:
            for pid in (group / "cgroup.procs").read_text().split():
                (group.parent / "cgroup.procs").write_text(pid)
            group.rmdir()
