"""Whose weights are live: turns on an engine's one set of live weights, as `switching.py` decides.

Knows no engine: `make_live` is the switch, and the body of `Turns.place` is what runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from model_pool.engine import Weights
from model_pool.fair_line import Ask, FairLine
from model_pool.switching import (
    Action,
    Policy,
    Priority,
    Queue,
    Running,
    Slice,
    Waiting,
    decide,
    slice_of,
)
from model_pool.waiting_line import WaitingLine

# What a switch counts as, at least: a turn that follows from it is never too short for a step.
LEAST_COST_S = 0.002


@dataclass(slots=True)
class Pace:
    """Measured seconds of one decoding step, and of reading one prompt token."""

    step_s: float = 0.0
    prompt_token_s: float = 0.0


@dataclass(slots=True, eq=False)
class Claim:
    """One request's claim on the live weights, from its arrival to its end, over all its turns.

    deadline_s: by the clock of Turns. preemptible: the body of `place` may be broken off and begun
    again. token_count: computed so far, prompt and answer; left_count: still to compute, as far as
    is known; unread_count: of its prompt. The owner keeps these three up to date in the body of
    `place`. must_move: a turn does not end before the owner has said `Turns.moved`: without that,
    turns shorter than reading the prompts would do the same work again and again. rank: set with
    the place; in an engine that has no room for all, the smaller goes first.
    """

    weights: Weights
    priority: Priority = Priority.STANDARD
    deadline_s: float = math.inf
    preemptible: bool = True
    token_count: int = 0
    left_count: int = 0
    unread_count: int = 0
    caller: str = ""
    must_move: bool = False
    rank: int = 0
    since_s: float = math.inf
    number: int = -1
    is_sent_away: bool = False
    has_moved: bool = True
    granted: asyncio.Future[None] | None = None
    slice_end: asyncio.Timeout | None = None

    @property
    def ask(self) -> Ask:
        """What it is in the line."""
        return Ask(
            lane=self.weights.digest,
            caller=self.caller,
            priority=self.priority,
            prompt_token_count=self.unread_count,
            output_limit_count=self.left_count,
        )


@dataclass(slots=True)
class _Line:
    """Who waits for one set of weights, summed up."""

    claims: set[Claim] = field(default_factory=set)
    waiting: WaitingLine = field(default_factory=WaitingLine)
    token_count: int = 0
    sum: Queue | None = None  # None: to be summed up again

    def add(self, claim: Claim, step_s: float) -> None:
        """step_s: what one more token of it takes."""
        self.claims.add(claim)
        work_s = claim.left_count * step_s
        request = Waiting(claim.since_s, claim.priority, work_s, claim.deadline_s)
        self.waiting.add(claim, request)
        self.token_count += claim.token_count
        self.sum = None

    def remove(self, claim: Claim) -> None:
        self.claims.remove(claim)
        self.waiting.remove(claim)
        self.token_count -= claim.token_count
        self.sum = None


class Turns:
    """Places on the live weights. Weights are named by their digest: equal ones share a turn.

    Whose turn it is, `switching.py` says; who of those that wait gets a place, `fair_line.py`.
    """

    def __init__(
        self,
        policy: Policy,
        make_live: Callable[[Weights], Awaitable[None]],
        *,
        clock: Callable[[], float],
        pace: Pace | None = None,
    ) -> None:
        """make_live: called while no place is taken; when it raises, everyone who waits for these
        weights gets the error, and the former ones stay live. clock: seconds. pace: read when
        requests wait or run.
        """
        self._policy = policy
        self._make_live = make_live
        self._clock = clock
        self._pace = pace or Pace()
        self._room_token_count = 0
        self._lines: dict[str, _Line] = {}
        self._fair = FairLine[Claim]()
        self._grant_count = 0
        self._running: set[Claim] = set()
        self._claim_count = 0
        self._live: str | None = None
        self._since_s = -math.inf
        self._paid_s = 0.0
        self._peak_weight = 0.0
        self._peak_token_count = 0
        self._draining_since_s: float | None = None
        self._left_s: dict[str, float] = {}
        self._cost_s: dict[str, float] = {}
        self._typical_cost_s = LEAST_COST_S
        self._empty = asyncio.Event()
        self._empty.set()
        self._timer: asyncio.TimerHandle | None = None
        self._switch: asyncio.Task[None] | None = None
        self._closed: Exception | None = None

    def set_room(self, token_count: int) -> None:
        """Tokens that the engine's cache keeps: beyond it, what is preempted is computed again."""
        self._room_token_count = token_count

    @contextlib.asynccontextmanager
    async def place(self, claim: Claim) -> AsyncIterator[None]:
        """Wait until the weights are live and a place is free; the body runs on them.

        When the turn ends the body is cancelled at an await, and the block ends as if it were
        done: whoever has not finished asks for a place again. Raises what make_live raised, or
        the error that `close` was given.
        """
        await self._take(claim)
        try:
            async with asyncio.timeout(None) as slice_end:
                claim.slice_end = slice_end
                yield
        except TimeoutError:
            if not slice_end.expired():
                raise
        finally:
            claim.slice_end = None
            self._leave(claim)

    def moved(self, claim: Claim, output_count: int = 0) -> None:
        """The request has got on in this turn, which may end now as far as it is concerned.

        output_count: tokens that its answer got more.
        """
        self._fair.use(claim, output_count)
        if not claim.has_moved:
            claim.has_moved = True
            if self._draining_since_s is not None:
                self._advance()

    def forget_live(self) -> None:
        """What is live is not known: the next turn begins with a switch."""
        self._live = None

    async def close(self, error: Exception) -> None:
        """Refuse all who wait and all who come. Returns when no switch is under way."""
        self._closed = error
        self._stop_timer()
        for digest in list(self._lines):
            self._refuse(digest, error)
        if self._switch is not None:
            await asyncio.wait([self._switch])

    async def _take(self, claim: Claim) -> None:
        if claim.number < 0:
            claim.number = self._claim_count
            self._claim_count += 1
        while True:
            if self._closed is not None:
                raise self._closed
            await self._wait(claim)
            if not claim.is_sent_away:
                return
            self._leave(claim)  # granted and sent away before it could begin

    async def _wait(self, claim: Claim) -> None:
        claim.granted = asyncio.get_running_loop().create_future()
        claim.since_s = self._clock()
        claim.is_sent_away = False
        line = self._lines.setdefault(claim.weights.digest, _Line())
        line.add(claim, self._pace.step_s)
        self._fair.add(claim, claim.ask, claim.number)
        self._advance()
        try:
            await claim.granted
        except asyncio.CancelledError:
            if claim in self._running:
                self._leave(claim)
            elif claim in line.claims:
                line.remove(claim)
                self._fair.remove(claim)
                self._advance()
            raise

    def _leave(self, claim: Claim) -> None:
        self._running.remove(claim)
        self._fair.end(claim)
        if not self._running:
            self._empty.set()
        self._advance()

    def _advance(self) -> None:
        """Do what is decided, until there is nothing to do before something happens."""
        if self._switch is not None or self._closed is not None:
            return
        self._stop_timer()
        while True:
            now_s = self._clock()
            decision = decide(now_s, self._slice(), self._queues(), self._policy)
            if decision.action is not Action.STAY or not self._grant():
                break
        if decision.action is Action.DRAIN and self._draining_since_s is None:
            self._draining_since_s = now_s
        if decision.action is Action.SWITCH:
            assert decision.model is not None
            self._switch = asyncio.create_task(self._begin_turn(decision.model), name="switch")
        elif decision.decide_at_s < math.inf:
            self._timer = asyncio.get_running_loop().call_later(
                max(0.0, decision.decide_at_s - now_s), self._advance
            )

    def _grant(self) -> int:
        """Give the free places to those who wait for the live weights. Returns how many."""
        count = 0
        while len(self._running) < self._policy.batch_limit_count:
            claim = self._fair.take((self._live,))
            if claim is None:
                break
            self._lines[claim.weights.digest].remove(claim)
            assert claim.granted is not None
            if claim.granted.done():  # its caller may just have been cancelled
                self._fair.end(claim)
                continue
            claim.granted.set_result(None)
            claim.has_moved = not claim.must_move
            claim.rank = self._rank(claim)
            self._running.add(claim)
            self._empty.clear()
            count += 1
        return count

    def _rank(self, claim: Claim) -> int:
        """The order of the places, but that each priority passes a batch of those below it.

        So nobody is passed without end within the engine, either.
        """
        self._grant_count += 1
        return self._grant_count + claim.priority * self._policy.batch_limit_count

    async def _begin_turn(self, digest: str) -> None:
        """Send away who runs, switch, let in who waits."""
        try:
            self._send_away()
            await self._empty.wait()
            began_s = self._clock()
            if self._live is not None:
                self._left_s[self._live] = began_s
                if (line := self._lines.get(self._live)) is not None:
                    line.sum = None
            claim = next(iter(self._lines.get(digest, _Line()).claims), None)
            if claim is not None:  # else everyone who waited has gone meanwhile
                await self._make_live(claim.weights)
                self._note_switch(digest, began_s)
        except Exception as error:
            self._refuse(digest, error)
        finally:
            self._switch = None
            self._advance()

    def _send_away(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for claim in self._running:
            claim.is_sent_away = True
            if claim.slice_end is not None:
                claim.slice_end.reschedule(now_s)

    def _note_switch(self, digest: str, began_s: float) -> None:
        self._live = digest
        self._since_s = self._clock()
        self._paid_s = max(LEAST_COST_S, self._since_s - began_s)
        self._cost_s[digest] = self._typical_cost_s = self._paid_s
        self._peak_weight, self._peak_token_count = 0.0, 0
        self._draining_since_s = None

    def _refuse(self, digest: str, error: Exception) -> None:
        for claim in self._lines.pop(digest, _Line()).claims:
            self._fair.remove(claim)
            if claim.granted is not None and not claim.granted.done():
                claim.granted.set_exception(error)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # What the policy is told

    def _slice(self) -> Slice:
        token_count = _total(self._running)
        self._peak_token_count = max(self._peak_token_count, token_count)
        kept_count = sum([line.token_count for line in self._lines.values()])
        has_room = kept_count + token_count + self._peak_token_count <= self._room_token_count
        again_s = 0.0 if has_room else self._pace.prompt_token_s
        live = slice_of(
            self._live,
            [
                Running(one.token_count * again_s, one.priority, one.preemptible and one.has_moved)
                for one in self._running
            ],
            self._policy,
            since_s=self._since_s,
            switch_cost_s=self._paid_s,
            peak_weight=self._peak_weight,
            draining_since_s=self._draining_since_s,
        )
        self._peak_weight = live.peak_weight
        return live

    def _queues(self) -> list[Queue]:
        for digest in [one for one, line in self._lines.items() if not line.claims]:
            del self._lines[digest]
        return [line.sum or self._sum_up(digest, line) for digest, line in self._lines.items()]

    def _sum_up(self, digest: str, line: _Line) -> Queue:
        line.sum = line.waiting.sum_up(
            digest,
            self._policy,
            switch_cost_s=self._cost_s.get(digest, self._typical_cost_s),
            left_s=self._left_s.get(digest, -math.inf),
        )
        return line.sum


def _total(claims: Iterable[Claim]) -> int:
    return sum([one.token_count for one in claims])
