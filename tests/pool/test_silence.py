"""A worker that is stopped: its connection stays open, and nothing comes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator

import pytest_asyncio
from pool.in_process_worker import free_port, running_worker
from pool.scripted import to_run, until_ready

from deltafleet.v1 import worker_pb2
from model_pool.pool import Pool
from model_pool.worker_link import WorkerLink
from support.fleet import DEMO, REPO, until


class Paused:
    """Two workers, `first` in a process of its own, which a test may stop; and their pool."""

    def __init__(self, pool: Pool, process: asyncio.subprocess.Process) -> None:
        self.pool = pool
        self._pid = process.pid

    def stop(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._pid, signal.SIGCONT)


@pytest_asyncio.fixture(loop_scope="session")
async def paused() -> AsyncIterator[Paused]:
    port = free_port()
    addresses = [f"127.0.0.1:{port}", f"127.0.0.2:{port}"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "model_pool", str(DEMO), "--worker", "first"),
        *("--listen", addresses[0]),
        stderr=asyncio.subprocess.DEVNULL,
        cwd=REPO,
    )
    links = [WorkerLink("first", addresses[0]), WorkerLink("second", addresses[1])]
    pool = Pool(links, limit_count=8, wait_s=120, on_change=lambda: None)
    try:
        async with running_worker("second", addresses[1]):
            pool.start()
            await until_ready(pool)
            yield Paused(pool, process)
            await pool.stop()
    finally:
        process.kill()
        await process.wait()


def question() -> worker_pb2.RunRequest:
    request = to_run("a")
    request.model = "base"
    return request


async def test_a_stopped_worker_is_out_of_reach_and_what_waits_there_moves(paused: Paused) -> None:
    pool = paused.pool
    first = pool.members["first"]
    paused.stop()
    async with pool.lease("base") as lease:
        assert lease.worker == "first"
        answer = [one async for one in lease.generate(question(), None)]

    assert lease.worker == "second" and answer[-1].finish_reason
    assert first.is_silent and not first.is_ready and first.in_flight_count == 0
    assert pool.retries == {"silent": 1}
    async with pool.lease("base") as lease:
        assert lease.worker == "second"

    paused.go_on()
    await until_ready(pool)
    assert not first.is_silent
    pool.members = {"first": first}  # the other one has the weights by now
    async with pool.lease("base") as lease:
        answer = [one async for one in lease.generate(question(), None)]
    assert lease.worker == "first" and answer[-1].finish_reason


async def test_without_another_worker_a_request_waits_for_the_stopped_one(paused: Paused) -> None:
    pool = paused.pool
    pool.members = {"first": pool.members["first"]}
    paused.stop()
    async with pool.lease("base") as lease:
        responses = lease.generate(question(), None)
        asked = asyncio.create_task(anext(responses))

        async def is_silent() -> bool:
            return pool.members["first"].is_silent

        await until(is_silent)
        assert not asked.done()
        paused.go_on()
        async with contextlib.aclosing(responses):
            await asked
            assert [one async for one in responses][-1].finish_reason
    assert not pool.retries
