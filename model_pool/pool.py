"""The gateway's side of the workers: who is ready, leases, saturation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence

from deltafleet.v1 import worker_pb2
from model_pool.errors import (
    Draining,
    NoWorkerReady,
    PoolSaturated,
    SpecialistUnloadable,
    WorkerLost,
)
from model_pool.member import RETRY_AFTER_S, Member, Status
from model_pool.placement import Candidate, choose_worker
from model_pool.settings import Pool as PoolSection
from model_pool.waits import Wait, Waits


class Lease:
    """The right to run one request on one worker.

    A worker that goes away before its first word is replaced once; after it, never silently. One
    that refuses because it stops is replaced as often as there is another.
    """

    def __init__(self, pool: Pool, model: str, wait: Wait) -> None:
        self._pool = pool
        self._model = model
        self._wait = wait
        self._take()

    def _take(self) -> None:
        self._member = self._pool.choose(self._model)
        self._member.in_flight_count += 1
        self.worker = self._member.name
        status = self._member.status
        self.price_nano_usd_per_hour = status.price_nano_usd_per_hour if status else 0

    def release(self) -> None:
        """Give the place back."""
        self._member.in_flight_count -= 1

    async def settle(self, request: worker_pb2.RunRequest) -> worker_pb2.SettleRunResponse | None:
        """All that the request used on the last worker that ran it, where it was broken off."""
        return await self._member.settle(request)

    async def _move(self) -> None:
        await self._pool.wait_until_ready(self._model)
        lost = self._member
        self._take()
        lost.in_flight_count -= 1

    async def generate(
        self, request: worker_pb2.RunRequest, timeout_s: float | None
    ) -> AsyncGenerator[worker_pb2.RunResponse, None]:
        """Stream the answer. Raises the worker's own failure, or WorkerLost where it went away."""
        may_move = True
        while True:
            try:
                async with contextlib.aclosing(self._member.run(request, timeout_s)) as responses:
                    async for response in responses:
                        may_move = False
                        self._wait.end()
                        yield response
                return
            except Draining:  # it did nothing yet
                self._member.suspect()
                await self._move()
            except WorkerLost:
                self._member.suspect()
                if not may_move:
                    raise
                may_move = False
                await self._move()


class Pool:
    """Every worker of the fleet.

    limit_count: requests that one worker runs and queues. wait_s: how long a request waits for a
    worker to be up. on_change: called after every word of a worker, and when one goes out of reach.
    groups: what workers serve that may still be found (discovery.py), by their group; None: all.

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
    ) -> None:
        self.members = {member.name: member for member in members}
        self.departed: list[Status] = []
        self.waits = Waits()
        self._configured = frozenset(self.members)
        self._groups = groups or {}
        self._limit_count = limit_count
        self._wait_s = wait_s
        self._on_change = on_change
        self._heard = asyncio.Event()

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
        if member.last_word is not None:
            self.departed.append(member.last_word)

    async def wait_until_ready(self, model: str) -> None:
        """Return when a worker that serves the model takes requests.

        Raises NoWorkerReady after the pool's wait, SpecialistUnloadable at once where all workers
        are up, none of them serves it, and none that would is still to be found.
        """
        try:
            async with asyncio.timeout(self._wait_s):
                while not any(one.can_run(model) for one in self._candidates()):
                    if self._is_complete(model):
                        raise SpecialistUnloadable(f"no worker serves {model}", model=model)
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            raise NoWorkerReady(
                f"no worker that serves {model} is ready", retry_after_s=RETRY_AFTER_S
            ) from None

    @contextlib.asynccontextmanager
    async def lease(self, model: str) -> AsyncIterator[Lease]:
        """A place for one request on the worker that suits the model best.

        Raises PoolSaturated at once where every worker that serves it is at its limit, and what
        `wait_until_ready` raises.
        """
        with self.waits.begin(model) as wait:
            await self.wait_until_ready(model)
            lease = Lease(self, model, wait)
            try:
                yield lease
            finally:
                lease.release()

    def choose(self, model: str) -> Member:
        """The worker for one more request. Raises PoolSaturated."""
        name = choose_worker(self._candidates(), model)
        if name is None:
            raise PoolSaturated(
                f"every worker that serves {model} has {self._limit_count} requests",
                retry_after_s=RETRY_AFTER_S,
            )
        return self.members[name]

    def _is_complete(self, model: str) -> bool:
        """Whether waiting brings no other worker for the model."""
        may_come = any(served is None or model in served for served in self._groups.values())
        may_come |= any(member.may_come_to_serve(model) for member in self.members.values())
        return not may_come and all(member.is_ready for member in self.members.values())

    def _candidates(self) -> list[Candidate]:
        return [
            Candidate(
                worker=name,
                loaded=frozenset(one.model for one in status.loaded),
                busy_count=member.in_flight_count,
                limit_count=self._limit_count,
                serves=member.serves,
            )
            for name, member in self.members.items()
            if member.is_ready and (status := member.status) is not None
        ]

    def hear(self) -> None:
        """Something changed at a member."""
        self._heard.set()
        self._on_change()
