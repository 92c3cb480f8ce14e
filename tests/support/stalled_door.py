"""A gateway's gRPC door that refuses every call, and stands still when it is told to.

A line on standard input stops its event loop until the next one; it says what it does on standard
output, first its address.
"""

from __future__ import annotations

import asyncio
import sys

from deltafleet.v1 import inference_pb2, inference_pb2_grpc
from gateway.caller import admit_anybody
from gateway.grpc_door import GrpcDoor
from gateway.settings import Server
from model_pool.errors import PoolSaturated


class Full(inference_pb2_grpc.InferenceServiceServicer):
    """Has no place."""

    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: object
    ) -> inference_pb2.GenerateResponse:
        raise PoolSaturated("full", retry_after_s=1)


def say(text: str) -> None:
    """One line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def main() -> None:
    """Until standard input ends."""
    ended = asyncio.Event()
    door = GrpcDoor(Server(listen="127.0.0.1:0"), admit_anybody, lambda *ending: None)
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(Full(), door.server)
    say(await door.start())

    def stall() -> None:
        if not sys.stdin.readline():
            ended.set()
            return
        say("stalled")
        sys.stdin.readline()

    asyncio.get_running_loop().add_reader(sys.stdin, stall)
    await ended.wait()
    await door.stop()


if __name__ == "__main__":
    asyncio.run(main())
