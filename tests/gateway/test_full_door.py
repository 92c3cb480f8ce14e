"""A door with more calls than it can take: each is told why, and none is kept when it is over."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from deltafleet.v1 import inference_pb2, inference_pb2_grpc
from gateway.grpc_door import WAITING_COUNT, to_options
from gateway.settings import Server
from model_pool.errors import PoolSaturated
from model_pool.grpc_server import make_server
from model_pool.rpc import Door, to_failure

CALL_COUNT = 3 * Server().stream_limit
REPO = Path(__file__).parents[2]
SETTLE_S = 1.0  # for the calls to be on their way


class Full(inference_pb2_grpc.InferenceServiceServicer):
    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: object
    ) -> inference_pb2.GenerateResponse:
        raise PoolSaturated("full", retry_after_s=1)


async def endings(address: str, count: int) -> Counter[str]:
    """What becomes of so many calls at once on one connection."""
    async with grpc.aio.insecure_channel(address, [("grpc.enable_retries", 0)]) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)

        async def ask() -> str:
            try:
                await stub.Generate(inference_pb2.GenerateRequest(prompt="a"), timeout=120)
            except grpc.aio.AioRpcError as error:
                return type(to_failure(error)).__name__
            return "answered"

        return Counter(await asyncio.gather(*(ask() for _ in range(count))))


async def test_whoever_waits_for_a_busy_gateway_is_told_why_it_is_refused() -> None:
    assert CALL_COUNT < WAITING_COUNT
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.stalled_door"),
        cwd=REPO,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin and process.stdout
    address = (await process.stdout.readline()).decode().strip()
    process.stdin.write(b"stand still\n")
    assert await process.stdout.readline() == b"stalled\n"
    asked = asyncio.create_task(endings(address, CALL_COUNT))
    await asyncio.sleep(SETTLE_S)
    process.stdin.write(b"go on\n")

    assert await asked == {"PoolSaturated": CALL_COUNT}

    process.stdin.close()
    assert await process.wait() == 0


@pytest.fixture
async def refusing_door() -> AsyncIterator[str]:
    door = Door(max_message_bytes=1024, default_deadline_s=60)
    server = make_server([door], to_options(Server()))
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(Full(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


def _kept() -> int:
    """Failures whose calls are over, and which nobody has let go."""
    # By type: some libraries' objects answer to isinstance with a warning.
    kinds = (PoolSaturated, grpc.aio.AbortError)
    return sum(issubclass(type(one), kinds) for one in gc.get_objects())


async def test_a_refused_call_is_gone_without_a_garbage_collection(refusing_door: str) -> None:
    await endings(refusing_door, 1)
    gc.collect()
    gc.disable()
    try:
        assert await endings(refusing_door, 50) == {"PoolSaturated": 50}
        kept = _kept()
    finally:
        gc.enable()

    assert kept < 5  # the last ones may still be on their way


async def test_a_method_that_is_not_there_leaves_nothing_either(refusing_door: str) -> None:
    async with grpc.aio.insecure_channel(refusing_door) as channel:
        gc.collect()
        gc.disable()
        try:
            for _ in range(50):
                with pytest.raises(grpc.aio.AioRpcError):
                    await channel.unary_unary("/deltafleet.v1.Nothing/Nothing")(b"")
            kept = _kept()
        finally:
            gc.enable()

    assert kept < 5


async def test_another_limit_holds_for_the_next_message() -> None:
    door = Door(max_message_bytes=1024, default_deadline_s=60)
    server = make_server([door], ())
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(Full(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    assert await endings(f"127.0.0.1:{port}", 1) == {"PoolSaturated": 1}
    door.limit(2, 60)
    assert await endings(f"127.0.0.1:{port}", 1) == {"MessageTooLarge": 1}
    await server.stop(None)
