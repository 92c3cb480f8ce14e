"""Part "sharing": twenty specialists on one engine, against one model alone and against reloads."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from benchmarks import models
from benchmarks.engines import CONTEXT_TOKEN_COUNT, OPTIONS, RUNNING_COUNT, our_vllm
from benchmarks.loads import EngineAnswerer, Outcome, Window, closed_loop, open_loop
from benchmarks.models import Models
from benchmarks.peers import OnDemand
from benchmarks.timing import say
from benchmarks.traffic import Traffic
from merge_on_load import Delta
from model_pool.engine import Weights
from model_pool.switching import Policy
from model_pool.vllm.engine import VllmEngine
from model_pool.vllm.process import VllmProcess

LOADS = (0.1, 0.25, 0.4, 0.6, 0.8, 1.0)
WAITS_S = (1.0, 10.0)
CLIENT_COUNT = 64
WINDOW = Window(warm_up_s=5.0, length_s=25.0)
STARTING_ANEW = Window(warm_up_s=0.0, length_s=240.0)
RELOADING = Window(warm_up_s=5.0, length_s=55.0)
MAX_QUEUED_COUNT = 100_000
SEED = 5

Row = dict[str, Any]


class Lab:
    """One vLLM, which an engine of ours after the other uses: alike but for their models and their
    policy, each with an empty prefix cache.
    """

    def __init__(self, process: VllmProcess, twenty: Models, traffic: Traffic) -> None:
        self._process = process
        self._twenty = twenty
        self._traffic = traffic
        self._names = traffic.names

    async def closed(self, max_wait_s: float | None, client_count: int) -> Outcome:
        """max_wait_s: of the shared engine; None: one model alone answers everything."""
        async with self._answerer(max_wait_s) as answerer:
            return await closed_loop(answerer, self._traffic.requests(SEED), WINDOW, client_count)

    async def open(self, max_wait_s: float | None, rate: float) -> Outcome:
        """rate: requests per second. The same arrivals each time."""
        async with self._answerer(max_wait_s) as answerer:
            return await open_loop(answerer, self._traffic.requests(SEED, rate), WINDOW)

    @asynccontextmanager
    async def _answerer(self, max_wait_s: float | None) -> AsyncIterator[EngineAnswerer]:
        is_alone = max_wait_s is None
        policy = Policy() if max_wait_s is None else Policy(max_wait_s=max_wait_s)
        names = self._names[:1] if is_alone else self._names
        async with self._engine(policy, names) as engine:
            yield EngineAnswerer(engine, names[0] if is_alone else None)

    @asynccontextmanager
    async def _engine(self, policy: Policy, names: Sequence[str]) -> AsyncIterator[VllmEngine]:
        async def start_process(*_: Any, **__: Any) -> Any:
            return _Kept(self._process)

        engine = VllmEngine(
            self._twenty.base,
            OPTIONS,
            policy=policy,
            max_running_count=RUNNING_COUNT,
            max_queued_count=MAX_QUEUED_COUNT,
            context_token_count=CONTEXT_TOKEN_COUNT,
            start_process=start_process,
        )
        await engine.start()
        for name in names:
            path = self._twenty.deltas[name]
            await engine.load(Weights(name, Delta.open(path).digest, path))
        await self._process._llm.reset_prefix_cache()
        yield engine
        await engine.drain()
        await engine.stop()


class _Kept:
    """A process that others go on to use: stopping it does nothing."""

    def __init__(self, process: VllmProcess) -> None:
        self._process = process

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process, name)

    async def stop(self) -> None:
        """Leave it running."""


async def measure() -> dict[str, Any]:
    """All figures of this part."""
    twenty = await asyncio.to_thread(models.twenty)
    traffic = Traffic(twenty)
    figures: dict[str, Any] = {
        "window_s": WINDOW.length_s, "warm_up_s": WINDOW.warm_up_s, "client_count": CLIENT_COUNT,
        "running_count": RUNNING_COUNT, "model_count": len(twenty.deltas),
    }  # fmt: skip
    async with our_vllm(twenty.base, thread_count=1) as process:
        lab = Lab(process, twenty, traffic)
        alone = await lab.closed(None, RUNNING_COUNT)
        say(f"capacity: {alone.request_rate:.1f} requests/s, {alone.token_rate:.0f} tokens/s")
        figures["capacity"] = alone.to_json()
        figures["loads"] = await _loads(lab, alone.request_rate)
        figures["closed"] = await _closed(lab)
    figures["peers"] = [
        await _peer(twenty, traffic, STARTING_ANEW, starts_anew=True),
        await _peer(twenty, traffic, RELOADING, starts_anew=False),
    ]
    async with our_vllm(twenty.base, thread_count=1) as process:
        figures["closed"] += await _closed(Lab(process, twenty, traffic))
    return figures


async def _loads(lab: Lab, capacity: float) -> list[Row]:
    """Open loop: at each load one model alone, then the shared engine."""
    rows = []
    for load in LOADS:
        for max_wait_s in (None, *WAITS_S):
            found = await lab.open(max_wait_s, load * capacity)
            rows.append(_row(found, max_wait_s, load=load))
    return rows


async def _closed(lab: Lab) -> list[Row]:
    """Closed loop: more clients than one batch holds."""
    return [
        _row(await lab.closed(max_wait_s, CLIENT_COUNT), max_wait_s)
        for max_wait_s in (None, *WAITS_S)
    ]


def _row(found: Outcome, max_wait_s: float | None, load: float = math.nan) -> Row:
    who = "one model" if max_wait_s is None else f"shared, max_wait_s {max_wait_s:.0f}"
    at = f"{CLIENT_COUNT} clients" if math.isnan(load) else f"load {load:.0%}"
    say(
        f"{at}, {who}: {found.token_rate:.0f} tokens/s, queueing p50 {found.queueing_p50_s:.2f} "
        f"p99 {found.queueing_p99_s:.2f} s, {found.switch_rate:.1f} switches/s"
    )
    row: Row = {"max_wait_s": max_wait_s, **found.to_json()}
    return row if math.isnan(load) else {"load": load, **row}


async def _peer(twenty: Models, traffic: Traffic, window: Window, *, starts_anew: bool) -> Row:
    """Reload on demand with the closed loop's clients."""
    checkpoints = {name: await asyncio.to_thread(twenty.merged, name) for name in traffic.names}
    peer = OnDemand(checkpoints, starts_anew=starts_anew)
    async with peer.serving():
        found = await closed_loop(peer, traffic.requests(SEED), window, CLIENT_COUNT)
    say(
        f"{'start anew' if starts_anew else 'reload_weights'}: {found.token_rate:.0f} tokens/s, "
        f"{len(peer.changes_s)} changes"
    )
    return {
        "starts_anew": starts_anew,
        "window_s": window.length_s,
        "changes_s": peer.changes_s,
        **found.to_json(),
    }
