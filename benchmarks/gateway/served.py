"""The gateway in full, in a process of its own, with a watch on its event loop.

    python -m benchmarks.gateway.served FLEET [--loop uvloop]

Writes the addresses of its door and of its page as its first line. A line on standard input is
answered with one JSON object: the longest time that the loop was late since the line before,
seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
import time
from pathlib import Path

from benchmarks.gateway.loops import run
from gateway.assembly import Gateway
from gateway.configuration.fleet_file import FleetFile
from gateway.long_lived import set_apart
from model_pool.logs import start_logging

LOOK_INTERVAL_S = 0.001


class Lag:
    """How late the loop is at most."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def watch(self) -> None:
        """Until cancelled."""
        while True:  # not by the loop's own clock, which on uvloop tells whole milliseconds
            due_s = time.perf_counter() + LOOK_INTERVAL_S
            await asyncio.sleep(LOOK_INTERVAL_S)
            self.longest_s = max(self.longest_s, time.perf_counter() - due_s)


async def serve(fleet: Path) -> None:
    """Until the process ends."""
    start_logging()
    gateway, lag = Gateway(FleetFile(fleet)), Lag()
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    async with gateway.serving() as address:
        set_apart()
        sys.stdout.write(f"{address} {gateway.page_address}\n")
        sys.stdout.flush()
        threading.Thread(
            target=lambda: [loop.call_soon_threadsafe(asked.set) for _ in sys.stdin], daemon=True
        ).start()
        watching: asyncio.Task[None] | None = None
        while True:
            await asked.wait()
            asked.clear()
            if watching is None:  # it costs a little, so that only who asks pays
                watching = asyncio.create_task(lag.watch())
            sys.stdout.write(json.dumps({"longest_s": lag.longest_s}) + "\n")
            sys.stdout.flush()
            lag.longest_s = 0.0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("fleet", type=Path)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    chosen = parser.parse_args()
    run(serve(chosen.fleet), chosen.loop)
