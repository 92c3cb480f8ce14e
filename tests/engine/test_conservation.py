"""Every second of an engine is somebody's: whatever comes, leaves, fails, loads or is switched."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import pytest
import pytest_asyncio
from engine.asking import Fleet, job
from engine.watching import ForwardWatch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from model_pool.engine import Usage, Weights
from model_pool.engine_time import Activity, EngineTime, Spent
from model_pool.errors import EngineFailed
from model_pool.switching import Policy
from model_pool.transformers_engine import TransformersEngine
from model_pool.turns import Claim, Turns
from model_pool.vllm.meter import Account, BusyMeter, Computed

campaign = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@dataclass(frozen=True)
class Ask:
    """A request. comes_after, leaves_after: half milliseconds; None: it stays to its end."""

    model: str
    prompt_length: int
    output_token_count: int
    leaves_after: int | None
    comes_after: int


def asks(models: Sequence[str]) -> st.SearchStrategy[list[Ask]]:
    turns = st.integers(0, 30)
    one = st.builds(
        Ask,
        model=st.sampled_from(models),
        prompt_length=st.integers(1, 20),
        output_token_count=st.integers(1, 12),
        leaves_after=st.none() | turns,
        comes_after=turns,
    )
    return st.lists(one, min_size=1, max_size=10)


async def pause(count: int) -> None:
    """So many half milliseconds; only who meets whom depends on it."""
    for _ in range(count):
        await asyncio.sleep(0.0005)


async def leaving(work: asyncio.Task[None], after: int | None) -> None:
    """Cancel it after so long; an engine's failure is as good an end as any."""
    if after is not None:
        await pause(after)
        work.cancel()
    await asyncio.wait([work])
    if not work.cancelled():
        with contextlib.suppress(EngineFailed):
            work.result()


def assert_whole(paid_s: float, spent: Spent) -> None:
    """Shares are all the computing; the rest is of one kind each."""
    assert paid_s == pytest.approx(spent.busy_s, rel=1e-9, abs=1e-9)
    idle_s = spent.elapsed_s - spent.busy_s - spent.switch_s - spent.load_s
    assert min(spent.busy_s, spent.switch_s, spent.load_s) >= 0
    assert idle_s >= -1e-9


# A real engine, whose steps are one kind or the other


@pytest.fixture(scope="module")
def watch() -> Iterator[ForwardWatch]:
    with ForwardWatch() as watching:
        yield watching


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def engine(fleet: Fleet, watch: ForwardWatch) -> AsyncIterator[TransformersEngine]:
    engine = TransformersEngine(fleet.base, thread_count=1, max_running_count=4)
    await engine.start()
    for name in ("base", "sql"):
        await engine.load(fleet.weights[name])
    yield engine
    await engine.stop()


@campaign
@given(plan=asks(["base", "sql"]), fails=st.booleans(), load_count=st.integers(0, 2))
async def test_a_real_engines_time_is_conserved(
    engine: TransformersEngine,
    fleet: Fleet,
    watch: ForwardWatch,
    plan: list[Ask],
    fails: bool,
    load_count: int,
) -> None:
    before, ends = engine.report().spent, list[Usage]()
    embeddings = load_file(fleet.variant / "model.safetensors")["model.embed_tokens.weight"]
    watch.break_passes_over(embeddings if fails else embeddings[:1])

    async def ask(one: Ask) -> None:
        asked = job(
            "x" * one.prompt_length, one.model, max_output_token_count=one.output_token_count
        )
        async with aclosing(engine.generate(asked, ends.append)) as stream:
            async for _ in stream:
                pass

    async def come(one: Ask) -> None:
        await pause(one.comes_after)
        await leaving(asyncio.create_task(ask(one)), one.leaves_after)

    loads = [engine.load(fleet.weights["chat"]) for _ in range(load_count)]
    await asyncio.gather(*map(come, plan), *loads)
    await engine.drain()
    watch.break_passes_over(embeddings[:1])
    # One more: whatever the step thread was in has ended before.
    await ask(Ask("base", 1, 2, None, 0))
    assert_whole(sum(one.busy_s for one in ends), engine.report().spent.since(before))


# Turns on one set of live weights, whose steps may be of both kinds


class Clock:
    """Goes on by itself, and by what is said to have taken time."""

    skew_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.skew_s


class Stage:
    """What VllmEngine does with its turns, its meter and its time; computing only takes time."""

    def __init__(self, steps_s: Iterator[float], fails_at: int) -> None:
        self.clock = Clock()
        self.time = EngineTime(self.clock)
        self.meter = BusyMeter(self.time)
        self.accounts: list[Account] = []
        self._steps_s = steps_s
        self._step_count = 0
        self._fails_at = fails_at
        self.turns = Turns(
            Policy(max_wait_s=0.0, amortisation=1.0, drain_s=0.0, batch_limit_count=3),
            self._make_live,
            clock=self.clock,
            pace=self.meter.pace,
        )

    async def answer(self, one: Ask) -> None:
        """Raises EngineFailed."""
        account, claim = Account(), Claim(Weights(one.model, one.model))
        self.accounts.append(account)
        left_count = one.output_token_count
        while left_count:
            async with self.turns.place(claim):
                computed = Computed(one.prompt_length, 0)
                self.meter.enter(account)
                try:
                    while left_count:
                        await self._step()
                        self.meter.note(account, computed)
                        asyncio.get_running_loop().call_soon(self.meter.settle)
                        await asyncio.sleep(0)
                        computed = Computed(0, 1)
                        left_count -= 1
                finally:
                    self.meter.leave(account, is_finished=not left_count)

    async def load(self, seconds: float) -> None:
        with self.time.within(Activity.LOADING):
            await pause(2)
            self.clock.skew_s += seconds
            await pause(2)

    async def _step(self) -> None:
        await asyncio.sleep(0)
        self._step_count += 1
        self.clock.skew_s += next(self._steps_s)
        if self._step_count == self._fails_at:
            raise EngineFailed("broken on purpose")

    async def _make_live(self, weights: Weights) -> None:
        assert not self.meter.running_count
        with self.time.within(Activity.SWITCHING):
            await asyncio.sleep(0)
            self.clock.skew_s += 0.001


def repeated(values: Sequence[float]) -> Iterator[float]:
    while True:
        yield from values


@campaign
@given(
    plan=asks(["a", "b", "c"]),
    steps_s=st.lists(st.floats(0, 0.005), min_size=1, max_size=5),
    fails_at=st.integers(0, 20),
    loads_s=st.lists(st.floats(0, 0.01), max_size=3),
)
async def test_a_switching_engines_time_is_conserved(
    plan: list[Ask], steps_s: list[float], fails_at: int, loads_s: list[float]
) -> None:
    stage = Stage(repeated(steps_s), fails_at)

    async def come(one: Ask) -> None:
        await pause(one.comes_after)
        await leaving(asyncio.create_task(stage.answer(one)), one.leaves_after)

    async with asyncio.timeout(60):
        await asyncio.gather(*map(come, plan), *map(stage.load, loads_s))

    spent, work = stage.time.spent(), stage.meter.work
    assert_whole(sum(one.busy_s for one in stage.accounts), spent)
    assert work.prefill_s + work.decode_s <= spent.busy_s + 1e-9
