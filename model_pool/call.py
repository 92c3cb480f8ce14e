"""What holds for the call that is being handled, whichever door it came through."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import re
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any, TypeVar

from model_pool.errors import DeadlineExceeded

Result = TypeVar("Result")

REQUEST_ID_KEY = "x-request-id"
_PLAIN_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id")
current_trace: contextvars.ContextVar[str] = contextvars.ContextVar("current_trace", default="")
# What the door tells the caller besides the answer: trailing metadata, or headers.
told: contextvars.ContextVar[list[tuple[str, str]]] = contextvars.ContextVar("told")
_expires_at: contextvars.ContextVar[float | None] = contextvars.ContextVar("expires_at")


def time_left_s() -> float | None:
    """Seconds until the deadline of the call that is being handled; None: it has none."""
    expires_at = _expires_at.get()
    return None if expires_at is None else expires_at - asyncio.get_running_loop().time()


@contextlib.asynccontextmanager
async def within(limit_s: float | None) -> AsyncIterator[None]:
    """Give what happens inside so long; `time_left_s` tells the rest. Raises DeadlineExceeded."""
    try:
        async with asyncio.timeout(limit_s) as limit:
            _expires_at.set(limit.when())
            yield
    except TimeoutError:
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
    """For a request whose caller gives none."""
    return str(uuid.uuid4())
