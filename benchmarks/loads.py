"""Requests sent to an engine, at a rate or by clients that wait, and what became of them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any, Protocol

from benchmarks.traffic import Request, quantile
from model_pool.engine import Job, Message, Role, Sampling
from model_pool.vllm.engine import VllmEngine

SAMPLE_S = 0.05


@dataclass(slots=True)
class Served:
    """One request; seconds since the beginning of the run, inf for what did not come yet."""

    arrival_s: float
    first_s: float = math.inf
    end_s: float = math.inf
    token_count: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A window of a run. Tokens are those of answers that ended in it; queueing is from arrival to
    the first text, for requests that came in it, up to its end for those that still waited.
    switching_share: of all time. running_count: on average.
    """

    token_rate: float
    request_rate: float
    queueing_p50_s: float
    queueing_p99_s: float
    switch_rate: float = 0.0
    switching_share: float = 0.0
    running_count: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As a mapping."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class State:
    """How often other weights were made live so far, the seconds that took, and what runs now."""

    switch_count: int
    switching_s: float
    running_count: int


class Answerer(Protocol):
    """Whoever answers: sets the request's times and its tokens."""

    async def answer(self, request: Request, served: Served, now_s: Callable[[], float]) -> None:
        """Return when it is answered."""
        ...

    def state(self) -> State:
        """As it is now."""
        ...


class EngineAnswerer:
    """Our engine. model: who answers everything; None: the model that each request names."""

    def __init__(self, engine: VllmEngine, model: str | None = None) -> None:
        self._engine = engine
        self._model = model
        self._numbers = count()

    async def answer(self, request: Request, served: Served, now_s: Callable[[], float]) -> None:
        """Raises what the engine raises."""
        job = Job(
            f"load-{next(self._numbers)}",
            self._model or request.model,
            (Message(Role.USER, request.prompt),),
            Sampling(request.token_count),
        )
        async with contextlib.aclosing(self._engine.generate(job)) as pieces:
            async for piece in pieces:
                served.first_s = min(served.first_s, now_s())
                served.token_count = piece.usage.output_token_count
        served.end_s = now_s()

    def state(self) -> State:
        """What the engine reports."""
        report = self._engine.report()
        return State(report.switch_count, report.spent.switch_s, report.running_count)


@dataclass(frozen=True, slots=True)
class Window:
    """Seconds before what counts, and of what counts."""

    warm_up_s: float
    length_s: float

    @property
    def end_s(self) -> float:
        return self.warm_up_s + self.length_s


async def open_loop(answerer: Answerer, requests: Iterator[Request], window: Window) -> Outcome:
    """Send each request when it arrives, whatever became of those before."""

    async def send(run: _Run) -> None:
        for request in requests:
            if request.arrival_s >= window.end_s:
                return
            if (wait_s := request.arrival_s - run.now_s()) > 0:
                await asyncio.sleep(wait_s)
            run.tasks.add(asyncio.create_task(run.serve(request, request.arrival_s)))

    return await _run(answerer, [send], window)


async def closed_loop(
    answerer: Answerer, requests: Iterator[Request], window: Window, client_count: int
) -> Outcome:
    """So many clients, each sending the next request when it has its answer."""

    async def client(run: _Run) -> None:
        while True:
            await run.serve(next(requests), run.now_s())

    return await _run(answerer, [client] * client_count, window)


class _Run:
    def __init__(self, answerer: Answerer) -> None:
        self._answerer = answerer
        self._began_s = time.perf_counter()
        self.served: list[Served] = []
        self.tasks: set[asyncio.Task[None]] = set()

    def now_s(self) -> float:
        return time.perf_counter() - self._began_s

    async def serve(self, request: Request, arrival_s: float) -> None:
        served = Served(arrival_s)
        self.served.append(served)
        await self._answerer.answer(request, served, self.now_s)


Sender = Callable[[_Run], Awaitable[None]]


async def _run(answerer: Answerer, senders: list[Sender], window: Window) -> Outcome:
    """Raises what a request raised. What is under way at the end is cancelled."""
    run = _Run(answerer)
    async with _ended(run):
        for send in senders:
            run.tasks.add(asyncio.ensure_future(send(run)))
        await asyncio.sleep(window.warm_up_s)
        states = [answerer.state()]
        while run.now_s() < window.end_s:
            await asyncio.sleep(min(SAMPLE_S, window.end_s - run.now_s()))
            states.append(answerer.state())
    return _outcome(run.served, window, states)


@contextlib.asynccontextmanager
async def _ended(run: _Run) -> AsyncIterator[None]:
    yield
    failures = [one.exception() for one in run.tasks if one.done() and not one.cancelled()]
    for task in run.tasks:
        task.cancel()
    await asyncio.gather(*run.tasks, return_exceptions=True)
    for failure in failures:
        if failure is not None:
            raise failure


def _outcome(served: list[Served], window: Window, states: list[State]) -> Outcome:
    first, last = states[0], states[-1]
    ended = [one for one in served if window.warm_up_s <= one.end_s < window.end_s]
    queueing = [
        min(one.first_s, window.end_s) - one.arrival_s
        for one in served
        if window.warm_up_s <= one.arrival_s < window.end_s
    ]
    return Outcome(
        token_rate=sum(one.token_count for one in ended) / window.length_s,
        request_rate=len(ended) / window.length_s,
        queueing_p50_s=quantile(queueing, 0.5),
        queueing_p99_s=quantile(queueing, 0.99),
        switch_rate=(last.switch_count - first.switch_count) / window.length_s,
        switching_share=(last.switching_s - first.switching_s) / window.length_s,
        running_count=statistics.mean(one.running_count for one in states),
    )
