"""The gateway's side of the workers: who is ready, leases, saturation."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from deltafleet.v1 import worker_pb2
from model_pool.admission import Admission, Stay
from model_pool.affinity import affinity_key
from model_pool.attempt import Attempt
from model_pool.breaker import Breakers, BreakerState
from model_pool.errors import NoWorkerReady, PoolSaturated, SpecialistUnloadable
from model_pool.fair_line import Ask
from model_pool.hedging import Hedging
from model_pool.lease import Expected, Leasing
from model_pool.member import RETRY_AFTER_S, Member, Status
from model_pool.placement import Candidate, choose_worker
from model_pool.settings import Choice
from model_pool.settings import Pool as PoolSection
from model_pool.waits import Waits


class Pool:
    """Every worker of the fleet.

    limit_count: requests that one worker runs and queues. wait_s: how long a request waits for a
    worker to be up. on_change: called after every word of a worker, and when one goes out of reach.
    groups: what workers serve that may still be found (discovery.py), by their group; None: all.
    choice: how a worker is chosen, and when one is left alone.

    members is replaced, never changed: others read it from threads of their own. departed: the last
    words of those that left, until somebody has written them down.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        limit_count: int,
        wait_s: float,
        on_change: Callable[[], None],
        groups: Mapping[str, frozenset[str] | None] | None = None,
        choice: Choice | None = None,
        admission: Admission | None = None,
    ) -> None:
        choice = choice or Choice()
        self.admission = admission or Admission()
        self.members = {member.name: member for member in members}
        self.departed: list[Status] = []
        self.waits = Waits()
        self.retries = Counter[str]()
        self.hedging = Hedging(choice.hedging) if choice.hedging else None
        self._configured = frozenset(self.members)
        self._groups = groups or {}
        self._limit_count = limit_count
        self._wait_s = wait_s
        self._on_change = on_change
        self._heard = asyncio.Event()
        self._breakers = Breakers(choice.breaker, self.hear)
        self._affinity = choice.affinity
        self._expected: dict[Attempt, None] = {}
        self._loaded: dict[str, tuple[Status, frozenset[str]]] = {}  # by worker, of its last word

    def start(self) -> None:
        """Begin to listen to the workers."""
        for member in self.members.values():
            member.start(self.hear)

    async def stop(self) -> None:
        """Close every connection."""
        await asyncio.gather(*(member.stop() for member in self.members.values()))

    @property
    def is_ready(self) -> bool:
        """Whether any worker takes requests."""
        return any(member.is_ready for member in self.members.values())

    def admit(self, member: Member, name: str, spare_name: str) -> bool:
        """Take a found member in under the name that it tells, which may be another than before.

        Under spare_name where somebody else has that name and is heard. Returns whether it is in:
        not where the process that it leads to is a member already, by another address.
        """
        holder = self.members.get(name)
        if holder is not None and holder is not member and holder.status is not None:
            if member.status and holder.status.incarnation == member.status.incarnation:
                return False
            name = spare_name
        elif name in self._configured:
            name = spare_name
        elif holder is not None:
            self.dismiss(holder)
        self.dismiss(member)
        member.name = name
        self.members = self.members | {name: member}
        return True

    def change(self, section: PoolSection) -> None:
        """Wait so long, and for these groups, from now on."""
        self._wait_s = section.worker_wait_s
        self._groups = {name: group.serves for name, group in section.discovery.items()}
        self.hear()

    def enlist(self, member: Member) -> None:
        """Take a member in that fleet.yaml names, and listen to it."""
        self._configured |= {member.name}
        self.members = self.members | {member.name: member}
        member.start(self.hear)

    def strike(self, member: Member) -> None:
        """Let a member go that fleet.yaml names no more; what it runs goes on."""
        self._configured -= {member.name}
        self.dismiss(member)

    def dismiss(self, member: Member) -> None:
        """Let a member go; what it runs goes on. One that is not in is no fault."""
        if self.members.get(member.name) is not member:
            return
        self.members = {name: one for name, one in self.members.items() if one is not member}
        self._loaded.pop(member.name, None)
        if member.last_word is not None:
            self.departed.append(member.last_word)

    async def wait_until_ready(self, model: str) -> None:
        """Return when a worker that serves the model takes requests.

        Raises NoWorkerReady after the pool's wait, or at once where every worker is left alone for
        a while since its requests fail; SpecialistUnloadable at once where all workers are up, none
        of them serves it, and none that would is still to be found.
        """
        if self._is_ready_for(model):  # as nearly always: then no time is measured
            return
        try:
            async with asyncio.timeout(self._wait_s):
                while not self._is_ready_for(model):
                    pauses_s = self._pauses_s(model)
                    self._check_hope(model, pauses_s)
                    await self._next_word(min(filter(None, pauses_s), default=None))
        except TimeoutError:
            raise _not_ready(model, RETRY_AFTER_S) from None

    def _is_ready_for(self, model: str) -> bool:
        return any(
            self._may_be_asked(member) and (member.serves is None or model in member.serves)
            for member in self.members.values()
        )

    def _may_be_asked(self, member: Member) -> bool:
        return member.is_ready and self._breakers.of(member).allows

    def _check_hope(self, model: str, pauses_s: Sequence[float]) -> None:
        """Raise where waiting is in vain. pauses_s: of those who serve it and are left alone."""
        are_up = all(member.is_ready for member in self.members.values())
        if pauses_s:
            if are_up and min(pauses_s) > 0:
                raise _not_ready(model, min(pauses_s))
            return  # another one comes back, or a probe is under way
        may_come = any(served is None or model in served for served in self._groups.values())
        may_come |= any(member.may_come_to_serve(model) for member in self.members.values())
        if are_up and not may_come:
            raise SpecialistUnloadable(f"no worker serves {model}", model=model)

    async def _next_word(self, limit_s: float | None) -> None:
        """Return when something changed, or after limit_s."""
        self._heard.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._heard.wait()

    def admitted(self, ask: Ask, time_left_s: float = math.inf) -> Stay:
        """See Admission.enter: whether the request may come in, before anything is sent."""
        model = str(ask.lane)
        ready = [one for one in self.members.values() if one.is_ready]
        serving = [one for one in ready if one.serves is None or model in one.serves]
        return self.admission.enter(
            ask,
            free_count=self._free_count(ready),
            free_for_model_count=self._free_count(serving),
            queued_count=sum(status.queued_count for one in serving if (status := one.status)),
            time_left_s=time_left_s,
        )

    def check_room(self, ask: Ask) -> None:
        """See Admission.check."""
        ready = [one for one in self.members.values() if one.is_ready]
        self.admission.check(ask, self._free_count(ready))

    def _free_count(self, ready: Sequence[Member]) -> int:
        """Where no worker is up, as many may wait for one as all of them would take."""
        if ready:
            return sum(max(0, self._limit_count - one.in_flight_count) for one in ready)
        placed_count = sum(one.in_flight_count for one in self.members.values())
        return max(1, len(self.members)) * self._limit_count - self.admission.count + placed_count

    def lease(self, model: str, *, key: str = "", may_hedge: bool = False) -> Leasing:
        """A place for one request on the worker that suits the model best.

        key: see affinity.py. may_hedge: whether a second worker may run it, too (hedging.py).
        Raises PoolSaturated at once where every worker that serves it is at its limit, and what
        `wait_until_ready` raises.
        """
        return Leasing(self, model, key, self.waits, self.hedging if may_hedge else None)

    def affinity_key(self, request: worker_pb2.RunRequest, session: str) -> str:
        """For `lease`. session: the caller's, empty where it names none."""
        return affinity_key(request, session, self._affinity.prefix_character_count)

    def breaker_state(self, member: Member) -> BreakerState:
        """What becomes of requests that would go there."""
        return self._breakers.state(member)

    def take(self, model: str, key: str, avoid: Collection[str] = ()) -> Attempt:
        """See Places."""
        candidates = self._candidates(avoid)
        if avoid and not any(one.can_run(model) for one in candidates):
            candidates = self._candidates()
        name = choose_worker(candidates, model, key, self._affinity.load_factor)
        if name is None:
            raise PoolSaturated(
                f"every worker that serves {model} has {self._limit_count} requests",
                retry_after_s=RETRY_AFTER_S,
            )
        member = self.members[name]
        return Attempt(member, model, self._breakers.of(member))

    def has_room(self, model: str, avoid: Collection[str]) -> bool:
        """See Places."""
        return choose_worker(self._candidates(avoid), model) is not None

    def expect(self, attempt: Attempt) -> Expected:
        """See Places."""
        return Expected(self._expected, attempt)

    def count_retry(self, reason: str) -> None:
        """See Places."""
        self.retries[reason] += 1

    def _pauses_s(self, model: str) -> list[float]:
        """Of the ready workers that are left alone: how much longer; 0 while one is probed."""
        return [
            self._breakers.of(member).pause_left_s
            for member in self.members.values()
            if member.is_ready and (member.serves is None or model in member.serves)
        ]

    def _candidates(self, avoid: Collection[str] = ()) -> list[Candidate]:
        return [
            Candidate(
                worker=name,
                loaded=self._loaded_at(name, status),
                busy_count=member.in_flight_count,
                limit_count=self._limit_count,
                serves=member.serves,
            )
            for name, member in self.members.items()
            if name not in avoid
            and self._may_be_asked(member)
            and (status := member.status) is not None
        ]

    def _loaded_at(self, name: str, status: Status) -> frozenset[str]:
        """Read once for each word of a worker, not for each request."""
        known, loaded = self._loaded.get(name, (None, frozenset[str]()))
        if known is not status:
            loaded = frozenset(one.model for one in status.loaded)
            self._loaded[name] = status, loaded
        return loaded

    def hear(self) -> None:
        """Something changed at a member."""
        self._heard.set()
        self._on_change()
        if any(member.is_silent for member in self.members.values()):
            self._leave_silent_ones()

    def _leave_silent_ones(self) -> None:
        for attempt in self._expected:
            if attempt.member.is_silent and self.has_room(attempt.model, {attempt.worker}):
                attempt.leave()


def _not_ready(model: str, retry_after_s: float) -> NoWorkerReady:
    return NoWorkerReady(f"no worker that serves {model} is ready", retry_after_s=retry_after_s)
