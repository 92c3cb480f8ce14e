"""Turns on one set of live weights, with a stage in the engine's place."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import pytest

from model_pool.engine import Weights
from model_pool.switching import Policy, Priority
from model_pool.turns import Claim, Pace, Turns

A, B, C = (Weights(name, name) for name in "abc")
# Whoever waits is due at once; a turn lasts as long as its switch counts, two milliseconds.
IMPATIENT = Policy(max_wait_s=0.0, amortisation=1.0, drain_s=0.0)
PATIENT = Policy(max_wait_s=3600.0, amortisation=1.0, thin=0.0)

Body = Callable[[], Awaitable[None]]


async def shortly() -> None:
    await asyncio.sleep(0)


async def forever() -> None:
    await asyncio.Event().wait()


class Stage:
    """What was made live, and who ran on what. gate: closed, switches wait."""

    def __init__(self, policy: Policy = PATIENT, limit_count: int = 4, pace: Pace | None = None):
        self.live: Weights | None = None
        self.switches = ""
        self.served = ""
        self.begun_count = 0
        self.running_count = 0
        self.most_count = 0
        self.broken: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        weights = (8.0, 1.0, 0.25)
        self.turns = Turns(
            Policy(policy.max_wait_s, policy.amortisation, policy.thin, policy.drain_s,
                   limit_count, weights),
            self._make_live,
            clock=time.monotonic,
            pace=pace,
        )  # fmt: skip

    async def serve(self, claim: Claim, body: Body = shortly) -> None:
        """Until the body came to its end within one turn."""
        is_done = False
        while not is_done:
            async with self.turns.place(claim):
                assert self.live == claim.weights
                self.begun_count += 1
                self.running_count += 1
                self.most_count = max(self.most_count, self.running_count)
                try:
                    await body()
                    is_done = True
                    assert self.live == claim.weights
                    self.served += claim.weights.model
                finally:
                    self.running_count -= 1

    async def until_begun(self, count: int) -> None:
        while self.begun_count < count:
            await asyncio.sleep(0)

    async def _make_live(self, weights: Weights) -> None:
        assert self.running_count == 0
        await self.gate.wait()
        assert self.running_count == 0
        if weights.model in self.broken:
            raise OSError(f"{weights.model} is broken")
        self.live = weights
        self.switches += weights.model


def begin(stage: Stage, *order: Weights, body: Body = shortly) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(stage.serve(Claim(weights), body)) for weights in order]


async def test_everyone_who_waits_for_the_same_weights_shares_a_turn() -> None:
    stage = Stage(limit_count=2)
    await asyncio.gather(*begin(stage, A, B, A, C, A, B, A))

    assert sorted(stage.switches) == ["a", "b", "c"]
    assert sorted(stage.served) == list("aaaabbc")
    assert stage.most_count == 2


async def test_who_comes_for_the_live_weights_joins_them() -> None:
    stage = Stage()
    first = begin(stage, A, body=forever)[0]
    await stage.until_begun(1)
    await begin(stage, A)[0]

    assert not first.done()
    assert stage.switches == "a"
    first.cancel()


async def test_what_runs_is_broken_off_for_a_due_model_and_goes_on_later() -> None:
    stage = Stage(IMPATIENT)
    may_end = asyncio.Event()

    async def long() -> None:
        await may_end.wait()

    first = begin(stage, A, body=long)[0]
    await stage.until_begun(1)
    await begin(stage, B)[0]
    assert not first.done()
    may_end.set()
    await first

    assert (stage.switches, stage.served) == ("aba", "ba")


async def test_what_cannot_be_broken_off_ends_first() -> None:
    stage = Stage(IMPATIENT)
    may_end = asyncio.Event()

    async def long() -> None:
        await may_end.wait()

    first = asyncio.create_task(stage.serve(Claim(A, preemptible=False), long))
    await stage.until_begun(1)
    other = begin(stage, B)[0]
    await asyncio.sleep(0.05)
    late = begin(stage, A)[0]
    await asyncio.sleep(0.01)
    assert stage.begun_count == 1  # who comes for the live weights waits too: they are drained
    may_end.set()
    await asyncio.gather(first, other, late)

    assert stage.served == "aba"


async def test_a_turn_does_not_end_before_everyone_in_it_has_got_on() -> None:
    stage = Stage(IMPATIENT)
    first, second = Claim(A, must_move=True), Claim(A, must_move=True)
    running = [asyncio.create_task(stage.serve(one, forever)) for one in (first, second)]
    await stage.until_begun(2)
    waiting = begin(stage, B)[0]
    await asyncio.sleep(0.02)  # ten times what a turn lasts
    stage.turns.moved(first)
    await asyncio.sleep(0.02)
    assert stage.switches == "a"
    stage.turns.moved(second)
    await waiting

    assert stage.switches.startswith("ab")
    for one in running:
        one.cancel()


async def test_a_turn_that_would_be_computed_again_is_drained() -> None:
    """Nothing of it would stay in the cache, so it has drain_s to end."""
    costly = Policy(max_wait_s=0.0, amortisation=1e3, drain_s=3600.0)
    stage = Stage(costly, pace=Pace(prompt_token_s=3600.0))
    may_end = asyncio.Event()

    async def long() -> None:
        await may_end.wait()

    first = asyncio.create_task(stage.serve(Claim(A, token_count=10), long))
    await stage.until_begun(1)
    other = begin(stage, B)[0]
    await asyncio.sleep(0.02)
    assert stage.switches == "a"
    may_end.set()
    await asyncio.gather(first, other)

    assert (stage.switches, stage.begun_count) == ("ab", 2)


async def test_a_bound_in_time_is_kept_without_anything_happening() -> None:
    stage = Stage(Policy(max_wait_s=0.05, amortisation=1.0, thin=0.0))
    first = begin(stage, A, body=forever)[0]
    await stage.until_begun(1)
    await begin(stage, B)[0]

    assert stage.switches.startswith("ab")
    first.cancel()


async def test_the_urgent_go_first_within_a_model() -> None:
    stage = Stage(limit_count=1)
    order: list[Priority] = []

    async def serve(priority: Priority) -> None:
        async with stage.turns.place(Claim(A, priority=priority)):
            order.append(priority)

    await asyncio.gather(*map(serve, (Priority.BATCH, Priority.STANDARD, Priority.INTERACTIVE)))

    assert order == sorted(order)


async def test_callers_share_the_places_of_a_turn() -> None:
    """However many one of them asks for, and whoever was there first."""
    stage = Stage(limit_count=1)
    order: list[str] = []

    async def serve(caller: str) -> None:
        async with stage.turns.place(claim := Claim(A, caller=caller, left_count=5)):
            order.append(caller)
            stage.turns.moved(claim, output_count=5)

    await asyncio.gather(*map(serve, [*["noisy"] * 6, *["quiet"] * 2]))

    assert [place for place, caller in enumerate(order) if caller == "quiet"] == [1, 3]


async def test_places_are_ranked_and_the_urgent_pass_no_more_than_a_batch() -> None:
    stage = Stage(limit_count=4)
    claims = [Claim(A, priority=one) for one in (Priority.BATCH, *[Priority.INTERACTIVE] * 9)]
    for claim in claims:
        await stage.serve(claim)

    batch, *urgent = [claim.rank for claim in claims]
    assert urgent == sorted(urgent)
    # Those of two batches pass it: it is two priorities below them.
    assert sum(rank < batch for rank in urgent) <= 2 * 4


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


async def test_a_switch_that_nobody_waits_for_any_more_is_not_made() -> None:
    stage = Stage(IMPATIENT)
    leaving, may_leave = asyncio.Event(), asyncio.Event()

    async def slow_to_leave() -> None:
        try:
            await forever()
        finally:
            leaving.set()
            await may_leave.wait()

    first = begin(stage, A, body=slow_to_leave)[0]
    await stage.until_begun(1)
    other = begin(stage, B)[0]
    await leaving.wait()
    other.cancel()
    may_leave.set()
    await stage.until_begun(2)

    assert stage.switches == "a"
    first.cancel()


async def test_a_place_granted_to_a_cancelled_caller_is_given_back() -> None:
    stage = Stage(limit_count=1)
    first = begin(stage, A, body=forever)[0]
    await stage.until_begun(1)
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
    last = stage.switches[-1]
    await begin(stage, A if last == "a" else C)[0]

    assert isinstance(bad.exception(), OSError)
    assert sorted(stage.switches) == ["a", "c"]  # what was live still is


async def test_a_failed_switch_lets_those_go_on_who_were_broken_off() -> None:
    stage = Stage(IMPATIENT)
    stage.broken = {"b"}
    may_end = asyncio.Event()

    async def long() -> None:
        await may_end.wait()

    first = begin(stage, A, body=long)[0]
    await stage.until_begun(1)
    bad = begin(stage, B)[0]
    await asyncio.wait([bad])
    may_end.set()
    await first

    assert isinstance(bad.exception(), OSError)
    assert (stage.switches, stage.served) == ("a", "a")


async def test_a_timeout_of_the_body_is_its_own() -> None:
    stage = Stage()
    with pytest.raises(TimeoutError):
        async with stage.turns.place(Claim(A)):
            raise TimeoutError


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
        async with stage.turns.place(Claim(A)):
            pass


@pytest.mark.parametrize("seed", range(5))
async def test_in_a_crowd_that_comes_and_goes_nobody_meets_other_weights_or_is_forgotten(
    seed: int,
) -> None:
    choice = random.Random(seed)
    stage = Stage(Policy(max_wait_s=0.002, amortisation=0.1, drain_s=0.001), limit_count=3)

    async def work() -> None:
        for _ in range(choice.randrange(30)):
            await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    for _ in range(200):
        claim = Claim(
            choice.choice((A, B, C)),
            priority=choice.choice(tuple(Priority)),
            preemptible=choice.random() < 0.8,
        )
        tasks.append(asyncio.create_task(stage.serve(claim, work)))
        if choice.random() < 0.3:
            choice.choice(tasks).cancel()
        await asyncio.sleep(0)
    ends = await asyncio.gather(*tasks, return_exceptions=True)

    assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ends)
    assert stage.running_count == 0
    assert stage.most_count == 3
    await begin(stage, B)[0]  # still there for the next
