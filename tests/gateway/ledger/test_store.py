"""The ledger's rows and sums, in both kinds of database."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import combinations

import pytest
import pytest_asyncio
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.ledger_store import LedgerStore, RequestRow, Sums, WorkerLife
from gateway.ledger_store.rows import DIMENSIONS
from gateway.ledger_store.tables import COUNTS, DAY_US, METADATA
from support.ledger_rows import ANY_ROW, row

Ask = Callable[[str], list[tuple[object, ...]]]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BY = [by for count in range(5) for by in combinations(DIMENSIONS, count)]
DAYS = st.one_of(st.none(), st.integers(0, 7).map(lambda day: EPOCH + timedelta(days=day)))
one_by_one = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@contextlib.asynccontextmanager
async def opened(place: sa.URL, **options: float) -> AsyncIterator[LedgerStore]:
    store = LedgerStore(place, **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest_asyncio.fixture(loop_scope="session")
async def store(place: sa.URL) -> AsyncIterator[LedgerStore]:
    """One for all examples of a property."""
    async with opened(place) as ready:
        yield ready


async def holding(store: LedgerStore, rows: Sequence[RequestRow]) -> None:
    """Nothing but these."""
    with store.database.begin() as connection:
        for table in reversed(METADATA.sorted_tables):
            connection.execute(table.delete())
    await asyncio.gather(*map(store.append, rows))


def plainly(
    rows: Sequence[RequestRow], by: Sequence[str], start: datetime | None, end: datetime | None
) -> list[Sums]:
    """The same sums, as anybody would write them."""
    groups: dict[tuple[str, ...], list[RequestRow]] = {}
    for one in rows:
        finished = EPOCH + timedelta(microseconds=one.finished_at_us)
        if (start is None or finished >= start) and (end is None or finished < end):
            values = {"day": finished.date().isoformat()}
            key = tuple(values.get(name) or getattr(one, name, "") for name in by)
            groups.setdefault(key, []).append(one)
    return [sum_of(dict(zip(by, key, strict=True)), groups[key]) for key in sorted(groups)]


def sum_of(key: dict[str, str], rows: Sequence[RequestRow]) -> Sums:
    answered = [one for one in rows if one.outcome == "answered"]
    names = {name for one in answered for name in one.baselines}
    return Sums(
        key=key,
        request_count=len(rows),
        answered_count=len(answered),
        prompt_token_count=sum(one.prompt_token_count for one in rows),
        output_token_count=sum(one.output_token_count for one in rows),
        busy_us=sum(one.busy_us for one in rows),
        cost_nano_usd=sum(one.cost_nano_usd for one in rows),
        answered_cost_nano_usd=sum(one.cost_nano_usd for one in answered),
        baselines={
            name: sum(one.baselines.get(name, 0) for one in answered) for name in sorted(names)
        },
    )


async def test_what_was_appended_is_there_after_a_restart(place: sa.URL, ask: Ask) -> None:
    async with opened(place) as store:
        await asyncio.gather(*(store.append(row(number)) for number in range(20)))

    async with opened(place) as store:
        (sums,) = await store.sums(None, None)

    assert sums == sum_of({"model": "sql"}, [row(number) for number in range(20)])
    assert len(ask("SELECT DISTINCT row_id FROM requests")) == 20


async def test_a_row_that_is_written_again_stays_one_row(place: sa.URL, ask: Ask) -> None:
    async with opened(place) as store:
        await store.append(row(1))
        await asyncio.gather(store.append(row(1)), store.append(row(2)), store.append(row(1)))
        (sums,) = await store.sums(None, None)

    assert sums == sum_of({"model": "sql"}, [row(1), row(2)])
    assert ask("SELECT row_id FROM requests ORDER BY row_id") == [("id-1",), ("id-2",)]
    assert len(ask("SELECT * FROM baseline_costs")) == 4


async def test_a_row_that_is_there_stays_as_it_is(place: sa.URL, ask: Ask) -> None:
    async with opened(place) as store:
        await store.append(row(1))
        other = row(1, cost_nano_usd=99, baselines={"dear": 7, "newer": 8})
        await asyncio.gather(store.append(other), store.append(row(2)))
        (sums,) = await store.sums(None, None)

    assert sums == sum_of({"model": "sql"}, [row(1), row(2)])
    assert len(ask("SELECT * FROM baseline_costs")) == 4


async def test_no_row_of_a_crowd_is_lost_between_its_transactions(place: sa.URL, ask: Ask) -> None:
    async with opened(place) as store:

        async def one_after_the_other(caller: int) -> None:
            for number in range(20):
                await store.append(row(100 * caller + number))

        await asyncio.gather(*map(one_after_the_other, range(12)))
        seen = ask("SELECT count(*), count(DISTINCT row_id) FROM requests")

    assert seen == [(240, 240)]
    assert ask("SELECT count(*) FROM baseline_costs") == [(480,)]


async def test_it_tells_the_caller_and_the_trace(place: sa.URL, ask: Ask) -> None:
    async with opened(place) as store:
        await store.append(row(1, caller="billing", trace_id="0af7651916cd43dd8448eb211c80319c"))
        by_caller = await store.sums(None, None, by=["caller"])

    assert [sums.key for sums in by_caller] == [{"caller": "billing"}]
    found = ask("SELECT caller, trace_id FROM requests")
    assert found == [("billing", "0af7651916cd43dd8448eb211c80319c")]


async def test_a_row_that_the_database_refuses_takes_no_other_with_it(
    place: sa.URL, ask: Ask
) -> None:
    async with opened(place) as store:
        rows = [row(1), row(2, cost_nano_usd=2**70), row(3)]  # no integer of 64 bits
        told = await asyncio.gather(*map(store.append, rows), return_exceptions=True)

    assert [isinstance(one, Exception) for one in told] == [False, True, False]
    assert ask("SELECT row_id FROM requests ORDER BY row_id") == [("id-1",), ("id-3",)]


async def test_of_a_workers_words_the_one_of_the_greatest_uptime_stays(place: sa.URL) -> None:
    early = WorkerLife("i-1", "w-1", 5, 1000, 500, 200, 50, 10)
    late = replace(early, uptime_us=9000, busy_us=4000)
    other = replace(early, incarnation="i-2", started_at_us=6)
    async with opened(place) as first, opened(place) as second:
        await asyncio.gather(
            *(first.record_lives([early, other]) for _ in range(10)),
            *(second.record_lives([other, late]) for _ in range(10)),
        )
        assert await first.lives() == [other, late]


async def test_a_dimension_that_there_is_not_is_refused(place: sa.URL) -> None:
    async with opened(place) as store:
        for by in (["prompt"], ["model", "model"]):
            with pytest.raises(ValueError, match="any of model, task, caller, day"):
                await store.sums(None, None, by=by)


async def test_a_long_read_holds_up_no_row(place: sa.URL) -> None:
    async with opened(place) as store:
        await store.append(row(1))
        count = sa.text("SELECT count(*) FROM requests")
        with store.database.begin_read() as reading:
            assert reading.execute(count).scalar() == 1
            await store.append(row(2))
            assert reading.execute(count).scalar() == 1  # it sees the moment when it began
            with pytest.raises(sa.exc.DBAPIError):
                reading.exec_driver_sql("DELETE FROM requests")


@one_by_one
@given(rows=st.lists(ANY_ROW, max_size=12), by=st.sampled_from(BY), start=DAYS, end=DAYS)
async def test_sums_are_what_adding_the_rows_gives(
    store: LedgerStore,
    rows: list[RequestRow],
    by: tuple[str, ...],
    start: datetime | None,
    end: datetime | None,
) -> None:
    await holding(store, rows)
    assert await store.sums(start, end, by) == plainly(rows, by, start, end)


@one_by_one
@given(
    rows=st.lists(ANY_ROW, max_size=12),
    late=st.lists(ANY_ROW, max_size=4),
    by=st.sampled_from(BY),
    start=DAYS,
    end=DAYS,
    fold_days=st.lists(st.integers(0, 7), max_size=3),
)
async def test_folding_changes_no_sum(
    store: LedgerStore,
    rows: list[RequestRow],
    late: list[RequestRow],
    by: tuple[str, ...],
    start: datetime | None,
    end: datetime | None,
    fold_days: list[int],
) -> None:
    await holding(store, rows)
    for day in fold_days:
        await store.fold(day * DAY_US)
    await asyncio.gather(*map(store.append, late))  # of a gateway whose clock is behind
    for day in fold_days:
        await store.fold(day * DAY_US)
    assert await store.sums(start, end, by) == plainly([*rows, *late], by, start, end)


async def test_folding_is_by_parts_and_whoever_folds_beside_adds_nothing_twice(
    place: sa.URL, ask: Ask
) -> None:
    from gateway.ledger_store.folding import fold_some

    rows = [row(number, finished_at_us=number * 10_000_000_000) for number in range(60)]
    async with opened(place) as first, opened(place) as second:
        await asyncio.gather(*map(first.append, rows))
        databases = [first.database, second.database] * 8
        folded = await asyncio.gather(
            *(asyncio.to_thread(fold_some, one, 6 * DAY_US, 7) for one in databases)
        )
        sums = await first.sums(None, None, by=DIMENSIONS)

    days_s = 6 * DAY_US // 10_000_000_000 + 1
    assert sum(folded) == min(60, days_s)
    assert max(folded) == 7
    assert sums == plainly(rows, DIMENSIONS, None, None)
    assert len(ask("SELECT * FROM requests")) == 60 - sum(folded)
    assert len(ask("SELECT * FROM baseline_costs")) == 2 * (60 - sum(folded))


async def test_a_gateway_that_keeps_some_days_folds_the_older_ones(place: sa.URL, ask: Ask) -> None:
    now_us = int(datetime.now(UTC).timestamp()) * 1_000_000
    async with opened(place) as store:
        for number, age_days in enumerate([0, 1, 4, 30]):
            await store.append(row(number, finished_at_us=now_us - age_days * DAY_US))
    async with opened(place, keep_days=2) as store:
        async with asyncio.timeout(20):
            while len(ask("SELECT * FROM requests")) != 2:
                await asyncio.sleep(0.01)
        (sums,) = await store.sums(None, None)

    assert sums.request_count == 4
    assert len(ask("SELECT * FROM daily_sums")) == 2
    assert set(COUNTS) <= set(Sums.__dataclass_fields__)
