"""What holds for the call that is being handled, whichever door it came through."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
import re
import time
from collections.abc import Coroutine, Iterable
from types import TracebackType
from typing import Any, TypeVar

from model_pool.errors import DeadlineExceeded

Result = TypeVar("Result")

REQUEST_ID_KEY = "x-request-id"
_FIXED_BITS, _VERSION_4 = 0xF << 76 | 0x3 << 62, 0x4 << 76 | 0x2 << 62
_PLAIN_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id")
current_trace: contextvars.ContextVar[str] = contextvars.ContextVar("current_trace", default="")
# What the door tells the caller besides the answer: trailing metadata, or headers.
told: contextvars.ContextVar[list[tuple[str, str]]] = contextvars.ContextVar("told")
_began_s: contextvars.ContextVar[float | None] = contextvars.ContextVar("began_s", default=None)
_expires_at: contextvars.ContextVar[float | None] = contextvars.ContextVar("expires_at")


def begin_call(name: str) -> None:
    """A door has heard of a call. name: the request's id."""
    request_id.set(name)
    told.set([])
    _began_s.set(time.perf_counter())


def elapsed_s() -> float:
    """Seconds since a door heard of the call that is being handled; 0 where none is."""
    now_s = time.perf_counter()
    began_s = _began_s.get()
    return now_s - (now_s if began_s is None else began_s)


def time_left_s() -> float | None:
    """Seconds until the deadline of the call that is being handled; None: it has none."""
    expires_at = _expires_at.get()
    return None if expires_at is None else expires_at - asyncio.get_running_loop().time()


class within:  # noqa: N801 - used like a function, as contextlib's are
    """Give what happens inside so long; `time_left_s` tells the rest. Raises DeadlineExceeded."""

    def __init__(self, limit_s: float | None) -> None:
        self._limit = asyncio.timeout(limit_s)

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()
        _expires_at.set(self._limit.when())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        is_late = kind is not None and issubclass(kind, TimeoutError)  # a wait within was
        try:
            await self._limit.__aexit__(kind, error, traceback)
        except TimeoutError:
            is_late = True
        if is_late:
            raise DeadlineExceeded("the deadline has passed") from None


async def to_its_end(work: Coroutine[Any, Any, Result]) -> Result:
    """Do it and go on, also where the one who waits is cancelled meanwhile."""
    task = asyncio.create_task(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()


def tell(key: str, value: str) -> None:
    """Let the caller know, where a door listens."""
    with contextlib.suppress(LookupError):
        told.get().append((key, value))


def own_request_id(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The id that the caller gives its request, where it is a plain one; else ""."""
    for key, value in metadata or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and _PLAIN_ID.fullmatch(value):
            return value
    return ""


def new_request_id() -> str:
    """For a request whose caller gives none: a UUID, version 4.

    A name, not a secret, so that nobody asks the kernel for it: that takes five times as long.
    """
    return new_uuid()


def new_uuid() -> str:
    """A random UUID, version 4 (RFC 9562, 5.4)."""
    text = f"{random.getrandbits(128) & ~_FIXED_BITS | _VERSION_4:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
