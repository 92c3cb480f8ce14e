"""One generator's share of a phase, sent on time: `python -m loadtests.sending`.

Started by each of locust's processes. In a process of its own, with its own event loop, because
gRPC under gevent sees late what came in time, and a generator must not add to what it measures.
Each request is a line of JSON (`record.py`) on standard output when it has ended.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from pathlib import Path

from loadtests.asking import Asker
from loadtests.plan import LoadPlan
from loadtests.scenario import Users
from loadtests.schedule import Arrival, arrivals, question, share_of

# Phases ask different questions.
PHASE = 1_000_000


class Sender:
    """Sends what is one generator's to send. begin: seconds since the epoch."""

    def __init__(self, plan: LoadPlan, place: int, begin: float) -> None:
        self._plan = plan
        self._place = place
        self._begin = begin
        self._channel = plan.access.open_channel(plan.addresses, retries=plan.scenario.retries)
        self._askers = [
            Asker(self._channel, one, plan.phase, self._now_s) for one in plan.scenario.traffic
        ]

    async def run(self) -> None:
        """Return when everything has ended."""
        async with self._channel, asyncio.TaskGroup() as waiting:
            await self._channel.channel_ready()
            waiting.create_task(self._send_scheduled(waiting))
            for number, traffic in enumerate(self._plan.scenario.traffic):
                users = traffic.arrivals.users
                if users:
                    for user in range(users.count)[self._place :: self._plan.generators]:
                        waiting.create_task(self._wait_and_ask(number, users, user))

    async def _send_scheduled(self, waiting: asyncio.TaskGroup) -> None:
        plan = self._plan
        whole = arrivals(plan.stages, plan.scenario.seed + plan.phase)
        gc.freeze()  # what is here now stays; collecting it would make requests late
        for arrival in share_of(whole, self._place, plan.generators):
            # Also where it is late: the answers must be read, too.
            await asyncio.sleep(max(0.0, arrival.at_s - self._now_s()))
            if plan.stop_file.exists():
                return
            waiting.create_task(self._ask(arrival))

    async def _wait_and_ask(self, traffic: int, users: Users, user: int) -> None:
        number = user
        await asyncio.sleep(max(0.0, -self._now_s()))
        while self._now_s() < users.seconds and not self._plan.stop_file.exists():
            await self._ask(Arrival(self._now_s(), traffic, number))
            number += users.count
            await asyncio.sleep(users.pause_s)

    async def _ask(self, arrival: Arrival) -> None:
        plan = self._plan
        number = arrival.number + plan.phase * PHASE
        asked = question(plan.scenario.traffic[arrival.traffic], plan.scenario.seed, number)
        record = await self._askers[arrival.traffic].ask(asked, arrival.at_s)
        sys.stdout.write(record.to_line())
        sys.stdout.flush()

    def _now_s(self) -> float:
        return time.time() - self._begin


def main() -> None:
    """Send one share."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.sending")
    parser.add_argument("plan", type=Path)
    parser.add_argument("--place", type=int, required=True, help="which of the generators")
    parser.add_argument("--begin", type=float, required=True, help="seconds since the epoch")
    chosen = parser.parse_args()
    plan = LoadPlan.model_validate_json(chosen.plan.read_text())

    async def send() -> None:
        await Sender(plan, chosen.place, chosen.begin).run()

    asyncio.run(send())


if __name__ == "__main__":
    main()
