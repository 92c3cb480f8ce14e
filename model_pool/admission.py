"""Whether one more request may come in, or is refused at once.

Dynamic thresholds (Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998): a request
comes in while its caller has fewer places than alpha times the free ones. A caller who is alone
gets alpha / (1 + alpha) of all places; n greedy ones share them, and leave 1 / (1 + n alpha) free
for whoever comes anew. The alpha of a priority is larger the more urgent it is, and a caller's less
urgent places do not count against it: who fills the fleet with batch work stops long before an
interactive request finds no room, its own ones included.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Self

from deltafleet.v1 import inference_pb2, worker_pb2
from model_pool.errors import CallerSaturated, FleetError, PoolSaturated
from model_pool.fair_line import Ask, count_ahead
from model_pool.line_forecast import LineForecast
from model_pool.switching import Priority

NO_PLACES: Sequence[int] = tuple(0 for _ in Priority)
RETRY_AFTER_S = 1.0  # an answer takes about as long
PRIORITIES: dict[int, Priority] = {
    inference_pb2.PRIORITY_UNSPECIFIED: Priority.STANDARD,
    inference_pb2.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
    inference_pb2.PRIORITY_STANDARD: Priority.STANDARD,
    inference_pb2.PRIORITY_BATCH: Priority.BATCH,
}


def ask_of(request: worker_pb2.RunRequest) -> Ask:
    """What a request is to those who admit it."""
    return to_ask(request.model, request.caller, request.priority)


def to_ask(model: str, caller: str, priority: int) -> Ask:
    """model: "" where it is not known yet. priority: a value of the wire's Priority."""
    return Ask(lane=model, caller=caller, priority=PRIORITIES.get(priority, Priority.STANDARD))


@dataclass(frozen=True, slots=True)
class Thresholds:
    """alpha of each priority, in its order. specialist: of all requests for one specialist."""

    alphas: tuple[float, float, float] = (16.0, 8.0, 2.0)
    specialist: float = 32.0


@dataclass(frozen=True, slots=True)
class Room:
    """Places of a group of workers: free_count of them; other_count are had by other callers.

    caller_count: had by the caller who asks, with requests as urgent as this one or more.
    """

    free_count: int
    caller_count: int = 0
    other_count: int = 0


def refusal(
    ask: Ask, rooms: Sequence[Room], thresholds: Thresholds, *, specialist_count: int = 0
) -> FleetError | None:
    """Why the request may not come in, if so. Pure.

    rooms: all workers, then those that serve its model. specialist_count: places of that model, of
    requests as urgent as this one or more.
    Who is refused for its own places alone has filled the fleet: that is no matter of shares.
    """
    alpha = thresholds.alphas[ask.priority]
    for room in rooms:
        if room.free_count <= 0:
            return _full(f"all places{f' for {ask.lane}' if ask.lane else ''} are taken")
        if room.caller_count >= alpha * room.free_count:
            if not room.other_count:
                return _full(f"{room.caller_count} requests are under way")
            return CallerSaturated(
                f"this caller has {room.caller_count} requests under way, and {room.free_count} "
                "places are free",
                retry_after_s=RETRY_AFTER_S,
                caller_count=room.caller_count,
                free_count=room.free_count,
            )
    if specialist_count >= thresholds.specialist * rooms[0].free_count:
        return _full(f"{specialist_count} requests for {ask.lane} are under way")
    return None


def _full(message: str) -> PoolSaturated:
    return PoolSaturated(message, retry_after_s=RETRY_AFTER_S)


class Stay:
    """One request, which is in for as long as a `with` block of it lasts.

    ahead_count: who went before it when it came, about.
    """

    def __init__(self, admission: Admission, ask: Ask, since_s: float, ahead_count: int) -> None:
        self.ask = ask
        self.since_s = since_s
        self.ahead_count = ahead_count
        self.has_begun = False
        self._admission = admission

    def __enter__(self) -> Self:
        self._admission.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._admission.remove(self)


class _Lane:
    """Places by priority: of everybody, and of each caller."""

    def __init__(self) -> None:
        self.of_all = list(NO_PLACES)
        self._of: dict[str, list[int]] = {}

    def of(self, caller: str) -> Sequence[int]:
        """Of one caller."""
        return self._of.get(caller, NO_PLACES)

    def change(self, ask: Ask, change: int) -> None:
        """A place more, or less."""
        own = self._of.get(ask.caller)
        if own is None:
            own = self._of[ask.caller] = list(NO_PLACES)
        for places in (self.of_all, own):
            places[ask.priority] += change
        if not any(own):
            del self._of[ask.caller]


EMPTY_LANE = _Lane()


class Admission:
    """Who is in, and how long it takes. clock: seconds.

    Learns how quickly lines move from those that found others waiting: of a worker that starts, or
    of weights that are built, it says nothing. How long an answer then takes is left to the
    workers: here it would be as long as its caller reads.
    """

    def __init__(
        self,
        thresholds: Thresholds | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._thresholds = thresholds or Thresholds()
        self._clock = clock
        self._stays: set[Stay] = set()
        self._lanes: dict[Hashable, _Lane] = {}  # None: of all
        self._forecast = LineForecast()

    @property
    def count(self) -> int:
        """Requests that are in."""
        return len(self._stays)

    def enter(
        self,
        ask: Ask,
        *,
        free_count: int,
        free_for_model_count: int | None = None,
        queued_count: int = 0,
        time_left_s: float = math.inf,
    ) -> Stay:
        """Let a request in for as long as a `with` block of what this returns lasts.

        free_count: places of all workers; free_for_model_count: of those that serve its model.
        queued_count: requests that wait at these; where none does, nobody is told to be late.
        Raises PoolSaturated, CallerSaturated.
        """
        if failure := self._refusal(ask, free_count, free_for_model_count):
            raise failure
        ahead_count = self._count_ahead(ask) if queued_count else 0
        self._forecast.check(_line(ask), str(ask.lane), ahead_count, time_left_s)
        return Stay(self, ask, self._clock(), ahead_count)

    def add(self, stay: Stay) -> None:
        """See Stay."""
        self._count(stay.ask, 1)
        self._stays.add(stay)

    def remove(self, stay: Stay) -> None:
        """See Stay."""
        self._stays.remove(stay)
        self._count(stay.ask, -1)
        if not stay.has_begun and stay.ahead_count:
            waited_s = self._clock() - stay.since_s
            self._forecast.gave_up(_line(stay.ask), stay.ahead_count, waited_s)

    def check(self, ask: Ask, free_count: int) -> None:
        """For who asks before it is known which model: ask.lane is empty.

        Raises what `enter` would raise for any of them: PoolSaturated, CallerSaturated.
        """
        if failure := refusal(ask, [self._room(ask, None, free_count)], self._thresholds):
            raise failure

    def begin(self, stay: Stay) -> None:
        """The request has its first word. Told again, it is no fault."""
        if stay.has_begun:
            return
        stay.has_begun = True
        if stay.ahead_count:
            waited_s = self._clock() - stay.since_s
            self._forecast.started(_line(stay.ask), stay.ahead_count, waited_s)

    def _refusal(
        self, ask: Ask, free_count: int, free_for_model_count: int | None
    ) -> FleetError | None:
        rooms = [self._room(ask, None, free_count)]
        if free_for_model_count is not None:
            rooms.append(self._room(ask, ask.lane, free_for_model_count))
        count = sum(self._places(ask.lane).of_all[: ask.priority + 1])
        return refusal(ask, rooms, self._thresholds, specialist_count=count)

    def _room(self, ask: Ask, lane: Hashable, free_count: int) -> Room:
        """lane: None for all models."""
        places = self._places(lane)
        own = places.of(ask.caller)
        return Room(free_count, sum(own[: ask.priority + 1]), sum(places.of_all) - sum(own))

    def _places(self, lane: Hashable) -> _Lane:
        return self._lanes.get(lane, EMPTY_LANE)

    def _count_ahead(self, ask: Ask) -> int:
        waiting = (stay.ask for stay in self._stays if not stay.has_begun)
        return count_ahead((one for one in waiting if one.lane == ask.lane), ask)

    def _count(self, ask: Ask, change: int) -> None:
        for name in (None, ask.lane):
            lane = self._lanes.get(name)
            if lane is None:
                lane = self._lanes[name] = _Lane()
            lane.change(ask, change)
            if not any(lane.of_all):
                del self._lanes[name]


def _line(ask: Ask) -> str:
    return f"{ask.lane} {ask.priority.name}"
