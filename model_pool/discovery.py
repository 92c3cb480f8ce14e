"""Workers that come and go: found by DNS, let go when they left."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

from model_pool.pool import Pool
from model_pool.settings import WorkerGroup
from model_pool.tls import Connector
from model_pool.worker_link import PLAIN, WorkerLink

# host, port → addresses as gRPC takes them; None where nobody can tell at the moment.
Resolve = Callable[[str, int], Awaitable[frozenset[str] | None]]
_NO_ADDRESS = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
log = logging.getLogger(__name__)


async def resolve_addresses(host: str, port: int) -> frozenset[str] | None:
    """Every address of a name. Empty: it has none. None: DNS does not answer."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        if isinstance(error, socket.gaierror) and error.errno in _NO_ADDRESS:
            return frozenset()  # a Service without pods
        log.warning("name_not_resolved", extra={"host": host, "reason": str(error)})
        return None
    return frozenset(
        f"[{place[0]}]:{port}" if family == socket.AF_INET6 else f"{place[0]}:{port}"
        for family, _, _, _, place in found
    )


@dataclass
class _Found:
    """A worker at an address. told: the name that it told, empty before its first word."""

    link: WorkerLink
    told: str = ""


class GroupFinder:
    """Keeps the pool's members of one group as DNS has them.

    A worker joins the pool with its first word, under the name that it tells. It leaves when DNS no
    longer has it, its stream is broken and its requests have ended: one that drains leaves DNS long
    before it has finished.
    """

    def __init__(
        self,
        name: str,
        group: WorkerGroup,
        pool: Pool,
        resolve: Resolve = resolve_addresses,
        connector: Connector = PLAIN,
    ) -> None:
        self._name = name
        self._group = group
        self._pool = pool
        self._resolve = resolve
        self._connector = connector
        self._found: dict[str, _Found] = {}

    async def run(self) -> None:
        """Look again and again. Never returns."""
        while True:
            await self.look()
            await asyncio.sleep(self._group.interval_s)

    async def look(self) -> None:
        """Ask DNS once; begin to listen to who is new, let go of who left."""
        host, _, port = self._group.dns.rpartition(":")
        addresses = await self._resolve(host, int(port))
        if addresses is None:
            return
        for address in sorted(addresses - self._found.keys()):
            self._add(address)
        for address in sorted(self._found.keys() - addresses):
            link = self._found[address].link
            if link.status is None and not link.in_flight_count:
                await self._remove(address)

    def change(self, group: WorkerGroup) -> None:
        """Its workers may run other models from now on."""
        self._group = group
        for found in self._found.values():
            found.link.allowed = group.serves

    async def stop(self) -> None:
        """Let go of all of them."""
        await asyncio.gather(*map(self._remove, tuple(self._found)))

    def _add(self, address: str) -> None:
        name = f"{self._name}@{address}"
        link = WorkerLink(name, address, self._group.serves, self._connector)
        self._found[address] = _Found(link)
        log.info("worker_found", extra={"group": self._name, "address": address})
        link.start(partial(self._hear, address))

    async def _remove(self, address: str) -> None:
        found = self._found.pop(address)
        self._pool.dismiss(found.link)
        await found.link.stop()
        log.info("worker_let_go", extra={"worker": found.link.name, "address": address})

    def _hear(self, address: str) -> None:
        found = self._found.get(address)
        if found is None:
            return
        link, status = found.link, found.link.status
        is_settled = self._pool.members.get(link.name) is link and (
            status is None or status.worker == found.told
        )
        if status is not None and not is_settled:
            # A name may have moved on to a new pod, or be a mistake: two have the same.
            spare_name = f"{status.worker}@{address}"
            if self._pool.admit(link, status.worker, spare_name):
                found.told = status.worker
        self._pool.hear()


class Discovery:
    """A GroupFinder for each group, running."""

    def __init__(
        self,
        groups: Mapping[str, WorkerGroup],
        pool: Pool,
        resolve: Resolve = resolve_addresses,
        connector: Connector = PLAIN,
    ) -> None:
        self._finders = {
            name: GroupFinder(name, group, pool, resolve, connector)
            for name, group in groups.items()
        }
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to look for workers."""
        self._tasks = [
            asyncio.create_task(finder.run(), name=f"find {name}")
            for name, finder in self._finders.items()
        ]

    def change(self, groups: Mapping[str, WorkerGroup]) -> None:
        """See GroupFinder. groups: of the same names."""
        for name, finder in self._finders.items():
            finder.change(groups[name])

    async def stop(self) -> None:
        """Look no more, and let go of all."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(finder.stop() for finder in self._finders.values()))
