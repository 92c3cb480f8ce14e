"""The event loops that are compared."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


def run(work: Coroutine[Any, Any, None], kind: str) -> None:
    """Run it to its end. kind: asyncio, uvloop."""
    if kind == "uvloop":
        import uvloop

        uvloop.run(work)
    else:
        asyncio.run(work)
