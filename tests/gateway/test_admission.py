"""Places are kept for who has few: a burst is refused at once, before anything is sent to it."""

from __future__ import annotations

import asyncio
import os
import signal
import urllib.request
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from grpc import StatusCode
from prometheus_client.parser import text_string_to_metric_families

from deltafleet.v1 import inference_pb2
from support.fleet import Failure, Fleet, failure_of, rows, running_fleet, until

PLACE_COUNT = 12
BATCH, INTERACTIVE = inference_pb2.PRIORITY_BATCH, inference_pb2.PRIORITY_INTERACTIVE


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def small(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """A fleet of twelve places."""
    limits = {"pool__max_running_count": 2, "pool__max_queued_count": PLACE_COUNT - 2}
    async with running_fleet(tmp_path_factory.mktemp("small"), **limits) as running:
        yield running


class Crowd:
    """Calls that are under way, and are cancelled at the end."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.calls: list[grpc.aio.UnaryStreamCall] = []

    async def enter(self, caller: str, priority: int = 0) -> Failure | None:
        """Why it may not; None: it has a place, and was told the decision."""
        request = inference_pb2.GenerateRequest(prompt="6 + 7", priority=priority)
        call = self._fleet.inference.StreamGenerate(
            request, metadata=(("deltafleet-caller", caller),)
        )
        try:
            first = await call.read()
        except grpc.aio.AioRpcError as error:
            return failure_of(error)
        assert first.HasField("decision")
        self.calls.append(call)
        return None

    async def fill(self, caller: str, priority: int = 0) -> tuple[int, Failure]:
        """How many get a place, and what the next one is told."""
        count = 0
        while (failure := await self.enter(caller, priority)) is None:
            count += 1
        return count, failure

    def leave(self) -> None:
        """Go away, all of them."""
        for call in self.calls:
            call.cancel()


@pytest_asyncio.fixture(loop_scope="session")
async def crowd(small: Fleet) -> AsyncIterator[Crowd]:
    """While there is one, the worker stands still, so that nothing ends."""
    crowd, before_count = Crowd(small), cancelled_count(small)
    (pid,) = small.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    try:
        yield crowd
        crowd.leave()
    finally:
        os.kill(pid, signal.SIGCONT)

    async def have_left() -> bool:
        return cancelled_count(small) == before_count + len(crowd.calls)

    await until(have_left)


def cancelled_count(fleet: Fleet) -> int:
    return sum(outcome == "cancelled" for _, outcome in rows(fleet))


async def decision_count(fleet: Fleet) -> float:
    """How many requests were routed."""
    page = await asyncio.to_thread(urllib.request.urlopen, f"http://{fleet.metrics}/metrics")
    with page:
        families = text_string_to_metric_families(page.read().decode())
        samples = [one for family in families for one in family.samples]
    return sum(one.value for one in samples if one.name == "deltafleet_route_decisions_total")


async def test_a_burst_is_refused_for_its_share_and_others_find_room(crowd: Crowd) -> None:
    assert await crowd.enter("quiet") is None
    count, failure = await crowd.fill("noisy")

    assert count == PLACE_COUNT - 2
    assert failure.code is StatusCode.RESOURCE_EXHAUSTED
    assert failure.reason == "ERROR_REASON_CALLER_SATURATED"
    assert failure.metadata == {"caller_count": str(count), "free_count": "1"}
    assert failure.retry_after_s > 0

    assert await crowd.enter("quiet") is None
    full = await crowd.enter("somebody else")
    assert full is not None
    assert (full.code, full.reason) == (StatusCode.UNAVAILABLE, "ERROR_REASON_POOL_SATURATED")
    assert full.retry_after_s > 0


async def test_who_finds_the_fleet_full_is_refused_before_anything_is_asked_of_it(
    small: Fleet, crowd: Crowd
) -> None:
    await crowd.fill("noisy")
    decided = await decision_count(small)
    failures = [await crowd.enter("noisy") for _ in range(5)]

    assert {one.reason for one in failures if one} == {"ERROR_REASON_POOL_SATURATED"}
    assert len(failures) == 5
    assert await decision_count(small) == decided


async def test_who_is_alone_is_told_that_the_fleet_is_full(crowd: Crowd) -> None:
    count, failure = await crowd.fill("alone")

    assert count == PLACE_COUNT - 1
    assert failure.reason == "ERROR_REASON_POOL_SATURATED"


async def test_interactive_requests_find_room_where_batch_work_fills_the_rest(
    crowd: Crowd,
) -> None:
    count, failure = await crowd.fill("noisy", BATCH)

    assert count == PLACE_COUNT * 2 // 3
    assert failure.reason == "ERROR_REASON_POOL_SATURATED"
    assert await crowd.enter("noisy", INTERACTIVE) is None
    assert await crowd.enter("quiet", INTERACTIVE) is None
    assert await crowd.enter("quiet") is None
