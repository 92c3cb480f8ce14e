"""The pool's members that fleet.yaml names, kept as it names them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_pool.errors import ConfigRefused, DeadlineExceeded, WorkerLost
from model_pool.local_workers import LocalWorkers
from model_pool.member import Member
from model_pool.pool import Pool
from model_pool.settings import Pool as PoolSection
from model_pool.settings import Worker
from model_pool.settings_file import member_key
from model_pool.tls import Connector
from model_pool.worker_link import PLAIN, WorkerLink

# To read the specialists' files; what recipes merge is hashed.
RELOAD_LIMIT_S = 300.0
PAUSE_S = 0.1
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A member. process: what its process is called, empty where it is not of this machine; never
    the same twice, so that one may start while another of its name still drains.
    """

    member: Member
    process: str = ""


class ConfiguredMembers:
    """Starts, changes and ends them, and tells those on this machine when to read fleet.yaml again.

    text: of fleet.yaml. beside: where its paths start from.
    """

    def __init__(
        self, section: PoolSection, text: str, beside: Path, connector: Connector = PLAIN
    ) -> None:
        self._connector = connector
        self._section = section
        self._local = LocalWorkers(text, beside, section.drain_limit_s)
        self._made_count = 0
        self._kept = {one.name: self._make(one, section) for one in section.workers}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def members(self) -> list[Member]:
        """As fleet.yaml names them."""
        return [kept.member for kept in self._kept.values()]

    def start(self) -> None:
        """Start those that are of this machine; returns before they are ready."""
        for name, kept in self._kept.items():
            if kept.process:
                self._local.start(kept.process, name)

    async def stop(self) -> None:
        """End what was started, and what is on its way out."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._local.stop()

    def change(
        self, section: PoolSection, pool: Pool, unused: Callable[[], Awaitable[None]]
    ) -> None:
        """Let the pool have the members that this names. A worker that is another than the one of
        its name before takes its place; what runs on those that go ends there.

        unused: returns when no request that began before the change still runs.
        """
        before = {one.name: one for one in self._section.workers}
        after = {one.name: one for one in section.workers}
        self._section = section
        for name in [name for name, one in before.items() if after.get(name) != one]:
            kept = self._kept.pop(name)
            pool.strike(kept.member)
            self._later(self._end(kept, unused), f"end {name}")
        for name in [name for name, one in after.items() if before.get(name) != one]:
            kept = self._kept[name] = self._make(after[name], section)
            pool.enlist(kept.member)
            if kept.process:
                self._local.start(kept.process, name)

    async def check(self, text: str) -> None:
        """Let the workers of this machine say whether they could go by this text.

        One that is not up cannot: it reads the text when it starts. Raises ConfigRefused.
        """
        before = self._local.text
        self._local.write(text)
        try:
            await self._tell(self._local_links(), validate_only=True)
        finally:
            self._local.write(before)
            self._tell_those_who_start()

    async def reload(self, text: str) -> None:
        """Let the workers of this machine go by this text, all of them or none. Raises
        ConfigRefused.
        """
        before = self._local.text
        self._local.write(text)
        try:
            await self._tell(self._local_links(), validate_only=False)
        except ConfigRefused:
            self._local.write(before)
            await self._tell(self._local_links(), validate_only=False)
            raise
        finally:
            self._tell_those_who_start()

    async def _tell(self, links: Iterable[WorkerLink], *, validate_only: bool) -> None:
        async def tell(link: WorkerLink) -> None:
            try:
                await link.reload_catalog(validate_only=validate_only, timeout_s=RELOAD_LIMIT_S)
            except (WorkerLost, DeadlineExceeded) as error:
                log.warning("catalog_not_told", extra={"worker": link.name, "reason": str(error)})

        told = [tell(link) for link in links if link.is_ready]
        for failure in await asyncio.gather(*told, return_exceptions=True):
            if failure is not None:
                raise failure

    def _tell_those_who_start(self) -> None:
        """They may have read another text than what is in force; told once they are up."""
        for link in self._local_links():
            if not link.is_ready:
                self._later(self._tell_later(link), f"tell {link.name}")

    async def _tell_later(self, link: WorkerLink) -> None:
        while link in self.members:
            try:
                await link.reload_catalog(timeout_s=RELOAD_LIMIT_S)
            except (WorkerLost, DeadlineExceeded):
                await asyncio.sleep(PAUSE_S)
            except ConfigRefused:
                break  # logged over there
            else:
                break

    def _local_links(self) -> list[WorkerLink]:
        links = [kept.member for kept in self._kept.values() if kept.process]
        return [one for one in links if isinstance(one, WorkerLink)]

    async def _end(self, kept: _Kept, unused: Callable[[], Awaitable[None]]) -> None:
        try:
            await unused()
            while kept.member.in_flight_count:  # noqa: ASYNC110 # a count that the pool keeps
                await asyncio.sleep(PAUSE_S)
        finally:
            await kept.member.stop()
        if kept.process:
            await self._local.end(kept.process)

    def _make(self, worker: Worker, section: PoolSection) -> _Kept:
        name, server = worker.name, worker.openai
        if server is not None:
            price = section.hardware_of(name).nano_usd_per_hour
            key = member_key(name)
            from model_pool.openai_member import OpenAIMember  # 20 MB that most fleets do not need

            return _Kept(OpenAIMember(name, server, key, price_nano_usd_per_hour=price))
        if worker.address is not None:
            return _Kept(WorkerLink(name, worker.address, connector=self._connector))
        self._made_count += 1
        process = f"{name}.{self._made_count}"
        link = WorkerLink(name, self._local.address(process), connector=self._connector)
        return _Kept(link, process)

    def _later(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
