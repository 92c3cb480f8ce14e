"""What is in memory: built once, evicted by least recent use, never while leased."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merge_on_load.errors import MergeError
from model_pool.engine import Weights
from model_pool.errors import SpecialistUnloadable
from model_pool.placement import Candidate, Resident, choose_evictions, choose_worker
from model_pool.residency import Residency


class Shelf:
    """Stands in for an engine where only loading matters: it remembers what it was told."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        self.events: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken: set[str] = set()

    def size_bytes(self, weights: Weights) -> int:
        return 10

    async def load(self, weights: Weights) -> None:
        await self.gate.wait()
        if weights.model in self.broken:
            raise MergeError("altered")
        self.held.add(weights.model)
        self.events.append(f"+{weights.model}")

    async def unload(self, model: str) -> None:
        self.held.remove(model)
        self.events.append(f"-{model}")


def weights(model: str) -> Weights:
    return Weights(model, f"digest of {model}")


def residency(shelf: Shelf, budget_bytes: int = 20) -> Residency:
    ticks = itertools.count()
    return Residency(
        shelf, budget_bytes=budget_bytes, clock=lambda: next(ticks), on_change=lambda: None
    )


async def test_the_least_recently_used_leaves_first() -> None:
    shelf = Shelf()
    rooms = residency(shelf)
    for model in ("a", "b", "a", "c"):
        async with rooms.hold(weights(model)):
            pass

    assert shelf.events == ["+a", "+b", "-b", "+c"]


async def test_many_who_want_the_same_build_it_once() -> None:
    shelf = Shelf()
    rooms = residency(shelf)
    shelf.gate.clear()

    async def use() -> None:
        async with rooms.hold(weights("a")):
            await asyncio.sleep(0)

    users = [asyncio.create_task(use()) for _ in range(20)]
    await asyncio.sleep(0)
    shelf.gate.set()
    await asyncio.gather(*users)

    assert shelf.events == ["+a"]


async def test_a_leased_model_stays_until_its_lease_ends() -> None:
    shelf = Shelf()
    rooms = residency(shelf)
    async with rooms.hold(weights("a")), rooms.hold(weights("b")):
        wanting = asyncio.create_task(_use(rooms, "c"))
        for _ in range(10):
            await asyncio.sleep(0)
        assert shelf.held == {"a", "b"}
    await wanting

    assert shelf.events[:2] == ["+a", "+b"]
    assert shelf.events[-1] == "+c"


async def test_a_cold_model_is_not_starved_by_a_busy_one() -> None:
    shelf = Shelf()
    rooms = residency(shelf, budget_bytes=10)
    async with rooms.hold(weights("a")):
        cold = asyncio.create_task(_use(rooms, "b"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        late = asyncio.create_task(_use(rooms, "a"))  # comes after b: waits for it
        for _ in range(10):
            await asyncio.sleep(0)
        assert not late.done()
    await asyncio.gather(cold, late)

    assert shelf.events == ["+a", "-a", "+b", "-b", "+a"]


async def test_a_broken_model_fails_its_callers_and_nobody_else() -> None:
    shelf = Shelf()
    shelf.broken.add("x")
    rooms = residency(shelf)
    async with rooms.hold(weights("a")):
        outcomes = await asyncio.gather(
            *(_use(rooms, "x") for _ in range(3)), return_exceptions=True
        )
        assert all(isinstance(outcome, SpecialistUnloadable) for outcome in outcomes)
        assert shelf.held == {"a"}
    shelf.broken.clear()
    await _use(rooms, "x")


async def test_a_caller_who_leaves_does_not_stop_the_build() -> None:
    shelf = Shelf()
    shelf.gate.clear()
    rooms = residency(shelf)
    leaver = asyncio.create_task(_use(rooms, "a"))
    stayer = asyncio.create_task(_use(rooms, "a"))
    await asyncio.sleep(0)
    leaver.cancel()
    await asyncio.sleep(0)
    shelf.gate.set()
    await stayer

    assert leaver.cancelled()
    assert shelf.events == ["+a"]


async def test_what_can_never_fit_is_refused() -> None:
    with pytest.raises(SpecialistUnloadable, match="budget"):
        await _use(residency(Shelf(), budget_bytes=9), "a")


async def _use(rooms: Residency, model: str) -> None:
    async with rooms.hold(weights(model)):
        await asyncio.sleep(0)


residents = st.lists(
    st.builds(
        Resident,
        model=st.uuids().map(str),
        size_bytes=st.integers(1, 50),
        lease_count=st.integers(0, 3),
        last_used=st.floats(0, 100),
    ),
    max_size=12,
    unique_by=lambda one: one.model,
)


@given(residents, st.integers(1, 200), st.integers(1, 300))
def test_evictions_make_room_and_spare_the_leased(
    held: list[Resident], needed: int, budget: int
) -> None:
    victims = choose_evictions(held, needed, budget)
    if needed > budget:
        assert victims is None
        return
    assert victims is not None
    by_name = {one.model: one for one in held}
    kept = [one for one in held if one.model not in victims]
    assert sum(one.size_bytes for one in kept) + needed <= budget
    if any(by_name[name].lease_count for name in victims):
        assert all(one.lease_count for one in kept), "an idle model stayed, a leased one went"


def candidate(worker: str, busy: int, *loaded: str) -> Candidate:
    return Candidate(worker, frozenset(loaded), busy, 4)


def test_the_worker_that_holds_the_weights_is_preferred() -> None:
    workers = [candidate("a", 0), candidate("b", 3, "sql")]
    assert choose_worker(workers, "sql") == "b"
    assert choose_worker(workers, "math") == "a"


def test_a_full_worker_is_passed_over_and_all_full_is_none() -> None:
    assert choose_worker([candidate("a", 4, "sql"), candidate("b", 1)], "sql") == "b"
    assert choose_worker([candidate("a", 4, "sql")], "sql") is None
    assert choose_worker([], "sql") is None


def test_a_worker_that_does_not_serve_the_model_is_passed_over() -> None:
    server = Candidate("a", frozenset({"sql"}), 0, 4, serves=frozenset({"sql"}))
    assert choose_worker([server, candidate("b", 3)], "sql") == "a"
    assert choose_worker([server, candidate("b", 3)], "math") == "b"
    assert choose_worker([server], "math") is None
