"""Workers that somebody else started: the gateway connects to their addresses."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from support.fleet import DEMO, REPO, running_fleet


@contextlib.asynccontextmanager
async def running_worker(name: str, address: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """python -m model_pool, on its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "model_pool", str(DEMO), "--worker", name, "--listen", address),
        cwd=REPO,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_two_workers_at_addresses_and_one_that_leaves(tmp_path: Path) -> None:
    addresses = {name: f"unix:{tmp_path / name}.sock" for name in ("left", "right")}
    workers = [{"name": name, "address": address} for name, address in addresses.items()]
    async with (
        running_worker("left", addresses["left"]) as left,
        running_worker("right", addresses["right"]),
        running_fleet(tmp_path, pool__workers=workers) as fleet,
    ):
        assert not fleet.worker_pids(), "the gateway started workers of its own"
        first = await fleet.ask("What is 3 plus 4?")
        again = await fleet.ask("What is 3 plus 4?")
        assert first.summary.worker == again.summary.worker, "the weights are there already"

        left.send_signal(signal.SIGTERM)
        assert await left.wait() == 0
        answers = [await fleet.ask("What is 3 plus 4?") for _ in range(5)]
        assert {answer.summary.worker for answer in answers} == {"right"}
        assert {answer.text for answer in answers} == {first.text}
