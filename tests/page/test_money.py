"""Money on the page: exact texts, and days that add up."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from gateway.cost_report import Window, make_report
from gateway.ledger_store import Sums, WorkerLife
from gateway.ledger_store.summing import to_us
from gateway.ledger_store.tables import DAY_US
from gateway.page.fleet import usd
from gateway.page.money import SHOWN_DAYS, Books, grouped, money_json
from gateway.price_list import PricedBaseline
from gateway.pricing import TokenPrice

NOW = datetime(2026, 3, 5, 12, tzinfo=UTC)
NANO = Decimal(10**9)
COUNTS = st.integers(0, 10**6)
MONEY = st.integers(0, 10**18)
SUMS = st.builds(
    Sums,
    key=st.fixed_dictionaries(
        {
            "day": st.sampled_from(["2026-03-01", "2026-03-02", "2026-03-04"]),
            "model": st.sampled_from("abc"),
        }
    ),
    request_count=COUNTS,
    answered_count=COUNTS,
    output_token_count=COUNTS,
    busy_us=st.integers(0, 10**11),
    cost_nano_usd=MONEY,
    baselines=st.dictionaries(st.sampled_from(["x", "y"]), MONEY),
)


@st.composite
def lives(draw: st.DrawFn) -> WorkerLife:
    """A life that ended before NOW."""
    uptime_us = draw(st.integers(0, 2 * DAY_US))
    start = draw(st.datetimes(datetime(2026, 3, 1), datetime(2026, 3, 3))).replace(tzinfo=UTC)
    busy_us = draw(st.integers(0, uptime_us))
    load_us = draw(st.integers(0, uptime_us - busy_us))
    switch_us = draw(st.integers(0, uptime_us - busy_us - load_us))
    price = draw(st.integers(0, 10**11))
    return WorkerLife("i", "w", to_us(start), uptime_us, busy_us, load_us, switch_us, price)


BOOKS = st.builds(
    Books,
    sums=st.lists(SUMS, max_size=6, unique_by=lambda one: tuple(one.key.values())),
    lives=st.lists(lives(), max_size=3),
)


def nano(text: str) -> int:
    """What an exact text says, in nano-dollars; fails where it says a part of one."""
    amount = Decimal(text) * NANO
    assert amount == amount.to_integral_value() and "E" not in text.upper()
    return int(amount)


@given(st.integers(-(10**24), 10**24))
def test_an_amount_is_told_exactly(amount: int) -> None:
    assert nano(usd(amount)) == amount


@given(BOOKS)
def test_days_and_models_add_up_to_the_ledger(books: Books) -> None:
    told = money_json(books, {}, NOW)
    days = told["days"]
    requests = sum(one.cost_nano_usd for one in books.sums)
    overhead = make_report([], books.lives, Window()).total.overhead_nano_usd

    assert sum(nano(one["cost_usd"]) for one in days) == requests == nano(told["total"]["cost_usd"])
    assert sum(nano(one["cost_usd"]) for one in told["models"].values()) == requests
    parts = [nano(part) for one in days for part in one["overhead_usd"].values()]
    assert sum(parts) == overhead and min(parts, default=0) >= 0
    assert sum(nano(one["effective_usd"]) for one in days) == requests + overhead
    for name in ("x", "y"):
        theirs = sum(one.baselines.get(name, 0) for one in books.sums)
        assert sum(nano(one["baselines_usd"].get(name, "0")) for one in days) == theirs


@given(BOOKS)
def test_days_follow_each_other_until_today(books: Books) -> None:
    days = [one["day"] for one in money_json(books, {}, NOW)["days"]]
    first = date.fromisoformat(days[0])

    assert days == [(first + timedelta(days=i)).isoformat() for i in range(len(days))]
    assert days[-1] == "2026-03-05"
    json.dumps(money_json(books, {}, NOW), allow_nan=False)


@given(BOOKS)
def test_a_saving_is_what_the_baseline_costs_beyond_ours(books: Books) -> None:
    total = money_json(books, {}, NOW)["total"]
    for one in total["baselines"].values():
        theirs = nano(one["cost_usd"])
        assert nano(one["saved_usd"]) == theirs - nano(total["cost_usd"])
        assert nano(one["effective_saved_usd"]) == theirs - nano(total["effective_usd"])


@given(BOOKS, st.sampled_from(["day", "model"]))
def test_grouping_loses_nothing(books: Books, dimension: str) -> None:
    groups = grouped(books.sums, dimension)
    assert len({one.key[dimension] for one in groups}) == len(groups)
    for field in ("request_count", "busy_us", "cost_nano_usd"):
        assert sum(getattr(one, field) for one in groups) == sum(
            getattr(one, field) for one in books.sums
        )


def test_an_old_ledger_shows_its_last_days_and_counts_all() -> None:
    old = Sums(key={"day": "2020-01-01", "model": "a"}, request_count=2, cost_nano_usd=7)
    told = money_json(Books([old]), {}, NOW)

    assert len(told["days"]) == SHOWN_DAYS
    assert told["total"]["cost_usd"] == "0.000000007"


def test_loading_switching_and_idle_time_are_told_apart() -> None:
    start = NOW - timedelta(hours=10)
    spans_us = [seconds * 10**6 for seconds in (3600, 900, 600, 300)]
    life = WorkerLife("i", "w", to_us(start), *spans_us, 36 * 10**8)
    (day,) = money_json(Books(lives=[life]), {}, NOW)["days"]

    assert day["overhead_usd"] == {"load": "0.6", "switch": "0.3", "idle": "1.8"}


def test_a_stale_price_is_told() -> None:
    price = TokenPrice(Decimal(1), Decimal(2))
    fresh = PricedBaseline("a/b", price, False, "rule of thumb", date(2026, 3, 1), "them", 30)
    stale = replace(fresh, as_of=date(2025, 3, 1))
    told = money_json(Books(), {"fresh": fresh, "stale": stale}, NOW)["baselines"]

    assert [(one["name"], one["is_stale"], one["age_days"]) for one in told] == [
        ("fresh", False, 4),
        ("stale", True, 369),
    ]
