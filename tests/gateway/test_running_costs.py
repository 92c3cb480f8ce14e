"""What a fleet costs a month, and from which traffic on it pays."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pricing import TokenPrice
from gateway.running_costs import Terms, baseline_monthly_usd, break_even_factor
from model_pool.sizing import Demand
from model_pool.throughput import Request


def test_a_month_has_its_hours_headroom_and_storage() -> None:
    terms = Terms(Decimal(1), Decimal("0.25"), 100 * 10**9, Decimal("0.08"))
    assert terms.monthly_usd(2) == Decimal("2.5") * 730 + 8


def test_a_closed_api_charges_for_every_request_of_a_month() -> None:
    price = TokenPrice(Decimal(1), Decimal(5), reasoning_multiplier=Decimal(2))
    asked = [Demand("a", 12, Request(100, 10)), Demand("b", 0, Request(1, 1))]
    # 365 requests a month, each 100 tokens at 1 and 20 at 5 USD per million.
    assert baseline_monthly_usd(price, asked) == pytest.approx(Decimal("0.0002") * 365)


@given(st.floats(0.01, 1e5), st.floats(0.01, 1e5), st.floats(0, 1e4))
def test_from_a_break_even_on_steps_are_paid_for(step: float, theirs: float, fixed: float) -> None:
    """Ours: so much for each begun 0.7 of the traffic, and something fixed."""

    def ours(factor: float) -> Decimal:
        return Decimal(fixed) + Decimal(step) * (int(factor / 0.7) + 1)

    found = break_even_factor(ours, Decimal(theirs))
    if found is None:
        assert ours(900) > Decimal(theirs) * 900
        return
    assert ours(found) <= Decimal(theirs) * Decimal(found)


def test_a_break_even_is_the_least_traffic_that_pays() -> None:
    def ours(factor: float) -> Decimal:
        return Decimal(10) if factor < 3 else Decimal(20)

    assert break_even_factor(ours, Decimal(4)) == pytest.approx(2.5, rel=1e-3)
    assert break_even_factor(ours, Decimal(3)) == pytest.approx(20 / 3, rel=1e-3)


def test_a_dearer_busy_time_never_pays() -> None:
    assert break_even_factor(lambda factor: Decimal(2 * factor), Decimal(1)) is None
