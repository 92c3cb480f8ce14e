"""Before its first word a request goes to another worker, once; after it, never."""

from __future__ import annotations

import contextlib

import pytest
from pool.in_process_worker import free_port, running_worker
from pool.scripted import answer_of, fail, refuse_as_full, scripted_pool, to_run

from model_pool.errors import PoolSaturated, WorkerLost
from model_pool.pool import Pool
from model_pool.worker_link import WorkerLink
from support.fleet import until
from support.openai_server import TEXTS, Call

BEGINS = pytest.mark.parametrize("how", ["refused", "failed", "dropped"])


async def drop(call: Call) -> None:
    await call.drop()


async def drop_in_mid_stream(call: Call) -> None:
    await call.begin()
    await call.say("It ")
    await call.drop()


@BEGINS
async def test_another_worker_is_asked_and_not_the_same_again(how: str) -> None:
    async with scripted_pool("a", "b") as (pool, servers):
        if how == "refused":
            await servers["a"].stop()
        else:
            servers["a"].answer = {"failed": fail, "dropped": drop}[how]
        worker, answer = await answer_of(pool, to_run())

        assert worker == "b"
        assert "".join(one.text for one in answer) == "".join(TEXTS)
        assert len(servers["a"].calls) == (how != "refused")
        assert pool.retries == {"lost": 1}
        assert [one.in_flight_count for one in pool.members.values()] == [0, 0]


async def test_another_worker_is_asked_also_where_it_is_the_busier_one() -> None:
    async with scripted_pool("a", "b") as (pool, servers):
        servers["a"].answer = fail
        pool.members["b"].in_flight_count = 3
        assert (await answer_of(pool, to_run()))[0] == "b"
        assert len(servers["a"].calls) == 1


async def test_it_is_asked_once_more_and_not_twice() -> None:
    async with scripted_pool("a", "b", "c") as (pool, servers):
        for server in servers.values():
            server.answer = fail
        with pytest.raises(WorkerLost):
            await answer_of(pool, to_run())
        assert [len(one.calls) for one in servers.values()] == [1, 1, 0]


async def test_after_the_first_word_nobody_else_is_asked() -> None:
    async with scripted_pool("a", "b") as (pool, servers):
        servers["a"].answer = drop_in_mid_stream
        with pytest.raises(WorkerLost):
            await answer_of(pool, to_run())
        assert not servers["b"].calls and not pool.retries


async def test_a_worker_that_others_filled_is_left_for_one_with_room() -> None:
    async with scripted_pool("a", "b") as (pool, servers):
        servers["a"].answer = refuse_as_full
        assert (await answer_of(pool, to_run()))[0] == "b"
        assert pool.retries == {"saturated": 1}

        servers["b"].answer = refuse_as_full
        with pytest.raises(PoolSaturated):
            await answer_of(pool, to_run())
        assert [len(one.calls) for one in servers.values()] == [2, 2]


async def test_a_full_worker_says_when_to_come_back_where_no_other_has_room() -> None:
    async with scripted_pool("a", "b", limit_count=1) as (pool, servers):
        servers["a"].answer = refuse_as_full
        pool.members["b"].in_flight_count = 1
        with pytest.raises(PoolSaturated) as caught:
            await answer_of(pool, to_run())
        assert caught.value.retry_after_s == 7
        assert not servers["b"].calls and not pool.retries


async def test_a_worker_of_ours_that_other_gateways_filled_is_left_too() -> None:
    """Two gateways share two workers, which take eight requests each; one has filled the first."""
    port = free_port()
    async with (
        running_worker("left", f"127.0.0.1:{port}") as left,
        running_worker("right", f"127.0.0.2:{port}") as right,
    ):
        links = [WorkerLink(one.name, one.address) for one in (left, right)]
        pool = Pool(links, limit_count=8, wait_s=60, on_change=lambda: None)
        pool.start()

        async def are_ready() -> bool:
            return all(link.is_ready for link in links)

        await until(are_ready)
        with contextlib.ExitStack() as others:
            for _ in range(8):
                others.enter_context(left.servicer._admission())
            request = to_run("a")
            request.model = "base"
            worker, answer = await answer_of(pool, request)
        await pool.stop()

    assert worker == "right" and answer[-1].finish_reason
    assert pool.retries == {"saturated": 1}
