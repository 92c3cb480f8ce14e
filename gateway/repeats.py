"""A request that is asked again with its own id is the same request: it runs, and costs, once."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from functools import partial

from deltafleet.v1 import inference_pb2
from gateway.caller import Call
from gateway.errors import RequestIdReused
from gateway.shared_repeats import Alone, Begin, First
from model_pool.call import time_left_s, within
from model_pool.errors import DeadlineExceeded

Event = inference_pb2.StreamGenerateResponse
During = Callable[[AsyncGenerator[Event, None]], AsyncGenerator[Event, None]]
# What the first request of an id may be doing.
REPEATED = ("running", "answered", "running_elsewhere", "answered_elsewhere")
Key = tuple[str, str]  # a caller's name, and the id that it gave


class Repeats:
    """Requests with ids of their callers' own: those that run, and the answers of late.

    A second one joins the first, or hears its answer again. What failed is forgotten, so that
    asking again tries again. The deadline of the first holds for all that join it; it goes on for
    as long as anybody listens.

    keep_s: how long an answer is remembered. most_bytes: of all answers; the oldest leave first.
    first: where a request goes that is the first of its name here.
    on_repeat: told "running" or "answered" for each second request. clock: seconds.
    """

    def __init__(
        self,
        keep_s: float,
        most_bytes: int,
        *,
        first: First | None = None,
        on_repeat: Callable[[str], None] = lambda state: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keep_s = keep_s
        self._most_bytes = most_bytes
        self._first = first or Alone()
        self._on_repeat = on_repeat
        self._clock = clock
        self._running: dict[Key, _Run] = {}
        self._answered: OrderedDict[Key, _Run] = OrderedDict()
        self._bytes = 0

    async def stream(
        self,
        request: inference_pb2.GenerateRequest,
        call: Call,
        begin: Begin,
        during: During = lambda events: events,
    ) -> AsyncGenerator[Event, None]:
        """The request's events; begin: what makes them, where it is the first of its id.

        during: keeps what the request needs, also while it has yet to wait for others.
        Raises RequestIdReused where another request had the id, and what the first one raised.
        """
        key, digest = (call.caller.name, call.request_id), digest_of(request)
        while (run := self._find(key)) is not None and run.is_given_up:
            await run.end()
        is_repeat = run is not None
        if run is None:
            run = self._running[key] = _Run(digest)
            events = self._first.stream(key, digest, begin)
            run.start(during(events), partial(self._ended, key, run))
        elif run.digest != digest:
            raise RequestIdReused(
                f"another request had the id {call.request_id}", request_id=call.request_id
            )
        else:
            self._on_repeat(REPEATED[run.is_answered])
        async with contextlib.aclosing(run.listen()) as events:
            async for event in events:
                yield _marked(event) if is_repeat else event

    def _find(self, key: Key) -> _Run | None:
        self._forget_old()
        return self._running.get(key) or self._answered.get(key)

    def _ended(self, key: Key, run: _Run) -> None:
        del self._running[key]
        if run.is_answered:
            run.kept_until_s = self._clock() + self._keep_s
            self._answered[key] = run
            self._bytes += run.size_bytes
            self._forget_old()

    def _forget_old(self) -> None:
        now_s = self._clock()
        while self._answered:
            oldest = next(iter(self._answered.values()))
            if oldest.kept_until_s > now_s and self._bytes <= self._most_bytes:
                return
            self._answered.popitem(last=False)
            self._bytes -= oldest.size_bytes


class _Run:
    """One request that runs, or has ended, and what came of it so far."""

    def __init__(self, digest: bytes) -> None:
        self.digest = digest
        self.kept_until_s = 0.0
        self.size_bytes = 0
        self._events: list[Event] = []
        self._error: BaseException | None = None
        self._more = asyncio.Event()
        self._listener_count = 0
        self._is_whole = False
        self._was_given_up = False
        self._has_ended = False
        self._task: asyncio.Task[None] | None = None

    @property
    def is_given_up(self) -> bool:
        """Nobody listens any more, and it is about to end."""
        return self._was_given_up and not self._has_ended

    @property
    def is_answered(self) -> bool:
        """It ended, and well."""
        return self._has_ended and self._error is None

    def start(self, events: AsyncGenerator[Event, None], on_end: Callable[[], None]) -> None:
        """In a task of its own: who began it may leave before the others."""
        self._task = asyncio.create_task(self._follow(events, on_end), name="named request")

    async def _follow(
        self, events: AsyncGenerator[Event, None], on_end: Callable[[], None]
    ) -> None:
        try:
            async with within(time_left_s()), contextlib.aclosing(events):
                async for event in events:
                    self._events.append(event)
                    self.size_bytes += event.ByteSize()
                    self._is_whole |= event.HasField("summary")
                    self._tell()
        except BaseException as error:
            is_stopped = isinstance(error, asyncio.CancelledError | DeadlineExceeded)
            # A whole answer is in the ledger: whatever stops what is left to do after it, it is
            # not forgotten.
            if not (self._is_whole and is_stopped):
                self._error = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._has_ended = True
            on_end()
            self._tell()

    def _tell(self) -> None:
        more, self._more = self._more, asyncio.Event()
        more.set()

    async def listen(self) -> AsyncGenerator[Event, None]:
        """All events from the first on. Where the last listener leaves, the run is cancelled."""
        self._listener_count += 1
        try:
            heard_count = 0
            while True:
                more = self._more
                for event in self._events[heard_count:]:
                    heard_count += 1
                    yield event
                if heard_count < len(self._events):
                    continue
                if self._has_ended:
                    break
                await more.wait()
            if self._error is not None:
                raise self._error
        finally:
            self._listener_count -= 1
            await self._end_unheard()

    async def _end_unheard(self) -> None:
        """Its place is free, and its row written, before the last one's call has ended."""
        if self._task is None or self._listener_count or self._has_ended:
            return
        self._was_given_up = True
        self._task.cancel()
        await self.end()

    async def end(self) -> None:
        """Return when it has ended, and been forgotten or remembered."""
        if self._task is not None:
            await asyncio.wait([self._task])


def digest_of(request: inference_pb2.GenerateRequest) -> bytes:
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()


def _marked(event: Event) -> Event:
    if not event.HasField("summary"):
        return event
    marked = Event()
    marked.CopyFrom(event)
    marked.summary.is_repeat = True
    return marked
