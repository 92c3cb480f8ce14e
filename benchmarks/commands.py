"""Commands, watched: how long they take, and how much memory."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")  # version 1
_GROUPS = Path("/sys/fs/cgroup")  # version 2


@dataclass(slots=True)
class Run:
    """seconds: of the whole command. anonymous_bytes, resident_bytes: the process's at their peak;
    resident memory has what is mapped from files, too.
    """

    seconds: float
    anonymous_bytes: int
    resident_bytes: int


def run(command: Sequence[str | Path], *, cwd: Path, limit_bytes: int | None = None) -> Run:
    """Run a command to its end. limit_bytes: of all memory, the page cache included (needs root).

    Raises RuntimeError with what it wrote where it fails.
    """
    told = [str(part.absolute()) if isinstance(part, Path) else part for part in command]
    with _limited(limit_bytes) as group:
        began = time.perf_counter()
        process = subprocess.Popen(
            told,
            cwd=cwd,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=None if group is None else lambda: _join(group),
        )
        watcher = _Watcher(process.pid)
        watcher.start()
        _, complaint = process.communicate()
        seconds = time.perf_counter() - began
        watcher.join()
    if process.returncode != 0:
        raise RuntimeError(f"{command} ended with {process.returncode}:\n{complaint[-2000:]}")
    return Run(seconds, watcher.anonymous_bytes, watcher.resident_bytes)


class _Watcher(threading.Thread):
    """Looks at a process a hundred times a second until it is gone."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._status = Path(f"/proc/{pid}/status")
        self.anonymous_bytes = self.resident_bytes = 0

    def run(self) -> None:
        """Until the process has ended."""
        while (told := self._read()) is not None:
            self.anonymous_bytes = max(self.anonymous_bytes, told.get("RssAnon", 0))
            self.resident_bytes = max(self.resident_bytes, told.get("VmRSS", 0))
            time.sleep(0.01)

    def _read(self) -> dict[str, int] | None:
        try:
            lines = self._status.read_text().splitlines()
        except OSError:
            return None
        pairs = (line.split(":", 1) for line in lines)
        told = {key: value.split() for key, value in pairs}
        if told["State"][0] == "Z":
            return None
        return {key: int(value[0]) << 10 for key, value in told.items() if value[1:] == ["kB"]}


@contextmanager
def _limited(limit_bytes: int | None) -> Iterator[Path | None]:
    """A control group with a hard limit of memory, and its file of processes."""
    if limit_bytes is None:
        yield None
        return
    is_first = _MEMORY_GROUPS.is_dir()
    group = (_MEMORY_GROUPS if is_first else _GROUPS) / f"deltafleet-bench-{os.getpid()}"
    group.mkdir()
    try:
        limit = "memory.limit_in_bytes" if is_first else "memory.max"
        (group / limit).write_text(str(limit_bytes))
        yield group / "cgroup.procs"
    finally:
        group.rmdir()


def _join(group: Path) -> None:
    group.write_text(str(os.getpid()))
