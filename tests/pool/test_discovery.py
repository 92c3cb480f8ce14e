"""Workers found by DNS: who joins the pool, under which name, and when they leave it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest_asyncio
from pool.in_process_worker import InProcessWorker, free_port, running_worker

from deltafleet.v1 import routing_pb2, worker_pb2
from model_pool.discovery import GroupFinder, resolve_addresses
from model_pool.pool import Pool
from model_pool.settings import WorkerGroup
from support.fleet import until

PRICE_NANO_USD_PER_HOUR = 3_600_000_000


class Names:
    """What DNS has: the test changes it. None: it does not answer."""

    def __init__(self) -> None:
        self.addresses: set[str] | None = set()

    async def resolve(self, host: str, port: int) -> frozenset[str] | None:
        return None if self.addresses is None else frozenset(self.addresses)


class Found:
    """A pool and the finder that fills it. The test looks itself."""

    def __init__(self, models: tuple[str, ...] = ()) -> None:
        self.names = Names()
        group = WorkerGroup(dns="workers:7071", models=models)
        self.pool = Pool(
            [],
            limit_count=8,
            wait_s=20,
            on_change=lambda: None,
            groups={"small": group.serves},
        )
        self.finder = GroupFinder("small", group, self.pool, self.names.resolve)

    async def look(self, *addresses: str) -> None:
        self.names.addresses = set(addresses)
        await self.finder.look()

    async def until_members(self, *names: str) -> None:
        async def are_so() -> bool:
            members = self.pool.members
            return set(members) == set(names) and all(one.is_ready for one in members.values())

        await until(are_so)


@pytest_asyncio.fixture(loop_scope="session")
async def found() -> AsyncIterator[Found]:
    one = Found()
    yield one
    await one.finder.stop()


async def until_silent(found: Found, name: str) -> None:
    async def is_so() -> bool:
        return found.pool.members[name].status is None

    await until(is_so)


@contextlib.asynccontextmanager
async def two_workers(
    left: str = "left", right: str = "right"
) -> AsyncIterator[tuple[InProcessWorker, InProcessWorker]]:
    port = free_port()
    async with (
        running_worker(left, f"127.0.0.1:{port}") as one,
        running_worker(right, f"127.0.0.2:{port}") as other,
    ):
        yield one, other


def to_run(model: str) -> worker_pb2.RunRequest:
    return worker_pb2.RunRequest(
        request_id="r",
        model=model,
        messages=[routing_pb2.ChatMessage(role=routing_pb2.ROLE_USER, content="a")],
        max_output_token_count=2,
        top_p=1,
    )


async def test_workers_join_under_the_names_that_they_tell(found: Found) -> None:
    async with two_workers() as (left, right):
        await found.look(left.address)
        await found.until_members("left")
        await found.look(left.address, right.address)
        await found.until_members("left", "right")
        price = found.pool.members["right"].status.price_nano_usd_per_hour
    assert price == PRICE_NANO_USD_PER_HOUR


async def test_one_that_left_dns_stays_until_its_stream_ends(found: Found) -> None:
    async with two_workers() as (left, right):
        await found.look(left.address, right.address)
        await found.until_members("left", "right")
        incarnation = found.pool.members["left"].status.incarnation
        await found.look(right.address)
        await found.until_members("left", "right")

        await left.stop()
        await until_silent(found, "left")
        await found.look(right.address)
        assert set(found.pool.members) == {"right"}
        # Its last word is still to be written down.
        assert [word.incarnation for word in found.pool.departed] == [incarnation]


async def test_dns_that_does_not_answer_changes_nothing(found: Found) -> None:
    async with two_workers() as (left, _):
        await found.look(left.address)
        await found.until_members("left")
        await left.stop()
        await until_silent(found, "left")
        found.names.addresses = None
        await found.finder.look()
        assert set(found.pool.members) == {"left"}


async def test_a_name_moves_to_the_address_of_the_worker_that_came_back(found: Found) -> None:
    async with two_workers("same", "same") as (old, new):
        await found.look(old.address)
        await found.until_members("same")
        before = found.pool.members["same"]
        await old.stop()
        await until_silent(found, "same")
        await found.look(old.address, new.address)  # DNS still has both
        await found.until_members("same")
        assert found.pool.members["same"] is not before


async def test_two_of_one_name_are_told_apart(found: Found) -> None:
    async with two_workers("same", "same") as (left, right):
        await found.look(left.address)
        await found.until_members("same")
        await found.look(left.address, right.address)
        await found.until_members("same", f"same@{right.address}")


async def test_one_worker_at_two_addresses_is_one(found: Found) -> None:
    port = free_port()
    async with running_worker("one", f"0.0.0.0:{port}"):
        await found.look(f"127.0.0.1:{port}", f"127.0.0.2:{port}")
        await found.until_members("one")
        heard = [one for one in found.finder._found.values() if one.link.status]

        async def are_both_heard() -> bool:
            heard[:] = [one for one in found.finder._found.values() if one.link.status]
            return len(heard) == 2

        await until(are_both_heard)
        await found.until_members("one")


async def test_a_name_that_leads_here_is_resolved() -> None:
    assert "127.0.0.1:7071" in (await resolve_addresses("localhost", 7071) or ())


async def test_a_worker_is_asked_only_for_the_models_of_its_group() -> None:
    found = Found(models=("sql",))
    async with two_workers() as (left, _):
        await found.look(left.address)
        await found.until_members("left")
        assert found.pool.members["left"].serves == {"sql"}
        await found.finder.stop()


async def test_a_request_waits_for_the_first_worker_of_its_group(found: Found) -> None:
    async def ask() -> str:
        async with found.pool.lease("base") as lease:
            return lease.worker

    async with two_workers() as (left, _):
        asked = asyncio.create_task(ask())
        await asyncio.sleep(0)
        count, age_s = found.pool.waits.by_model()["base"]
        assert count == 1 and age_s >= 0
        await found.look(left.address)
        assert await asked == "left"
        assert found.pool.waits.by_model() == {}


async def test_a_request_that_a_stopping_worker_refuses_goes_to_another(found: Found) -> None:
    async with two_workers() as (left, right):
        await found.look(left.address, right.address)
        await found.until_members("left", "right")
        async with found.pool.lease("base") as lease:
            first = {"left": left, "right": right}[lease.worker]
            await first.servicer.drain()
            answer = [one async for one in lease.generate(to_run("base"), None)]
            assert answer[-1].finish_reason
            assert lease.worker != first.name


async def test_a_rolling_restart_fails_nobody(found: Found) -> None:
    """As a StatefulSet does it: each pod drains and ends, then its name comes back elsewhere."""
    answered_count, is_over = 0, False

    async def ask() -> None:
        nonlocal answered_count
        while not is_over:
            async with found.pool.lease("base") as lease:
                answer = [one async for one in lease.generate(to_run("base"), None)]
            assert answer[-1].finish_reason
            answered_count += 1

    async with two_workers() as old, contextlib.AsyncExitStack() as stack:
        addresses = [worker.address for worker in old]
        await found.look(*addresses)
        await found.until_members("left", "right")
        callers = [asyncio.create_task(ask()) for _ in range(4)]
        for place, worker in enumerate(old):
            before_count = answered_count
            await worker.stop()
            port = worker.address.rpartition(":")[2]
            addresses[place] = f"127.0.0.{place + 3}:{port}"
            new = await stack.enter_async_context(running_worker(worker.name, addresses[place]))
            await found.look(*addresses)
            await found.until_members("left", "right")
            assert found.pool.members[worker.name].status.worker == new.name

            async def goes_on(before_count: int = before_count) -> bool:
                return answered_count > before_count

            await until(goes_on)
        is_over = True
        await asyncio.gather(*callers)
        assert not found.pool.waits.by_model()
