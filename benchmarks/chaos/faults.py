"""What is broken, and how it is mended again."""

from __future__ import annotations

import asyncio
import random
import resource
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chaos.closed_api import ClosedApi, Mood
from benchmarks.chaos.fault_proxy import FaultProxy
from benchmarks.chaos.processes import Kept, Worker

HOUR_S = 3600


@dataclass
class Scene:
    """All that can be hurt. payloads: of deltas. clock: libfaketime's file, where it is loaded.

    front: the proxy between the callers and the gateway. redis: where the fleet has one.
    """

    workers: list[Worker]
    closed_api: ClosedApi
    front: FaultProxy
    payloads: list[Path]
    clock: Path | None
    redis: Kept | None
    chance: random.Random
    broken: set[Path] = field(default_factory=set)

    def worker(self) -> Worker:
        """One of those that run; any, where none does."""
        alive = [one for one in self.workers if one.process.pid]
        return self.chance.choice(alive or self.workers)

    def some_s(self, least: float, most: float) -> float:
        """A while."""
        return self.chance.uniform(least, most)


async def kill_worker(scene: Scene) -> None:
    """SIGKILL."""
    scene.worker().process.send(signal.SIGKILL)


async def pause_worker(scene: Scene) -> None:
    """SIGSTOP: its sockets stay open, and nothing comes."""
    process = scene.worker().process
    process.send(signal.SIGSTOP)
    await asyncio.sleep(scene.some_s(0.5, 8))
    process.send(signal.SIGCONT)


async def cut_sockets(scene: Scene) -> None:
    """Every connection between the gateway and a worker is reset."""
    scene.worker().proxy.cut()


async def part_network(scene: Scene) -> None:
    """Between the gateway and a worker nothing goes for a while."""
    proxy = scene.worker().proxy
    proxy.refuse(True)
    await asyncio.sleep(scene.some_s(0.5, 3))
    proxy.refuse(False)


async def slow_down(scene: Scene) -> None:
    """Small pieces, late."""
    proxy = scene.worker().proxy
    proxy.slow(scene.some_s(0.05, 0.4), 256)
    await asyncio.sleep(scene.some_s(1, 4))
    proxy.slow(0)


async def write_half(scene: Scene) -> None:
    """A worker's next bytes arrive by half, then the connection is reset."""
    scene.worker().proxy.halve()


async def take_memory(scene: Scene) -> None:
    """A worker can map hardly any more memory: what it builds or computes next may fail."""
    pid = scene.worker().process.pid
    if not pid:
        return
    try:
        now, hard = resource.prlimit(pid, resource.RLIMIT_AS)
        limit = psutil.Process(pid).memory_info().vms + 2**20
        resource.prlimit(pid, resource.RLIMIT_AS, (limit, hard))
        await asyncio.sleep(scene.some_s(1, 3))
        resource.prlimit(pid, resource.RLIMIT_AS, (now, hard))
    except (ProcessLookupError, psutil.NoSuchProcess):
        return  # it died of it: that is the fault


async def corrupt_delta(scene: Scene) -> None:
    """A byte of a delta on the disk is another for a while; models are built all the time."""
    whole = [one for one in scene.payloads if one not in scene.broken]
    if not whole:
        return
    payload = scene.chance.choice(whole)
    scene.broken.add(payload)
    place = scene.chance.randrange(payload.stat().st_size)
    _flip(payload, place)
    await asyncio.sleep(scene.some_s(2, 6))
    _flip(payload, place)
    scene.broken.discard(payload)


def _flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0x10]))


async def break_closed_api(scene: Scene) -> None:
    """It fails, says nothing, or breaks off."""
    scene.closed_api.mood = scene.chance.choice([Mood.FAILING, Mood.SILENT, Mood.HALF])
    await asyncio.sleep(scene.some_s(0.5, 3))
    scene.closed_api.mood = Mood.WELL


async def cut_callers(scene: Scene) -> None:
    """Every connection between callers and gateway is reset."""
    scene.front.cut()


async def jump_clock(scene: Scene) -> None:
    """The gateway's wall clock jumps by up to a day, in either direction, and back."""
    assert scene.clock is not None
    hours = scene.chance.choice([-24, -1, 1, 24])
    scene.clock.write_text(f"{hours * HOUR_S:+d}\n")
    await asyncio.sleep(scene.some_s(0.5, 3))
    scene.clock.write_text("+0\n")


async def kill_redis(scene: Scene) -> None:
    """SIGKILL; it comes back empty."""
    assert scene.redis is not None
    scene.redis.send(signal.SIGKILL)


async def pause_redis(scene: Scene) -> None:
    """SIGSTOP."""
    assert scene.redis is not None
    scene.redis.send(signal.SIGSTOP)
    await asyncio.sleep(scene.some_s(0.5, 3))
    scene.redis.send(signal.SIGCONT)


Fault = Callable[[Scene], Coroutine[Any, Any, None]]
# How often each is drawn.
SHARES: dict[str, tuple[Fault, int]] = {
    "worker killed": (kill_worker, 8),
    "worker paused": (pause_worker, 8),
    "worker's sockets cut": (cut_sockets, 14),
    "network parted": (part_network, 8),
    "slow responses": (slow_down, 10),
    "half-written response": (write_half, 14),
    "out of memory": (take_memory, 6),
    "delta corrupted": (corrupt_delta, 10),
    "closed API down": (break_closed_api, 8),
    "callers' sockets cut": (cut_callers, 6),
    "clock jumped": (jump_clock, 6),
    "Redis killed": (kill_redis, 4),
    "Redis paused": (pause_redis, 4),
}


def possible(scene: Scene) -> dict[str, tuple[Fault, int]]:
    """Those for which the scene has what they break."""
    missing = set()
    if scene.clock is None:
        missing.add(jump_clock)
    if scene.redis is None:
        missing |= {kill_redis, pause_redis}
    return {name: one for name, one in SHARES.items() if one[0] not in missing}


def mend(scene: Scene) -> None:
    """Nothing is broken any more; after the campaign."""
    for worker in scene.workers:
        worker.process.send(signal.SIGCONT)
        worker.proxy.slow(0)
        worker.proxy.refuse(False)
    scene.closed_api.mood = Mood.WELL
    if scene.redis:
        scene.redis.send(signal.SIGCONT)
