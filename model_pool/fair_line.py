"""Whose request gets the next free place: by priority, then fairly between callers. Pure.

1. Interactive goes before standard, standard before batch, but for a share: while lower ones wait,
   a standard request goes after eight times its work of interactive ones, a batch request after
   sixteen times its work of those above it. A share of the work, not of the time: under a burst
   that never ends, who has waited long would otherwise outnumber who is urgent.
2. Within a priority the caller goes who was given the least work so far: virtual token counters
   (Sheng et al., OSDI 2024, arXiv:2401.00588). A caller who had nothing waiting begins at the
   least counter of those who wait: nobody saves up, and nobody is punished for idle places taken.
3. Within a caller's priority, the lane (the model) that has the fewest places, then who came first.

Work is tokens, those of answers twice as dear as those of prompts, as in the paper. An answer's
length is not known when it begins, so that start-time fair queueing, whose tags need it, is not
taken. What answers are typically long is charged with the place, as the paper's variant with
predictions does: many places may become free at once, and nobody would have been charged between
them. Tokens beyond it are charged as they come, tokens that did not come are given back.

Nobody who has a place loses it: an urgent request passes those that wait, never those that run.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from model_pool.switching import Priority

ANSWER_WEIGHT = 2.0  # of a token of an answer; one of a prompt counts as 1
# Of the work above it, what a priority that waits is given at least.
SHARES: Mapping[Priority, float] = {Priority.STANDARD: 1 / 8, Priority.BATCH: 1 / 16}
NEWEST_SHARE = 0.1  # of the newest answer in the typical length
IDLE_LIMIT_COUNT = 1024  # callers in debt who are remembered without a request
_SLACK_COUNT = 64  # entries of requests that have gone, before they are looked for

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request is in the line.

    lane: the model that it waits for. output_limit_count: tokens that its answer has at most.
    """

    lane: Hashable = ""
    caller: str = ""
    priority: Priority = Priority.STANDARD
    prompt_token_count: int = 0
    output_limit_count: int = 1


def count_ahead(waiting: Iterable[Ask], ask: Ask) -> int:
    """How many of those that wait go before a new one, about: the lower priorities' share apart.

    Another caller's requests go in turn with its own, so as many of them as it has itself, and one.
    """
    higher_count, of_class = 0, Counter[str]()
    for one in waiting:
        if one.priority == ask.priority:
            of_class[one.caller] += 1
        higher_count += one.priority < ask.priority
    own_count = of_class.pop(ask.caller, 0)
    others = sum(min(count, own_count + 1) for count in of_class.values())
    return higher_count + own_count + others


@dataclass(slots=True)
class _Lane(Generic[Key]):
    """A caller's requests of one priority for one model. Entries of the heap may be gone."""

    waiting: dict[Key, int] = field(default_factory=dict)
    heap: list[tuple[int, int, Key]] = field(default_factory=list)

    def add(self, key: Key, number: int, serial: int) -> None:
        """serial: differs for all, so that keys are never compared."""
        self.waiting[key] = number
        heapq.heappush(self.heap, (number, serial, key))
        if len(self.heap) > 2 * len(self.waiting) + _SLACK_COUNT:
            self.heap = [entry for entry in self.heap if self._is_waiting(entry)]
            heapq.heapify(self.heap)

    def first(self) -> tuple[int, Key]:
        """There is one."""
        while not self._is_waiting(self.heap[0]):
            heapq.heappop(self.heap)
        return self.heap[0][0], self.heap[0][2]

    def _is_waiting(self, entry: tuple[int, int, Key]) -> bool:
        return self.waiting.get(entry[2]) == entry[0]


@dataclass(slots=True)
class _Flow(Generic[Key]):
    """One caller's requests of one priority. work: its counter. place_count: places that it has."""

    work: float = 0.0
    place_count: int = 0
    lanes: dict[Hashable, _Lane[Key]] = field(default_factory=dict)


@dataclass(slots=True)
class _Head(Generic[Key]):
    """Who goes next of a priority."""

    key: Key
    ask: Ask
    flow: _Flow[Key]


@dataclass(slots=True)
class _Place:
    """What is known of one that has a place: tokens of its answer, paid ahead and computed."""

    ask: Ask
    paid_count: float
    output_count: int = 0


class FairLine(Generic[Key]):
    """Requests that wait for a place, and what those that have one use.

    Not safe for threads. Its memory is bounded by who waits and runs, and IDLE_LIMIT_COUNT.
    """

    def __init__(self, shares: Mapping[Priority, float] = SHARES) -> None:
        self._shares = shares
        self._asks: dict[Key, Ask] = {}
        self._places: dict[Key, _Place] = {}
        self._flows: dict[Priority, dict[str, _Flow[Key]]] = {one: {} for one in Priority}
        self._last_work = dict.fromkeys(Priority, 0.0)  # of who left the priority's line last
        self._credits = dict.fromkeys(shares, 0.0)
        self._typical_count: float | None = None
        self._serial = 0

    def __len__(self) -> int:
        return len(self._asks)

    def __iter__(self) -> Iterator[Key]:
        """Who waits, in no order."""
        return iter(self._asks)

    def add(self, key: Key, ask: Ask, number: int | None = None) -> None:
        """One waits. number: its order within caller, priority and lane; default: as they come."""
        assert key not in self._asks
        self._serial += 1
        flows = self._flows[ask.priority]
        flow = flows.get(ask.caller)
        if flow is None:
            flow = flows[ask.caller] = _Flow()
        if not flow.lanes:
            flow.work = max(flow.work, self._floor(ask.priority))
        order = self._serial if number is None else number
        flow.lanes.setdefault(ask.lane, _Lane()).add(key, order, self._serial)
        self._asks[key] = ask

    def remove(self, key: Key) -> None:
        """It waits no more, and got no place. Raises KeyError."""
        ask = self._asks.pop(key)
        flow = self._flows[ask.priority][ask.caller]
        lane = flow.lanes[ask.lane]
        del lane.waiting[key]
        if lane.waiting:
            return
        del flow.lanes[ask.lane]
        if not flow.lanes:
            self._last_work[ask.priority] = flow.work
            self._forget(ask)
        if ask.priority in self._credits and not self._waiting(ask.priority):
            self._credits[ask.priority] = 0.0

    def take(
        self,
        lanes: Collection[Hashable] | None = None,
        load: Callable[[Hashable], int] = lambda lane: 0,
    ) -> Key | None:
        """Give a place to the next one. None: nobody waits.

        lanes: only those that wait for these. load: places that a lane has.
        """
        found = {one: self._head(one, lanes, load) for one in Priority}
        heads = {priority: head for priority, head in found.items() if head is not None}
        if not heads:
            return None
        head = heads[self._choose(heads)]
        head.flow.work += self._work(head.ask)
        head.flow.place_count += 1
        self._places[head.key] = _Place(head.ask, self._paid_count(head.ask))
        self.remove(head.key)
        return head.key

    def use(self, key: Key, token_count: int) -> None:
        """So many more tokens of its answer were computed."""
        place = self._places[key]
        before = max(place.paid_count, place.output_count)
        place.output_count += token_count
        self._charge(place.ask, max(0.0, place.output_count - before))

    def end(self, key: Key) -> None:
        """It has no place any more. One that has none is no fault."""
        place = self._places.pop(key, None)
        if place is None:
            return
        self._charge(place.ask, -max(0.0, place.paid_count - place.output_count))
        flow = self._flows[place.ask.priority][place.ask.caller]
        flow.place_count -= 1
        if place.output_count:
            self._learn(place.output_count)
        self._forget(place.ask)

    def work_of(self, caller: str, priority: Priority) -> float:
        """The caller's counter; 0 where it is not remembered."""
        flow = self._flows[priority].get(caller)
        return flow.work if flow else 0.0

    def _learn(self, output_count: int) -> None:
        known = output_count if self._typical_count is None else self._typical_count
        self._typical_count = known + NEWEST_SHARE * (output_count - known)

    def _charge(self, ask: Ask, output_count: float) -> None:
        self._flows[ask.priority][ask.caller].work += ANSWER_WEIGHT * output_count

    def _paid_count(self, ask: Ask) -> float:
        """Tokens of its answer that are charged ahead."""
        if self._typical_count is None:
            return ask.output_limit_count
        return min(ask.output_limit_count, self._typical_count)

    def _work(self, ask: Ask) -> float:
        """At least that of a token: who costs nothing would be due at once."""
        return max(1.0, ask.prompt_token_count + ANSWER_WEIGHT * self._paid_count(ask))

    def _waiting(self, priority: Priority) -> list[_Flow[Key]]:
        return [flow for flow in self._flows[priority].values() if flow.lanes]

    def _floor(self, priority: Priority) -> float:
        """Where a caller's counter begins who had nothing waiting."""
        works = [flow.work for flow in self._waiting(priority)]
        return min(works, default=self._last_work[priority])

    def _forget(self, ask: Ask) -> None:
        """Drop a caller who would begin there anyway; beyond a limit, the one least in debt."""
        flows = self._flows[ask.priority]
        flow = flows[ask.caller]
        if flow.lanes or flow.place_count:
            return
        if flow.work <= self._floor(ask.priority):
            del flows[ask.caller]
        elif len(flows) > IDLE_LIMIT_COUNT:
            idle = [name for name, one in flows.items() if not one.lanes and not one.place_count]
            if len(idle) > IDLE_LIMIT_COUNT:
                del flows[min(idle, key=lambda name: flows[name].work)]

    def _head(
        self,
        priority: Priority,
        lanes: Collection[Hashable] | None,
        load: Callable[[Hashable], int],
    ) -> _Head[Key] | None:
        best: tuple[float, int, int] | None = None
        head: _Head[Key] | None = None
        for flow in self._waiting(priority):
            if best is not None and flow.work > best[0]:
                continue
            for name, lane in flow.lanes.items():
                if lanes is not None and name not in lanes:
                    continue
                number, key = lane.first()
                rank = (flow.work, load(name), number)
                if best is None or rank < best:
                    best, head = rank, _Head(key, self._asks[key], flow)
        return head

    def _choose(self, heads: Mapping[Priority, _Head[Key]]) -> Priority:
        """The highest, or one whose share is due; notes what that gives to those below it."""
        chosen = min(heads)
        for priority in sorted(heads):
            due = self._credits.get(priority, 0.0)
            work = self._work(heads[priority].ask)
            if priority != chosen and due >= work:
                self._credits[priority] = due - work
                chosen = priority
                break
        given = self._work(heads[chosen].ask)
        for priority in heads:
            if priority > chosen:
                self._credits[priority] += self._shares[priority] * given
        return chosen
