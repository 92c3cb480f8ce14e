"""A fleet in processes of its own, as `deltafleet up` starts it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

START_LIMIT_S = 300.0


@contextlib.asynccontextmanager
async def running(
    fleet: Path,
    listen: str = "127.0.0.1:0",
    metrics: str = "127.0.0.1:0",
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[tuple[grpc.aio.Channel, int]]:
    """Yields a channel to its door and its process id, once a worker is ready.

    environment: variables beside our own. Its log: gateway.log beside the fleet. Raises
    RuntimeError where it does not start.
    """
    log = fleet.with_name("gateway.log")
    with log.open("w") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "up", str(fleet)),
            *("--listen", listen, "--metrics", metrics),
            env=os.environ | dict(environment or {}),
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
        )
    try:
        async with asyncio.timeout(START_LIMIT_S):
            assert process.stdout is not None
            line = (await process.stdout.readline()).decode()
        if "listens on" not in line:
            raise RuntimeError(f"the fleet did not start; {log} shows why")
        async with grpc.aio.insecure_channel(line.split()[-1]) as channel:
            async with asyncio.timeout(START_LIMIT_S):
                await _until_serving(channel)
            yield channel, process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _until_serving(channel: grpc.aio.Channel) -> None:
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    async for answer in watch:
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            watch.cancel()
            return
