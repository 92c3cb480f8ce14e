"""Turns on one set of live weights. Needs no vLLM."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from model_pool.engine import Weights
from model_pool.vllm.turns import Turns

A, B, C = (Weights(name, f"digest of {name}") for name in "abc")


class Stage:
    """What was made live, and who ran on what. gate: closed, switches wait."""

    def __init__(self, limit_count: int = 4) -> None:
        self.live: Weights | None = None
        self.switches = ""
        self.served = ""
        self.running_count = 0
        self.most_count = 0
        self.broken: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.turns = Turns(limit_count, self._make_live)

    async def serve(self, weights: Weights, until: Callable[[], Awaitable[None]]) -> None:
        await self.turns.take(weights)
        assert self.live == weights
        self.running_count += 1
        self.most_count = max(self.most_count, self.running_count)
        try:
            await until()
            assert self.live == weights
            self.served += weights.model
        finally:
            self.running_count -= 1
            self.turns.leave()

    async def _make_live(self, weights: Weights) -> None:
        assert self.running_count == 0
        await self.gate.wait()
        if weights.model in self.broken:
            raise OSError(f"{weights.model} is broken")
        self.live = weights
        self.switches += weights.model


async def shortly() -> None:
    await asyncio.sleep(0)


def begin(stage: Stage, *order: Weights) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(stage.serve(weights, shortly)) for weights in order]


async def test_everyone_who_waits_for_the_same_weights_shares_a_turn() -> None:
    stage = Stage(limit_count=2)
    await asyncio.gather(*begin(stage, A, B, A, C, A, B, A))

    assert stage.switches == "abc"
    assert stage.served == "aaaabbc"
    assert stage.most_count == 2


async def test_who_comes_in_a_turn_waits_behind_those_of_others() -> None:
    stage = Stage()
    may_end = asyncio.Event()

    async def long() -> None:
        await may_end.wait()

    first = asyncio.create_task(stage.serve(A, long))
    await asyncio.sleep(0.01)
    early, other, late = begin(stage, A, B, A)
    await asyncio.sleep(0.01)
    assert early.done()
    assert not late.done()
    may_end.set()
    await asyncio.gather(first, early, other, late)

    assert stage.switches == "aba"


async def test_a_cancelled_waiter_keeps_nobody_waiting() -> None:
    stage = Stage(limit_count=1)
    stage.gate.clear()
    one, two, three = begin(stage, A, B, A)
    await asyncio.sleep(0.01)
    one.cancel()
    two.cancel()
    stage.gate.set()
    await three

    assert stage.served == "a"
    assert stage.switches == "a"


async def test_a_place_granted_to_a_cancelled_caller_is_given_back() -> None:
    stage = Stage(limit_count=1)
    first = asyncio.create_task(stage.serve(A, asyncio.Event().wait))  # type: ignore[arg-type]
    await asyncio.sleep(0.01)
    second, third = begin(stage, A, A)
    await asyncio.sleep(0)
    first.cancel()
    second.cancel()
    await asyncio.wait([first, second, third])

    assert stage.served == "a"
    assert third.exception() is None


async def test_weights_that_cannot_be_made_live_fail_those_who_want_them() -> None:
    stage = Stage()
    stage.broken = {"b"}
    good, bad, other = begin(stage, A, B, C)
    await asyncio.wait([good, bad, other])
    again = begin(stage, C)[0]
    await again

    assert isinstance(bad.exception(), OSError)
    assert stage.switches == "ac"  # what was live still is


async def test_after_forgetting_what_is_live_the_weights_are_written_again() -> None:
    stage = Stage()
    await begin(stage, A)[0]
    stage.turns.forget_live()
    await begin(stage, A)[0]

    assert stage.switches == "aa"


async def test_closing_refuses_those_who_wait_and_those_who_come() -> None:
    stage = Stage()
    stage.gate.clear()
    waiting = begin(stage, A, B)
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(stage.turns.close(RuntimeError("closed")))
    await asyncio.sleep(0.01)
    assert not closing.done()
    stage.gate.set()
    await closing
    ends = await asyncio.gather(*waiting, return_exceptions=True)

    assert [str(end) for end in ends] == ["closed", "closed"]
    with pytest.raises(RuntimeError, match="closed"):
        await stage.turns.take(A)
