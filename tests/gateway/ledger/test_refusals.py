"""Who is refused before anything ran does not wait for its row; who was answered does."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from deltafleet.v1 import inference_pb2
from gateway.answer import AnswerPiece
from gateway.forecast import CostForecast
from gateway.ledger import Ledger
from gateway.ledger_store import LedgerStore
from gateway.metrics import Metrics
from gateway.router import ModelKind, Route, RouteReason, Target
from gateway.token_counter import TokenCounter
from model_pool.errors import PoolSaturated

ROUTE = Route(Target("base", ModelKind.BASE, 0.5), RouteReason.PINNED, "", 0.0, "", ())
STOP = inference_pb2.FINISH_REASON_STOP


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LedgerStore]:
    store = LedgerStore(tmp_path / "ledger.sqlite3", retry_s=60)
    await store.open()
    yield store
    await store.close()


def ledger_of(store: LedgerStore) -> Ledger:
    return Ledger(store, Metrics(), CostForecast({}), {}, TokenCounter([]))


async def refuse(ledger: Ledger, piece: AnswerPiece | None = None) -> None:
    with pytest.raises(PoolSaturated):
        async with ledger.entry("one", ROUTE, ["a"]) as entry:
            if piece:
                entry.add(piece)
            raise PoolSaturated("full", retry_after_s=1)


async def test_a_refusal_is_told_before_its_row_is_written(
    store: LedgerStore, tmp_path: Path
) -> None:
    ledger = ledger_of(store)
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite3")) as other:
        other.execute("BEGIN EXCLUSIVE")
        await refuse(ledger)
        spent = asyncio.create_task(refuse(ledger, AnswerPiece("a", 1, 1, 5, STOP)))
        done, _ = await asyncio.wait([spent], timeout=0.5)
        assert not done  # it cost something
        other.rollback()
    await spent
    while not (sums := await store.sums(None, None)) or sums[0].request_count < 2:
        await asyncio.sleep(0.01)

    assert sums[0].cost_nano_usd == 5


async def test_a_refusal_is_written_when_the_gateway_stops(tmp_path: Path) -> None:
    store = LedgerStore(tmp_path / "ledger.sqlite3")
    await store.open()
    await refuse(ledger_of(store))
    await asyncio.sleep(0)  # whoever stops a gateway waits for its doors first
    await store.close()
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite3")) as file:
        assert file.execute("SELECT outcome FROM requests").fetchall() == [("refused",)]
