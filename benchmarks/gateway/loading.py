"""Load: so many calls at once, the next as soon as one ends."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from benchmarks.gateway.grpc_load import Call
from benchmarks.gateway.pacing import Pacing

LARGEST_CONNECTION_COUNT = 8


class Connection(Protocol):
    """What load is sent through."""

    def start(self, message: bytes, call: Call, headers: bytes = b"") -> None:
        """Send one request."""

    def cancel(self, call: Call) -> None:
        """Abandon a call."""

    def close(self) -> None:
        """End the connection."""


class Subject(Protocol):
    """One that is measured. is_shared: whether one connection carries many calls."""

    name: str
    cpu_s: Callable[[], float]  # that its process took so far
    is_shared: bool

    async def connect(self, streams: bool) -> Connection:
        """A connection for calls of this kind."""
        ...

    def messages(self, streams: bool, token_count: int, pacing: Pacing) -> Sequence[bytes]:
        """Requests, to be sent in turns."""
        ...

    def is_text(self, streams: bool, message: bytes) -> bool:
        """Whether a message of an answer has some of its text."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What load asks for."""

    streams: bool
    token_count: int
    pacing: Pacing
    concurrency: int


@dataclass(slots=True)
class Sample:
    """What one run gave. latencies_s: of calls that ended inside; first_s: until the first text, of
    those that began inside."""

    seconds: float = 0.0
    cpu_s: float = 0.0
    client_cpu_s: float = 0.0
    failed_count: int = 0
    event_count: int = 0
    latencies_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.latencies_s) / self.seconds


async def load(
    subject: Subject,
    asked: Asked,
    *,
    seconds: float,
    warm_s: float = 0.3,
    spread_s: float = 0.0,
) -> Sample:
    """Closed loop. spread_s: over which the first calls begin, evenly; it is part of warm_s."""
    concurrency = asked.concurrency
    wanted = min(concurrency, LARGEST_CONNECTION_COUNT) if subject.is_shared else concurrency
    connections = [await subject.connect(asked.streams) for _ in range(wanted)]
    messages = subject.messages(asked.streams, asked.token_count, asked.pacing)
    slots = _Slots(subject, connections, messages, asked.streams)
    loop = asyncio.get_running_loop()
    for place in range(concurrency):
        loop.call_later(spread_s * place / concurrency, slots.begin, place)
    await asyncio.sleep(max(warm_s, spread_s))
    sample, cpu_s, own_s = slots.sample, subject.cpu_s(), time.process_time()
    began_s = slots.counts_from_s = time.perf_counter()
    sample.event_count = 0
    await asyncio.sleep(seconds)
    sample.seconds = time.perf_counter() - began_s
    sample.cpu_s, sample.client_cpu_s = subject.cpu_s() - cpu_s, time.process_time() - own_s
    event_count = sample.event_count
    slots.is_over = True
    for _ in range(100):
        if not slots.open_count:
            break
        await asyncio.sleep(0.05)
    sample.event_count = event_count
    for connection in connections:
        connection.close()
    await asyncio.sleep(0.05)
    return sample


class _Slots:
    """Callers that never rest. Callbacks, no tasks: they cost less."""

    def __init__(
        self,
        subject: Subject,
        connections: Sequence[Connection],
        messages: Sequence[bytes],
        streams: bool,
    ) -> None:
        self._subject = subject
        self._streams = streams
        self._connections = connections
        self._messages = itertools.cycle(messages)
        self.sample = Sample()
        self.counts_from_s = float("inf")
        self.is_over = False
        self.open_count = 0

    @property
    def is_counting(self) -> bool:
        """Between warming up and the end."""
        return not self.is_over and time.perf_counter() >= self.counts_from_s

    def begin(self, place: int) -> None:
        """One call of the caller at this place, and then the next."""
        if self.is_over:
            return
        sample, is_text = self.sample, partial(self._subject.is_text, self._streams)
        began_s = time.perf_counter()
        first_s: list[float] = []

        def heard(message: bytes) -> None:
            sample.event_count += 1
            if not first_s and is_text(message):
                first_s.append(time.perf_counter() - began_s)
                if self.is_counting and began_s >= self.counts_from_s:
                    sample.first_s.append(first_s[0])

        def ended(in_order: bool) -> None:
            self.open_count -= 1
            if not in_order or not first_s:
                sample.failed_count += 1
            elif self.is_counting:
                sample.latencies_s.append(time.perf_counter() - began_s)
            self.begin(place)

        self.open_count += 1
        connection = self._connections[place % len(self._connections)]
        connection.start(next(self._messages), Call(heard, ended))
