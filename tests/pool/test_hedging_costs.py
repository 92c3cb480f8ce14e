"""Requests that run twice, and are given up at any moment, on real workers: who pays."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest
from pool.in_process_worker import free_port, running_worker
from pool.scripted import to_run, until_ready

from gateway.answer import AnswerPiece
from gateway.pooled_source import PooledSource
from model_pool import call as calls
from model_pool import lease, worker_link
from model_pool.pool import Pool
from model_pool.settings import Choice
from model_pool.worker_link import WorkerLink

REQUEST_COUNT = 60
SEED = 19


class Payer:
    """One request and all that it was charged with."""

    def __init__(self, pool: Pool, number: int) -> None:
        self._pool = pool
        self._request = to_run("How much is three plus four?")
        self._request.request_id = f"r{number}"
        self._request.model = "base"
        self._told_s = 0.0
        self._settled: list[AnswerPiece] = []

    async def ask(self, limit_s: float | None) -> None:
        """Leave after limit_s."""
        calls._expires_at.set(None)
        source = PooledSource(self._pool, self._settled.append, may_hedge=True)
        with contextlib.suppress(TimeoutError):
            async with (
                asyncio.timeout(limit_s),
                contextlib.aclosing(source.generate(self._request)) as pieces,
            ):
                async for piece in pieces:
                    self._told_s = piece.busy_s

    @property
    def busy_s(self) -> float:
        return self._told_s + sum(one.busy_s for one in self._settled)


async def test_every_second_of_both_workers_is_a_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Who is late is waited for, however long the machine stands still.
    monkeypatch.setattr(lease, "OTHERS_LIMIT_S", 60.0)
    monkeypatch.setattr(worker_link, "SETTLE_LIMIT_S", 60.0)
    chance, port = random.Random(SEED), free_port()
    choice = Choice.model_validate({"hedging": {"after_s": 0.001, "most_share": 1}})
    async with (
        running_worker("left", f"127.0.0.1:{port}") as left,
        running_worker("right", f"127.0.0.2:{port}") as right,
    ):
        workers = (left, right)
        links = [WorkerLink(one.name, one.address) for one in workers]
        pool = Pool(links, limit_count=8, wait_s=120, on_change=lambda: None, choice=choice)
        pool.start()
        await until_ready(pool)
        before_s = sum(one.engine.report().spent.busy_s for one in workers)
        payers = [Payer(pool, number) for number in range(REQUEST_COUNT)]
        for first in range(0, REQUEST_COUNT, 4):
            limits_s = [chance.choice([None, chance.uniform(0.001, 0.1)]) for _ in range(4)]
            group = payers[first : first + 4]
            await asyncio.gather(*map(Payer.ask, group, limits_s))
        spent_s = sum(one.engine.report().spent.busy_s for one in workers) - before_s
        hedged_count = pool.hedging.counts.total()
        in_flight_counts = [link.in_flight_count for link in links]
        await pool.stop()

    assert hedged_count > REQUEST_COUNT / 4
    assert spent_s > 0
    assert sum(one.busy_s for one in payers) == pytest.approx(spent_s, rel=1e-6, abs=1e-5)
    assert in_flight_counts == [0, 0]
