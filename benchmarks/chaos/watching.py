"""What the gateway's process holds, over the campaign: a leak is a line that rises."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import statistics
import time
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import psutil

INTERVAL_S = 2.0
TASKS = re.compile(r"^deltafleet_event_loop_tasks (\S+)$", re.MULTILINE)


@dataclass
class Samples:
    """By what was counted, in the order of time. began_s: on the monotonic clock."""

    pid: int
    metrics: str
    began_s: float = field(default_factory=time.monotonic)
    at_s: list[float] = field(default_factory=list)
    found: dict[str, list[float]] = field(default_factory=dict)

    @contextlib.asynccontextmanager
    async def sampling(self) -> AsyncIterator[None]:
        """A sample now and then while the block runs."""
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            self.take(await asyncio.to_thread(self.task_count))
            await asyncio.sleep(INTERVAL_S)

    def take(self, task_count: float) -> None:
        """One sample."""
        process = psutil.Process(self.pid)
        self.at_s.append(time.monotonic() - self.began_s)
        for name, value in (
            ("memory, MiB", process.memory_info().rss / 2**20),
            ("file descriptors", process.num_fds()),
            ("threads", process.num_threads()),
            ("tasks", task_count),
        ):
            self.found.setdefault(name, []).append(value)

    def task_count(self) -> float:
        """Of the gateway's event loop, as its metrics say."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=30) as page:
            found = TASKS.search(page.read().decode())
        assert found is not None, "the gateway counts its tasks"
        return float(found[1])

    def quarters(self) -> dict[str, list[float]]:
        """The median of each quarter of the time."""
        return {name: _quarters(values) for name, values in self.found.items()}


def _quarters(values: list[float]) -> list[float]:
    cuts = [round(len(values) * part / 4) for part in range(5)]
    return [statistics.median(values[start:end]) for start, end in itertools.pairwise(cuts)]
