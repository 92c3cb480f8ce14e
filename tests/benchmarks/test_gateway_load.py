"""The client that measures the gateway reads what a real server says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from benchmarks.gateway import grpc_load
from benchmarks.gateway.grpc_load import Call
from benchmarks.gateway.http2 import header_block
from benchmarks.gateway.pacing import Pacing, unpacked
from deltafleet.v1 import inference_pb2, inference_pb2_grpc

METHOD = "/deltafleet.v1.InferenceService/StreamGenerate"


class Servicer(inference_pb2_grpc.InferenceServiceServicer):
    """Says its prompt so many times; knows who left, and under which id."""

    def __init__(self) -> None:
        self.left: list[str] = []
        self.someone_left = asyncio.Event()

    async def StreamGenerate(
        self, request: inference_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[inference_pb2.StreamGenerateResponse]:
        if request.prompt == "refuse":
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no")
        try:
            for _ in range(request.max_output_token_count):
                yield inference_pb2.StreamGenerateResponse(text=request.prompt)
            if request.prompt == "wait":
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.left.append(dict(context.invocation_metadata())["x-request-id"])
            self.someone_left.set()
            raise


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[tuple[Servicer, grpc_load.GrpcConnection]]:
    servicer, server = Servicer(), grpc.aio.server()
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    connection = await grpc_load.connect(f"127.0.0.1:{port}", METHOD)
    try:
        yield servicer, connection
    finally:
        connection.close()
        await server.stop(0)


class Asked:
    """One call, and what came of it."""

    def __init__(self, connection: grpc_load.GrpcConnection, prompt: str, count: int) -> None:
        self.texts: list[str] = []
        self.first = asyncio.Event()
        self.end: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.call = Call(self._hear, self.end.set_result)
        request = inference_pb2.GenerateRequest(prompt=prompt, max_output_token_count=count)
        headers = header_block({"x-request-id": f"id-{prompt[:9]}"})
        connection.start(request.SerializeToString(), self.call, headers)

    def _hear(self, message: bytes) -> None:
        self.texts.append(inference_pb2.StreamGenerateResponse.FromString(message).text)
        self.first.set()


async def test_many_calls_at_once_are_told_apart_and_whole():
    async with served() as (_, connection):
        asked = [Asked(connection, f"{number} " * 40, 3) for number in range(300)]
        assert all(await asyncio.gather(*(one.end for one in asked)))

    assert [one.texts for one in asked] == [[f"{number} " * 40] * 3 for number in range(300)]


async def test_messages_that_frames_part_arrive():
    async with served() as (_, connection):
        asked = Asked(connection, "x" * 15_000, 30)
        assert await asked.end

    assert asked.texts == ["x" * 15_000] * 30


async def test_a_refused_call_counts_as_failed():
    async with served() as (_, connection):
        refused, answered = Asked(connection, "refuse", 1), Asked(connection, "answer", 1)

        assert not await refused.end
        assert await answered.end


async def test_who_leaves_is_seen_to_leave():
    async with served() as (servicer, connection):
        asked = Asked(connection, "wait", 1)
        await asked.first.wait()
        connection.cancel(asked.call)
        await servicer.someone_left.wait()

    assert servicer.left == ["id-wait"]


def test_a_pacing_survives_the_seed():
    for pacing in (Pacing(1), Pacing(8, 0.02), Pacing(1, 0.2)):
        assert unpacked(pacing.seed) == pacing
