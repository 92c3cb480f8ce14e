"""A request that is asked again of another gateway is the same request, too.

Before it runs, its name (its caller's, and the id that it gave) is claimed where all gateways look,
and is held for as long as it runs. Who meets a claimed name waits for the answer. While the store
is away, nobody waits for it, and each gateway knows its own names alone (`repeats.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Protocol, TypeVar

from deltafleet.v1 import inference_pb2
from gateway.errors import AnswerNotKept, RequestIdReused
from gateway.limits.counters import CountersAway
from gateway.whole_answer import WholeAnswer, to_events
from model_pool.call import new_uuid, to_its_end

Event = inference_pb2.StreamGenerateResponse
Seal = Callable[[], Awaitable[None]]
# What runs a request; it awaits what it is given before the row of a whole answer is written.
Begin = Callable[[Seal], AsyncGenerator[Event, None]]
Result = TypeVar("Result")

# Nobody is told when another gateway's request ends. A script takes Redis some 20 us.
FIRST_PAUSE_S, LONGEST_PAUSE_S, PAUSE_GROWTH = 0.01, 0.25, 1.5
# An answer is kept so long at least, so that those hear it who wait for it now.
LEAST_KEEP_S = 20 * LONGEST_PAUSE_S
LARGEST_ANSWER_BYTES = 2**20


class State(Enum):
    """What a name is. LOST: its gateway died while it wrote the row, so that nobody knows."""

    OURS = "ours"
    RUNNING = "running"
    ANSWERED = "answered"
    REUSED = "reused"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Found:
    """answer: a GenerateResponse, where it is answered and was not too large to keep."""

    state: State
    answer: bytes | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """A name that a request wants or holds. owner: unique. turn: of what is said of it."""

    caller: str
    request_id: str
    digest: bytes
    owner: str = field(default_factory=new_uuid)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class SharedNames(Protocol):
    """Each call is one step: nobody else's comes between its parts. All raise CountersAway."""

    async def claim(self, claim: Claim) -> Found:
        """Take the name, if nobody has it. The claim holds for a lease."""
        ...

    async def renew(self, claim: Claim) -> None:
        """Hold it for another lease; take it again where it was lost and nobody has it."""
        ...

    async def seal(self, claim: Claim) -> None:
        """From now on nobody else takes it, also where it is renewed no more."""
        ...

    async def keep(self, claim: Claim, answer: bytes | None) -> None:
        """It is answered; None: too large an answer to keep."""
        ...

    async def release(self, claim: Claim) -> None:
        """Others may take it."""
        ...


class Circuit(Protocol):
    """Whether the store is there."""

    @property
    def is_up(self) -> bool:
        """Whether it answers, as far as is known."""
        ...

    def fall(self, error: CountersAway) -> None:
        """It did not."""
        ...


class First(Protocol):
    """Where a request goes that is the first of its name in this gateway."""

    def stream(
        self, key: tuple[str, str], digest: bytes, begin: Begin
    ) -> AsyncGenerator[Event, None]:
        """Its events, wherever they come from."""
        ...


class Alone:
    """There are no other gateways to ask."""

    def stream(
        self, key: tuple[str, str], digest: bytes, begin: Begin
    ) -> AsyncGenerator[Event, None]:
        """See First."""
        return begin(seal_nothing)


class SharedRepeats:
    """See First. `renew` is to be called several times in a lease.

    on_repeat: told "running_elsewhere" or "answered_elsewhere". on_alone: called for each request
    whose name could not be claimed, since the store is away.
    """

    def __init__(
        self,
        names: SharedNames,
        circuit: Circuit,
        *,
        on_repeat: Callable[[str], None] = lambda state: None,
        on_alone: Callable[[], None] = lambda: None,
        largest_answer_bytes: int = LARGEST_ANSWER_BYTES,
    ) -> None:
        self._names = names
        self._circuit = circuit
        self._on_repeat = on_repeat
        self._on_alone = on_alone
        self._largest_answer_bytes = largest_answer_bytes
        self._held: set[Claim] = set()

    async def stream(
        self, key: tuple[str, str], digest: bytes, begin: Begin
    ) -> AsyncGenerator[Event, None]:
        """See First. Raises RequestIdReused, AnswerNotKept."""
        claim = Claim(*key, digest)
        answer = await self._claim(claim)
        if answer is not None:
            for event in to_events(answer):
                yield event
            return
        async with contextlib.aclosing(self._run(claim, begin)) as events:
            async for event in events:
                yield event

    async def renew(self) -> None:
        """Say that what runs here still does. Raises CountersAway."""
        for claim in list(self._held):
            async with claim.turn:
                if claim in self._held:
                    await self._names.renew(claim)

    async def _claim(self, claim: Claim) -> inference_pb2.GenerateResponse | None:
        """Another gateway's answer, waited for; None: it is to run here."""
        pause_s, has_waited = FIRST_PAUSE_S, False
        while True:
            found = await self._look(claim)
            if found is None:
                self._on_alone()
                return None
            if found.state is State.OURS:
                return None
            if found.state is not State.RUNNING:
                answer = _to_answer(found, claim.request_id)
                if not has_waited:
                    self._on_repeat("answered_elsewhere")
                return answer
            if not has_waited:
                self._on_repeat("running_elsewhere")
            has_waited = True
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, pause_s * PAUSE_GROWTH)

    async def _look(self, claim: Claim) -> Found | None:
        """Claim it. Who is cancelled meanwhile leaves no claim behind. None: the store is away."""
        looking = asyncio.create_task(self._try(lambda: self._names.claim(claim)))
        try:
            return await asyncio.shield(looking)
        except asyncio.CancelledError:
            await to_its_end(self._take_back(looking, claim))
            raise

    async def _take_back(self, looking: asyncio.Task[Found | None], claim: Claim) -> None:
        found = await looking
        if found is None or found.state is State.OURS:
            await self._release(claim)

    async def _run(self, claim: Claim, begin: Begin) -> AsyncGenerator[Event, None]:
        self._held.add(claim)
        answer, is_kept = WholeAnswer(), False
        try:
            async with contextlib.aclosing(begin(partial(self._seal, claim))) as events:
                async for event in events:
                    answer.add(event)
                    if event.HasField("summary"):
                        # Its row is written: whoever leaves now, the name must not be forgotten.
                        await to_its_end(self._keep(claim, answer.response()))
                        is_kept = True
                    yield event
        finally:
            self._held.discard(claim)
            if not is_kept:
                await to_its_end(self._release(claim))

    async def _seal(self, claim: Claim) -> None:
        await self._try(lambda: self._names.seal(claim))

    async def _keep(self, claim: Claim, response: inference_pb2.GenerateResponse) -> None:
        kept = None
        if response.ByteSize() <= self._largest_answer_bytes:
            kept = response.SerializeToString()
        self._held.discard(claim)
        async with claim.turn:
            await self._try(lambda: self._names.keep(claim, kept))

    async def _release(self, claim: Claim) -> None:
        # After a renewal that is under way: one that came later would claim it again.
        async with claim.turn:
            await self._try(lambda: self._names.release(claim))

    async def _try(self, ask: Callable[[], Awaitable[Result]]) -> Result | None:
        """None: the store is away."""
        if not self._circuit.is_up:
            return None
        try:
            return await ask()
        except CountersAway as error:
            self._circuit.fall(error)
            return None


async def seal_nothing() -> None:
    """Nobody else would run it."""


def _to_answer(found: Found, request_id: str) -> inference_pb2.GenerateResponse:
    if found.state is State.REUSED:
        raise RequestIdReused(f"another request had the id {request_id}", request_id=request_id)
    if found.answer is None:
        raise AnswerNotKept(
            f"{request_id} was answered by another gateway, and its answer is not kept; ask with "
            "another id to run it again",
            request_id=request_id,
        )
    answer = inference_pb2.GenerateResponse.FromString(found.answer)
    answer.summary.is_repeat = True
    return answer
