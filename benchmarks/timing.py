"""Seconds, taken in turns."""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

Result = TypeVar("Result")


async def timed(work: Awaitable[Result]) -> tuple[float, Result]:
    """Its seconds and what it gave."""
    began = time.perf_counter()
    result = await work
    return time.perf_counter() - began, result


async def in_turns(
    repeat: int, **runs: Callable[[], Awaitable[float | None]]
) -> dict[str, list[float]]:
    """Run them one after the other, `repeat` times after a first round that does not count, so
    that whatever else runs on the machine slows all of them down. A run may give its own seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeat + 1):
        for name, run in runs.items():
            taken, own = await timed(run())
            seconds[name].append(taken if own is None else own)
    return {name: taken[1:] for name, taken in seconds.items()}


def say(what: str) -> None:
    """Progress."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {what}\n")
    sys.stdout.flush()
