"""Sees that files have changed, by looking at them every second.

Not by inotify: Kubernetes replaces a mounted ConfigMap by renaming a symbolic link in another
directory, and network file systems tell nothing. Looking follows links and works on all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

INTERVAL_S = 1.0
# A file that is being written may be valid so far: it counts when it has not changed for so long.
SETTLED_S = 0.5
Stamp = tuple[int, ...] | None
Stamps = dict[Path, Stamp]


class FileWatch:
    """Calls on_change after files have changed and settled, or at once where `look_now` asks.

    paths: the files and directories to look at, all that is below them; asked for each time.
    on_change: must not raise.
    """

    def __init__(
        self,
        paths: Callable[[], Iterable[Path]],
        on_change: Callable[[], Awaitable[None]],
        *,
        interval_s: float = INTERVAL_S,
        settled_s: float = SETTLED_S,
    ) -> None:
        self._paths = paths
        self._on_change = on_change
        self._interval_s = interval_s
        self._settled_s = settled_s
        self._asked = asyncio.Event()

    def look_now(self) -> None:
        """Take everything as changed and settled."""
        self._asked.set()

    async def run(self, seen: Stamps) -> None:
        """Look again and again. Never returns. seen: as they were when the files were read."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._asked.wait()
            found = await self._stamps()
            if not self._asked.is_set():
                if found == seen:
                    continue
                found = await self._settled(found)
            self._asked.clear()
            await self._on_change()
            # What is looked at from now on has just been read; the rest may have changed since.
            seen = await self._stamps()
            seen |= {path: found[path] for path in seen.keys() & found.keys()}

    async def _settled(self, found: Stamps) -> Stamps:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settled_s):
                    await self._asked.wait()
            later = await self._stamps()
            if later == found or self._asked.is_set():
                return later
            found = later

    async def _stamps(self) -> Stamps:
        paths = list(self._paths())
        return await asyncio.to_thread(stamps_of, paths)


def stamps_of(paths: Iterable[Path]) -> Stamps:
    """What tells one content from another without reading it. None: there is none."""
    stamps: Stamps = {}
    for path in paths:
        stamps[path] = _stamp(path)
        for directory, _, names in os.walk(path):
            for name in names:
                file = Path(directory, name)
                stamps[file] = _stamp(file)
    return stamps


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_dev, found.st_size
