"""Thousands of connections on which nothing happens, and the gateway's work beside them."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.fuzz.frames import PREFACE, settings
from benchmarks.fuzz.target import Target, Watch, watching

SETTLE_S = 5.0
FALL_LIMIT_S = 60.0
FEW = 50  # descriptors, more or less


@dataclass(frozen=True, slots=True)
class Held:
    """What the gateway's process holds."""

    rss_bytes: int
    descriptor_count: int


@dataclass(frozen=True, slots=True)
class Crowd:
    """What was seen. greeted_count: connections that the server's own SETTINGS came on."""

    count: int
    greeted_count: int
    before: Held
    during: Held
    after: Held
    seen: Watch

    @property
    def bytes_each(self) -> float:
        """Of memory."""
        return (self.during.rss_bytes - self.before.rss_bytes) / self.count

    @property
    def is_over(self) -> bool:
        """The descriptors are the gateway's own again."""
        return self.after.descriptor_count <= self.before.descriptor_count + FEW


@contextlib.contextmanager
def connected(address: str, count: int) -> Iterator[list[socket.socket]]:
    """So many connections that have begun as HTTP/2 does."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    host, _, port = address.rpartition(":")
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            one = stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
            one.sendall(PREFACE + settings())
            made.append(one)
        yield made


def greeted(connections: list[socket.socket]) -> int:
    """How many the server has said something on, and not closed."""
    return sum(bool(one.recv(1024)) for one in connections)


async def stand_around(target: Target, count: int) -> Crowd:
    """Open them all, let real calls go on, close them all, and wait for it to be felt."""
    before = _held(target)
    async with watching(target) as seen:
        with contextlib.ExitStack() as stack:
            made = await asyncio.to_thread(stack.enter_context, connected(target.address, count))
            hellos = await asyncio.to_thread(greeted, made)
            await asyncio.sleep(SETTLE_S)
            during = _held(target)
        for _ in range(round(FALL_LIMIT_S)):
            await asyncio.sleep(1)
            if _held(target).descriptor_count <= before.descriptor_count + FEW:
                break
    return Crowd(count, hellos, before, during, _held(target), seen)


def _held(target: Target) -> Held:
    return Held(target.process.memory_info().rss, target.process.num_fds())
