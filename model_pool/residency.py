"""Which weights an engine holds: built when first needed, evicted by least recent use.

A model is never evicted while a request runs on it. Where everything in memory is in use, the least
recently used model takes no new requests until its last one ends, so that a cold model's wait is
bounded by the requests that already run. Where a model's weights have changed, new requests wait
for the new ones, and what runs ends on those that it began with.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

from merge_on_load.errors import MergeError
from model_pool.engine import Engine, Weights
from model_pool.errors import SpecialistUnloadable
from model_pool.placement import Resident, choose_evictions


@dataclass(slots=True)
class _Entry:
    weights: Weights
    size_bytes: int
    last_used: float
    lease_count: int = 0
    is_leaving: bool = False

    def resident(self, name: str, last_used: float) -> Resident:
        return Resident(name, self.size_bytes, self.lease_count, last_used)


@dataclass(slots=True)
class _Load:
    """A build under way. waiter_count: callers who get a lease of it when it is done."""

    task: asyncio.Task[_Entry]
    waiter_count: int = 0


class Residency:
    """Leases of loaded weights within a memory budget.

    clock: seconds, for least recent use (wall time, so that it can be shown). on_change: called
    after every change of what `residents` says.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        budget_bytes: int,
        clock: Callable[[], float],
        on_change: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._budget_bytes = budget_bytes
        self._clock = clock
        self._on_change = on_change
        self._entries: dict[str, _Entry] = {}
        self._former: list[_Entry] = []  # replaced by other weights of the model, and still leased
        self._loads: dict[Weights, _Load] = {}
        self._turn = asyncio.Lock()  # one build at a time
        self._released = asyncio.Event()

    def residents(self) -> list[tuple[Weights, Resident]]:
        """What is in memory now."""
        return [
            (one.weights, one.resident(one.weights.model, one.last_used)) for one in self._held()
        ]

    def _held(self) -> list[_Entry]:
        return [*self._entries.values(), *self._former]

    @contextlib.asynccontextmanager
    async def hold(self, weights: Weights) -> AsyncIterator[None]:
        """Keep these weights in memory, building them first where needed.

        Raises SpecialistUnloadable where they cannot be built or do not fit the budget.
        """
        entry = await self._lease(weights)
        self._on_change()
        try:
            yield
        finally:
            self._release(entry)

    async def _lease(self, weights: Weights) -> _Entry:
        entry = self._entries.get(weights.model)
        if entry is not None and not entry.is_leaving and entry.weights == weights:
            entry.lease_count += 1
            entry.last_used = self._clock()
            return entry
        load = self._loads.get(weights) or self._start_load(weights)
        load.waiter_count += 1
        try:
            return await asyncio.shield(load.task)
        except asyncio.CancelledError:
            if load.task.done() and not load.task.exception():
                self._release(load.task.result())
            else:
                load.waiter_count -= 1
            raise

    def _release(self, entry: _Entry) -> None:
        entry.lease_count -= 1
        entry.last_used = self._clock()
        if not entry.lease_count and entry in self._former:
            self._former.remove(entry)
        self._released.set()
        self._on_change()

    def _start_load(self, weights: Weights) -> _Load:
        load = _Load(asyncio.create_task(self._load(weights), name=f"load {weights.model}"))
        self._loads[weights] = load
        load.task.add_done_callback(lambda task: task.exception())  # every waiter may have gone
        return load

    async def _load(self, weights: Weights) -> _Entry:
        """Build, and count a lease for everyone who waited: nobody can evict it before they run."""
        try:
            async with self._turn:
                with _refused_by_name(weights.model):
                    size_bytes = self._engine.size_bytes(weights)
                    await self._make_room(weights.model, size_bytes)
                    await self._engine.load(weights)
                waiter_count = self._loads[weights].waiter_count
                entry = _Entry(weights, size_bytes, self._clock(), waiter_count)
                self._put(entry)
        finally:
            del self._loads[weights]
        self._on_change()
        return entry

    def _put(self, entry: _Entry) -> None:
        """The engine holds it now, in place of other weights of the same model."""
        former = self._entries.get(entry.weights.model)
        if former is not None and former.lease_count:
            self._former.append(former)
        self._entries[entry.weights.model] = entry

    async def retire(self, model: str) -> None:
        """Let a model go that is asked no more, once its last request has ended."""
        entry = self._entries.get(model)
        if entry is not None:
            await self._evict(entry)

    async def _make_room(self, model: str, size_bytes: int) -> None:
        held = self._held()
        residents = [
            # Weights of the same model are of no use any more.
            one.resident(str(place), -math.inf if one.weights.model == model else one.last_used)
            for place, one in enumerate(held)
        ]
        victims = choose_evictions(residents, size_bytes, self._budget_bytes)
        if victims is None:
            raise SpecialistUnloadable(
                f"the weights of {model} take {size_bytes} bytes; "
                f"the memory budget is {self._budget_bytes} bytes",
                model=model,
            )
        for victim in victims:
            await self._evict(held[int(victim)])

    async def _evict(self, entry: _Entry) -> None:
        entry.is_leaving = True
        while entry.lease_count:
            self._released.clear()
            await self._released.wait()
        model = entry.weights.model
        if self._entries.get(model) is entry:  # neither replaced nor evicted meanwhile
            del self._entries[model]
            await self._engine.unload(model)
            self._on_change()


@contextlib.contextmanager
def _refused_by_name(model: str) -> Iterator[None]:
    """What is wrong with a model's files, as the refusal of that model."""
    try:
        yield
    except MergeError as error:
        raise SpecialistUnloadable(
            f"the weights of {model} cannot be built: {error}", model=model
        ) from error
