"""Callers who leave, and deadlines that pass, over a socket: counted in steps, not in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
import pytest_asyncio
from engine.watching import ForwardWatch
from pool.in_process_worker import InProcessWorker, free_port, running_worker

from deltafleet.v1 import routing_pb2, worker_pb2, worker_pb2_grpc

STEP_COUNT = 4


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def worker() -> AsyncIterator[InProcessWorker]:
    async with running_worker("worker-0", f"127.0.0.1:{free_port()}") as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stub(worker: InProcessWorker) -> AsyncIterator[worker_pb2_grpc.WorkerServiceStub]:
    async with grpc.aio.insecure_channel(worker.address) as channel:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        async for _ in stub.Run(asked("build the weights", 1)):
            pass
        yield stub


@pytest.fixture
def watch() -> Iterator[ForwardWatch]:
    with ForwardWatch() as watching:
        yield watching


def asked(prompt: str, output_count: int = 200) -> worker_pb2.RunRequest:
    return worker_pb2.RunRequest(
        request_id=prompt,
        model="base",
        messages=[routing_pb2.ChatMessage(role=routing_pb2.ROLE_USER, content=prompt)],
        max_output_token_count=output_count,
        temperature=2,
        top_p=1,
        seed=1583,  # a long answer to "The sea"
    )


async def until_empty(worker: InProcessWorker) -> None:
    """Nobody has a place or waits for one. The steps stand still meanwhile."""
    while (report := worker.engine.report()).running_count + report.queued_count:
        await asyncio.sleep(0.001)


async def test_a_cancelled_request_computes_no_step_after_the_one_it_is_in(
    worker: InProcessWorker, stub: worker_pb2_grpc.WorkerServiceStub, watch: ForwardWatch
) -> None:
    watch.close_gate(after=STEP_COUNT)
    call = stub.Run(asked("The sea"))
    await call.read()
    assert await asyncio.to_thread(watch.is_waiting.wait, 60)
    call.cancel()
    await until_empty(worker)
    watch.open_gate()
    await worker.engine.drain()

    assert len(watch.shapes) == STEP_COUNT + 1


async def test_a_request_whose_deadline_passes_computes_no_further_step(
    worker: InProcessWorker, stub: worker_pb2_grpc.WorkerServiceStub, watch: ForwardWatch
) -> None:
    watch.close_gate(after=STEP_COUNT)
    call = stub.Run(asked("The sea"), timeout=10)
    assert await asyncio.to_thread(watch.is_waiting.wait, 60)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        async for _ in call:
            pass
    await until_empty(worker)
    watch.open_gate()

    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await worker.engine.drain()
    assert len(watch.shapes) == STEP_COUNT + 1


async def test_a_request_that_waits_is_dropped_before_its_first_step(
    worker: InProcessWorker, stub: worker_pb2_grpc.WorkerServiceStub, watch: ForwardWatch
) -> None:
    """One with a caller who leaves, and one whose deadline passes."""
    watch.close_gate(after=STEP_COUNT)
    running = stub.Run(asked("The sea"))
    await running.read()
    assert await asyncio.to_thread(watch.is_waiting.wait, 60)
    leaving, late = stub.Run(asked("leaving")), stub.Run(asked("late"), timeout=10)
    while worker.engine.report().queued_count < 2:
        await asyncio.sleep(0.001)
    leaving.cancel()
    while worker.engine.report().queued_count:
        await asyncio.sleep(0.001)
    watch.open_gate()
    running.cancel()
    await until_empty(worker)
    await worker.engine.drain()

    assert await late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    prompts = [tokens for _, tokens in watch.shapes if tokens > 1]
    assert len(prompts) == 1


async def test_the_place_of_one_who_left_is_free(
    worker: InProcessWorker, stub: worker_pb2_grpc.WorkerServiceStub
) -> None:
    for _ in range(3):
        # All that the worker takes.
        calls = [stub.Run(asked("The sea")) for _ in range(8)]
        await asyncio.gather(*(call.read() for call in calls))
        for call in calls:
            call.cancel()
        await until_empty(worker)
    text = "".join([response.text async for response in stub.Run(asked("The sea", 5))])

    assert text
