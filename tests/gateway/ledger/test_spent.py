"""What a caller has spent since a day began, folded or not."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa

from gateway.ledger_store import LedgerStore
from gateway.ledger_store.tables import DAY_US
from support.ledger_rows import row


async def test_a_callers_spending_is_the_sum_of_its_rows(place: sa.URL) -> None:
    rows = [
        row(0, caller="me", finished_at_us=DAY_US - 1, cost_nano_usd=1),
        row(1, caller="me", finished_at_us=DAY_US, cost_nano_usd=10),
        row(2, caller="me", finished_at_us=2 * DAY_US, cost_nano_usd=100, outcome="cut"),
        row(3, caller="other", finished_at_us=2 * DAY_US, cost_nano_usd=1000),
    ]
    store = LedgerStore(place)
    await store.open()
    try:
        for one in rows:
            await store.append(one)
        for folded_before_us in (0, 2 * DAY_US, 9 * DAY_US):
            await store.fold(folded_before_us)
            spent = [
                await store.spent_nano_usd("me", datetime(1970, 1, day, tzinfo=UTC))
                for day in (1, 2, 3, 4)
            ]
            assert spent == [111, 110, 100, 0]
        assert await store.spent_nano_usd("nobody", datetime(1970, 1, 1, tzinfo=UTC)) == 0
    finally:
        await store.close()
