"""A worker's catalog, replaced while requests run."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from merge_on_load.errors import MergeError
from model_pool.catalog import Catalog, ModelFiles
from model_pool.engine import Weights
from model_pool.errors import ConfigRefused, UnknownModel
from model_pool.residency import Residency
from model_pool.served_models import ServedModels
from model_pool.setting_changes import changed_settings, needing_restart
from model_pool.settings import PoolSettings


def files(model: str, digest: str = "d", fault: str = "") -> ModelFiles:
    return ModelFiles(model, "int8", 1, 2, Weights(model, digest), fault=fault)


def settings(**pool: object) -> PoolSettings:
    sql = {"description": "d", "delta": "sql.delta", "examples": ["a"]}
    document = {"base": {"path": "base"}, "specialists": {"sql": sql}, "pool": pool}
    return PoolSettings.model_validate(document)


def test_a_new_fault_refuses_and_an_old_one_does_not() -> None:
    served = ServedModels(0, lambda model: None)
    served.catalog = Catalog([files("base"), files("old", fault="broken")])
    served.check(Catalog([files("base"), files("old", fault="broken"), files("new")]))
    with pytest.raises(ConfigRefused, match=r"specialists.new: lost"):
        served.check(Catalog([files("base"), files("new", fault="lost")]))
    with pytest.raises(ConfigRefused, match=r"specialists.old: worse"):
        served.check(Catalog([files("base"), files("old", fault="worse")]))


async def test_what_left_is_served_for_a_while_and_then_no_more() -> None:
    gone: asyncio.Queue[str] = asyncio.Queue()
    served = ServedModels(0.05, gone.put_nowait)
    served.replace(Catalog([files("base"), files("sql")]))
    first = served.digest
    served.replace(Catalog([files("base")]))
    assert served.weights("sql").digest == "d"
    assert served.digest != first
    lingering = served.digest

    assert await gone.get() == "sql"
    with pytest.raises(UnknownModel):
        served.weights("sql")
    assert served.digest not in (first, lingering)
    assert [one.model for one in served.models()] == ["base"]


async def test_what_comes_back_in_time_stays() -> None:
    gone: list[str] = []
    served = ServedModels(1000, gone.append)
    served.replace(Catalog([files("base"), files("sql")]))
    first = served.digest
    served.replace(Catalog([files("base")]))
    served.replace(Catalog([files("base"), files("sql")]))
    assert served.digest == first
    assert [one.model for one in served.models()] == ["base", "sql"]


class Shelf:
    """Stands in for an engine: it holds one version of each model, and remembers what it did."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}
        self.broken: set[str] = set()

    def size_bytes(self, weights: Weights) -> int:
        return 10

    async def load(self, weights: Weights) -> None:
        await asyncio.sleep(0)
        if weights.digest in self.broken:
            raise MergeError("altered")
        self.held[weights.model] = weights.digest

    async def unload(self, model: str) -> None:
        del self.held[model]


def rooms_of(shelf: Shelf, budget_bytes: int) -> Residency:
    ticks = itertools.count()
    return Residency(
        shelf, budget_bytes=budget_bytes, clock=lambda: next(ticks), on_change=lambda: None
    )


def residents(rooms: Residency) -> list[tuple[str, str, int]]:
    return [(one.model, weights.digest, one.lease_count) for weights, one in rooms.residents()]


async def test_changed_weights_are_built_beside_those_that_are_in_use() -> None:
    shelf = Shelf()
    rooms = rooms_of(shelf, 20)
    async with rooms.hold(Weights("a", "old")), rooms.hold(Weights("a", "new")):
        assert shelf.held == {"a": "new"}
        assert residents(rooms) == [("a", "new", 1), ("a", "old", 1)]
    assert residents(rooms) == [("a", "new", 0)], "the old ones leave with their last request"


async def test_changed_weights_wait_where_there_is_no_room_for_both() -> None:
    shelf = Shelf()
    rooms = rooms_of(shelf, 10)

    async def use_new() -> None:
        async with rooms.hold(Weights("a", "new")):
            pass

    async with rooms.hold(Weights("a", "old")):
        waiting = asyncio.create_task(use_new())
        for _ in range(10):
            await asyncio.sleep(0)
        assert shelf.held == {"a": "old"}
    await waiting
    assert shelf.held == {"a": "new"}


async def test_what_nobody_asks_for_any_more_goes_with_its_last_request() -> None:
    shelf = Shelf()
    rooms = rooms_of(shelf, 30)
    async with rooms.hold(Weights("a", "old")):
        retiring = asyncio.create_task(rooms.retire("a"))
        for _ in range(10):
            await asyncio.sleep(0)
        assert shelf.held == {"a": "old"}
    await retiring
    assert not shelf.held
    assert not residents(rooms)
    await rooms.retire("a")  # nothing there: no fault
    async with rooms.hold(Weights("a", "old")):
        assert shelf.held == {"a": "old"}, "it may come back"


def test_places_that_differ_are_named_and_workers_by_their_names() -> None:
    one = settings(workers=[{"name": "a"}, {"name": "b", "address": "x:1"}])
    other = settings(workers=[{"name": "b", "address": "x:2"}, {"name": "a"}], max_queued_count=1)
    assert changed_settings(one, other) == ["pool.max_queued_count", "pool.workers.b.address"]
    assert changed_settings(one, one) == []


def test_a_pattern_stands_for_what_is_below_it_and_for_nothing_beside_it() -> None:
    places = ["pool.workers.a.name", "pool.workers", "pool.workers_more", "pool.d.x.models", "base"]
    live = ("pool.workers", "pool.d.*.models")
    assert needing_restart(places, live) == ["pool.workers_more", "base"]
