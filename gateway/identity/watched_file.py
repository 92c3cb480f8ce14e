"""A file that is read again when it changes; one that is wrong changes nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

Value = TypeVar("Value")
log = logging.getLogger(__name__)


class WatchedFile(Generic[Value]):
    """`open` it, then let `follow` run. value: made of the last content that was right."""

    value: Value

    def __init__(self, path: Path, read: Callable[[bytes], Value]) -> None:
        """read: in a thread; raises ValueError, or one that is one, where the content is wrong."""
        self._path = path
        self._read = read
        self._seen: tuple[int, ...] = ()

    async def open(self) -> None:
        """Read it. Raises OSError, ValueError."""
        self._seen, data = await asyncio.to_thread(self._load)
        self.value = await asyncio.to_thread(self._read, data)

    async def follow(self, interval_s: float) -> None:
        """Look again and again. Never returns."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self.look()
            except Exception:  # or nobody would look again
                log.exception("file_not_followed", extra={"path": str(self._path)})

    async def look(self) -> None:
        """Read it if it is another than the one that was seen last."""
        known = {"path": str(self._path)}
        try:
            if await asyncio.to_thread(self._signature) == self._seen:
                return
            self._seen, data = await asyncio.to_thread(self._load)
            self.value = await asyncio.to_thread(self._read, data)
        except OSError as error:
            if self._seen:  # told once
                log.error("file_unreadable", extra=known | {"reason": error.strerror})
            self._seen = ()
        except ValueError as error:
            log.error("file_refused", extra=known | {"reason": str(error)})
        else:
            log.info("file_read_again", extra=known)

    def _load(self) -> tuple[tuple[int, ...], bytes]:
        # Before the content: what is written meanwhile is seen at the next look.
        return self._signature(), self._path.read_bytes()

    def _signature(self) -> tuple[int, ...]:
        status = self._path.stat()
        return status.st_mtime_ns, status.st_size, status.st_ino
