"""Two workers with the same models behind the real gateway: who answers, also where one stops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
import pytest_asyncio

from support.fleet import Fleet, rows, running_fleet, until

SESSIONS = [f"session {number}" for number in range(12)]


@contextlib.asynccontextmanager
async def running_pair(directory: Path, **overrides: object) -> AsyncIterator[Fleet]:
    """Both workers are up, and hold the base."""
    async with running_fleet(
        directory,
        pool__workers=[{"name": "worker-0"}, {"name": "worker-1"}],
        pool__preload=["base"],
        **overrides,
    ) as running:

        async def are_both_up() -> bool:
            page = await asyncio.to_thread(metrics, running)
            return all(
                f'deltafleet_worker_up{{worker="worker-{number}"}} 1.0' in page for number in (0, 1)
            )

        await until(are_both_up)
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with running_pair(tmp_path_factory.mktemp("pair")) as running:
        yield running


@contextlib.contextmanager
def paused(pid: int) -> Iterator[None]:
    """A process that does nothing meanwhile, and whose connections stay open."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def metrics(fleet: Fleet) -> str:
    with urlopen(f"http://{fleet.metrics}/metrics") as page:
        return page.read().decode()


def sample(page: str, name: str) -> float:
    return float(page.partition(f"\n{name} ")[2].split("\n")[0])


async def worker_of(fleet: Fleet, **fields: object) -> str:
    answer = await fleet.ask(model="base", max_output_token_count=1, **fields)
    return answer.summary.worker


async def test_a_session_stays_with_a_worker_and_sessions_spread(pair: Fleet) -> None:
    seen = {
        session: {await worker_of(pair, prompt=f"a {number}", session=session) for number in (1, 2)}
        for session in SESSIONS
    }
    assert all(len(workers) == 1 for workers in seen.values())
    assert set.union(*seen.values()) == {"worker-0", "worker-1"}


async def test_a_long_beginning_stays_with_a_worker(pair: Fleet) -> None:
    seen = set()
    for subject in range(8):
        beginning = f"All that is known of subject {subject} is this. " * 10
        workers = {await worker_of(pair, prompt=beginning + end) for end in ("Who?", "When?")}
        assert len(workers) == 1
        seen |= workers
    assert seen == {"worker-0", "worker-1"}


async def test_a_stopped_worker_costs_no_request(pair: Fleet) -> None:
    """Half of what is asked while it is stopped was given to it; the other worker answers it."""
    before_count = len(rows(pair))
    with paused(pair.worker_pids()[0]):
        answers = await asyncio.gather(
            *(pair.ask("a", model="base", session=session) for session in SESSIONS)
        )
        page = await asyncio.to_thread(metrics, pair)

    (answered_by,) = {one.summary.worker for one in answers}
    recorded = rows(pair)[before_count:]
    assert sorted(recorded) == sorted((one.summary.request_id, "answered") for one in answers)
    assert 0 < sample(page, 'deltafleet_worker_retries_total{reason="silent"}') < len(SESSIONS)
    assert f'deltafleet_worker_up{{worker="{answered_by}"}} 1.0' in page

    async def is_back() -> bool:
        found = await asyncio.to_thread(metrics, pair)
        return found.count("deltafleet_worker_breaker_state{") == 2

    await until(is_back)  # heard again
    seen = {await worker_of(pair, prompt="a", session=session) for session in SESSIONS}
    assert answered_by in seen


async def test_a_slow_unary_request_runs_twice_and_is_recorded_once(tmp_path: Path) -> None:
    hedging = {"after_s": 0.1, "most_share": 1}
    async with running_pair(tmp_path, pool__hedging=hedging) as fleet:
        with paused(fleet.worker_pids()[0]):
            asked = asyncio.gather(
                *(fleet.ask("a", model="base", session=session) for session in SESSIONS)
            )
            streamed = asyncio.gather(
                *(fleet.stream("a", model="base", session=session) for session in SESSIONS)
            )
            answers, streams = await asked, await streamed
            page = await asyncio.to_thread(metrics, fleet)

        won = sample(page, 'deltafleet_hedged_requests_total{won="second"}')
        assert 0 < won < len(SESSIONS)
        assert len({one.summary.worker for one in answers}) == 1
        summaries = [one.summary for one in (*answers, *streams)]
        assert sorted(rows(fleet)) == sorted((one.request_id, "answered") for one in summaries)
