"""A fleet in processes of its own, as `deltafleet up` starts it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.engines import CONTEXT_TOKEN_COUNT, OPTIONS, RUNNING_COUNT
from examples.demo import plan

START_LIMIT_S = 300.0


def write_fleet(home: Path, base: Path, name: str, delta: Path) -> Path:
    """A fleet.yaml with one specialist, to which every prompt is routed."""
    fleet = {
        "base": {"path": str(base.resolve())},
        "specialists": {
            name: {
                "description": "The one that is measured",
                "delta": str(delta.resolve()),
                "examples_file": str((plan.DEMO_DIR / "routing" / "sql.txt").resolve()),
            }
        },
        "pool": {
            "engine": "vllm",
            "vllm": OPTIONS.model_dump(exclude_defaults=True),
            "max_running_count": RUNNING_COUNT,
            "context_token_count": CONTEXT_TOKEN_COUNT,
            "thread_count": 1,
            "memory_budget_mib": 8192,
            "price_usd_per_hour": 0.05,
            "preload": [name],
        },
        "routing": {"encoder_thread_count": 1, "fallback": name},
        "baselines": {
            "gpt-5-mini": {"price": "openai/gpt-5-mini"},
            "claude-haiku-4-5": {"price": "anthropic/claude-haiku-4-5"},
        },
        "ledger": {"path": str((home / "ledger.sqlite3").resolve())},
    }
    path = home / "fleet.yaml"
    path.write_text(yaml.safe_dump(fleet))
    return path


@contextlib.asynccontextmanager
async def serving(fleet: Path) -> AsyncIterator[grpc.aio.Channel]:
    """Yields a channel to its door once a worker is ready. Its log: gateway.log beside the fleet.

    Raises RuntimeError where it does not start.
    """
    log = fleet.with_name("gateway.log")
    with log.open("w") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "up", str(fleet)),
            *("--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"),
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
            yield channel
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
