"""What the tests hold, and how they ask an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_pool.engine import Engine, Job, Message, Piece, Role, Sampling, Usage, Weights

StartEngine = Callable[..., AbstractAsyncContextManager[Engine]]


@dataclass(frozen=True)
class Fleet:
    """A base on disk, and two deltas of it. corrupt: a delta with one byte changed."""

    base: Path
    variant: Path
    weights: dict[str, Weights]
    corrupt: Weights


def job(prompt: str, model: str = "base", **sampling: Any) -> Job:
    """A job of one user turn; at most 24 tokens unless told."""
    sampling.setdefault("max_output_token_count", 24)
    return Job("test", model, (Message(Role.USER, prompt),), Sampling(**sampling))


async def in_order(engine: Engine, first: Job, jobs: Sequence[Job]) -> list[str]:
    """Ask all once the first answers; the callers of the others as their first pieces come."""
    order: list[str] = []

    async def ask(asked: Job) -> None:
        async with aclosing(engine.generate(asked)) as stream:
            await anext(stream)
            order.append(asked.caller)
            async for _ in stream:
                pass

    async with aclosing(engine.generate(first)) as stream:
        await anext(stream)
        tasks = [asyncio.create_task(ask(one)) for one in jobs]
        async for _ in stream:
            pass
    await asyncio.gather(*tasks)
    return order


async def pieces_of(
    engine: Engine, asked: Job, on_end: Callable[[Usage], None] | None = None
) -> list[Piece]:
    async with aclosing(engine.generate(asked, on_end)) as stream:
        return [piece async for piece in stream]


async def answer_of(engine: Engine, asked: Job) -> str:
    return "".join(piece.text for piece in await pieces_of(engine, asked))
