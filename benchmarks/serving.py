"""A fleet of one specialist on vLLM, behind its gateway."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import yaml

from benchmarks.engines import CONTEXT_TOKEN_COUNT, OPTIONS, RUNNING_COUNT
from benchmarks.fleet_process import running
from examples.demo import plan


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
            "hardware": {"usd_per_hour": 0.05},
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
    """Yields a channel to its door. See `fleet_process.running`."""
    async with running(fleet) as (channel, _):
        yield channel
