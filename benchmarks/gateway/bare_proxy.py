"""The least that a proxy on grpc.aio does: bytes in, bytes out, no logic.

    python -m benchmarks.gateway.bare_proxy UPSTREAM [--loop uvloop] [--server native]

It passes WorkerService.Run on as it is, and writes its address as its first line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc

from benchmarks.gateway.loops import run

SERVICE, METHOD = "deltafleet.v1.WorkerService", "Run"


async def serve(upstream: str, server_kind: str) -> None:
    """Until the process ends."""
    async with grpc.aio.insecure_channel(upstream) as channel:
        call: Any = channel.unary_stream(f"/{SERVICE}/{METHOD}")

        async def pass_on(request: bytes, context: Any) -> AsyncIterator[bytes]:
            async for message in call(request, timeout=context.time_remaining()):
                yield message

        server = _server(server_kind)
        handlers: dict[str, Any] = {METHOD: grpc.unary_stream_rpc_method_handler(pass_on)}
        server.add_registered_method_handlers(SERVICE, handlers)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        sys.stdout.write(f"127.0.0.1:{port}\n")
        sys.stdout.flush()
        await server.wait_for_termination()


def _server(kind: str) -> Any:
    if kind == "native":
        import pygrpc_native.aio

        return pygrpc_native.aio.server()
    return grpc.aio.server()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("upstream")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--server", choices=("grpcio", "native"), default="grpcio")
    chosen = parser.parse_args()
    run(serve(chosen.upstream, chosen.server), chosen.loop)
