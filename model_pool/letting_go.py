"""Calls that are gone as soon as they were refused.

grpc.aio (1.85) keeps an abort's exception at the call, and raises it again where a handler did not.
With the frames that it came through, which have the call, that is a circle: each refused call, and
all that it allocated, would wait for a garbage collection. Meanwhile it counts as open, so that a
server which refuses many has no place for more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

Handler = Callable[..., Any]


def released(behaviour: Handler) -> Handler:
    """The handler, without the frames of its abort."""

    async def handle(requests: object, context: Any) -> Any:
        try:
            return await behaviour(requests, context)
        except grpc.aio.AbortError as error:
            forget(error)

    return handle


def forget(error: BaseException) -> None:
    """Let go of the frames that it came through, and of the failure that it followed."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
