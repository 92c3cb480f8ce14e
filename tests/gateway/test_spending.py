"""Budgets: pure, with a clock of their own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BudgetSpent
from gateway.spending import SECONDS_PER_DAY, Budget

NOON_S = 20_000 * SECONDS_PER_DAY + SECONDS_PER_DAY / 2
AMOUNTS = st.integers(0, 400)
# What happens to one request: what it may cost, the share of it that it does cost, how it ends.
REQUESTS = st.tuples(AMOUNTS, st.floats(0, 1), st.sampled_from(["billed", "lost", "not sent"]))


@given(limit=AMOUNTS, before=AMOUNTS, requests=st.lists(REQUESTS, max_size=20), order=st.randoms())
def test_no_order_of_requests_spends_more_than_the_budget(limit, before, requests, order) -> None:
    budget = Budget("api", limit, spent_nano_usd=before, clock=lambda: NOON_S)
    running, billed = [], before
    waiting = list(requests)
    while waiting or running:
        if waiting and (not running or order.random() < 0.5):
            amount, share, end = waiting.pop()
            held = sum(one.held_nano_usd for one, *_ in running)
            room = max(0, limit - billed - held)  # a limit may be lower than yesterday's
            try:
                running.append((budget.reserve(amount), share, end))
                assert amount <= room
            except BudgetSpent:
                assert amount > room
        else:
            reservation, share, end = running.pop(order.randrange(len(running)))
            held = reservation.held_nano_usd
            with reservation:
                reservation.is_sent = end != "not sent"
                if end == "billed":
                    reservation.bill(int(held * share))
            billed += {"billed": int(held * share), "lost": held, "not sent": 0}[end]
        assert budget.spent_nano_usd == billed <= max(limit, before)
        assert budget.held_nano_usd == sum(one.held_nano_usd for one, *_ in running)


def test_a_refusal_says_when_the_next_day_begins() -> None:
    budget = Budget("api", 10, spent_nano_usd=4, clock=lambda: NOON_S)

    with pytest.raises(BudgetSpent) as refused:
        budget.reserve(7)

    assert refused.value.retry_after_s == SECONDS_PER_DAY / 2
    assert refused.value.metadata == {"closed_api": "api", "limit_nano_usd": "10"}
    assert budget.reserve(6).held_nano_usd == 6


def test_a_new_day_forgets_what_was_spent_but_not_what_is_on_its_way() -> None:
    now = [NOON_S]
    budget = Budget("api", 10, clock=lambda: now[0])
    with budget.reserve(4) as first:
        first.bill(4)
    second = budget.reserve(6)
    now[0] += SECONDS_PER_DAY

    assert budget.refusal(5) is not None
    assert budget.refusal(4) is None
    with second:
        second.bill(5)
    assert (budget.spent_nano_usd, budget.held_nano_usd) == (5, 0)


def test_a_reservation_that_cannot_grow_stays_as_it_was() -> None:
    budget = Budget("api", 10, clock=lambda: NOON_S)
    with budget.reserve(6) as reservation:
        with pytest.raises(BudgetSpent):
            reservation.hold(11)
        assert reservation.held_nano_usd == budget.held_nano_usd == 6
        reservation.hold(10)
        assert budget.held_nano_usd == 10
    assert (budget.spent_nano_usd, budget.held_nano_usd) == (0, 0)


def test_a_request_whose_bill_never_came_is_billed_at_most_and_may_be_tried_again() -> None:
    budget = Budget("api", 10, clock=lambda: NOON_S)
    with budget.reserve(4) as reservation:
        reservation.is_sent = True
        reservation.bill_unknown()
        reservation.hold(5)
        reservation.is_sent = True
        reservation.bill(3)
    assert reservation.most_nano_usd == budget.spent_nano_usd == 7


def test_what_others_left_is_believed_for_a_moment_whatever_the_clock_does() -> None:
    day_s, now_s = [NOON_S], [0.0]
    budget = Budget("api", 100, clock=lambda: day_s[0], monotonic=lambda: now_s[0])
    budget.shrink(10)
    refused = budget.refusal(20)
    assert refused is not None
    assert refused.retry_after_s == 1.0, "today's budget is not spent"
    assert budget.refusal(10) is None
    day_s[0] -= SECONDS_PER_DAY
    now_s[0] += 1.0
    assert budget.refusal(100) is None
    spent = budget.refusal(101)
    assert spent is not None
    assert spent.retry_after_s == SECONDS_PER_DAY / 2
