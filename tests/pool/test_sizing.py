"""Traffic → accelerators: everything is placed, nothing is overloaded, and the arithmetic holds."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_pool.capacity import CARDS, DeltaSizes, Limits, ModelShape
from model_pool.sizing import Demand, DoesNotFit, Targets, scaled, size
from model_pool.throughput import Request, speed_of
from simulations.accelerator import H100_ALONE

SEVEN_B = ModelShape("7b", 14_483_464_192, 14_483_464_192, 131_072)
ONEBIT = DeltaSizes("delta", 1_200_000_000, 1_100_000_000)
LIMITS = Limits(4096)
RATES = st.floats(0, 3e6)


@st.composite
def demands(draw: st.DrawFn) -> list[Demand]:
    """Some models with any traffic; some of them need no switch."""
    rates = draw(st.lists(RATES, min_size=1, max_size=12))
    return [
        Demand(
            f"m{number}",
            rate,
            Request(draw(st.integers(1, 2000)), draw(st.integers(1, 1000))),
            ONEBIT if draw(st.booleans()) else None,
        )
        for number, rate in enumerate(rates)
    ]


@given(demands(), st.sampled_from(["a10g", "h100"]))
def test_every_request_has_its_place(asked: list[Demand], card: str) -> None:
    placed: dict[str, float] = defaultdict(float)
    for one in size(CARDS[card], SEVEN_B, LIMITS, asked, Targets()):
        for demand in one.demands:
            placed[demand.model] += demand.requests_per_day
    for demand in asked:
        assert placed[demand.model] == pytest.approx(demand.requests_per_day, rel=1e-6)
    assert set(placed) == {one.model for one in asked}


@given(demands(), st.sampled_from(["a10g", "h100"]))
def test_no_accelerator_is_asked_for_more_than_its_limit(asked: list[Demand], card: str) -> None:
    for one in size(CARDS[card], SEVEN_B, LIMITS, asked, Targets()):
        assert one.peak_load <= one.limit * (1 + 1e-9)
        assert 0 <= one.switching <= 1
        assert one.mean_load == pytest.approx(one.peak_load / 3)


def test_an_h100_takes_what_the_simulated_one_takes() -> None:
    request = Request(512, 200)
    speed = speed_of(CARDS["h100"], SEVEN_B, H100_ALONE.cache_token_count)
    step_s = H100_ALONE.decode_s(H100_ALONE.batch_limit_count)
    step_s += H100_ALONE.batch_limit_count / 200 * 512 / H100_ALONE.prefill_token_rate
    theirs = H100_ALONE.batch_limit_count / 200 / step_s

    assert speed.batch_count(request) == H100_ALONE.batch_limit_count
    assert 1 / speed.request_s(request) == pytest.approx(theirs, rel=0.05)


def test_quiet_specialists_share_and_a_busy_one_fills_its_own() -> None:
    quiet = [Demand(f"q{number}", 100, Request(500, 200), ONEBIT) for number in range(5)]
    busy = Demand("busy", 150_000, Request(500, 200), ONEBIT)
    found = size(CARDS["a10g"], SEVEN_B, LIMITS, [*quiet, busy], Targets())

    alone = [one for one in found if {demand.model for demand in one.demands} == {"busy"}]
    shared = [one for one in found if len(one.demands) > 1]
    assert len(alone) == 3  # 150,000 a day, three times that at the peak: 5.2 a second, of 2.4 each
    # What is left of the busy one has room beside the quiet ones.
    assert [{demand.model for demand in one.demands} for one in shared] == [
        {"q0", "q1", "q2", "q3", "q4", "busy"}
    ]


def test_lora_adapters_share_without_switching() -> None:
    asked = [Demand(f"lora{number}", 4000, Request(500, 200)) for number in range(5)]
    (one,) = size(CARDS["a10g"], SEVEN_B, LIMITS, asked, Targets())
    assert (one.live_count, one.switching, one.limit) == (1, 0, 0.7)


def test_ten_times_the_traffic_fills_ten_times_the_accelerators() -> None:
    asked = [Demand("busy", 1_000_000, Request(500, 200), ONEBIT)]
    few = len(size(CARDS["a10g"], SEVEN_B, LIMITS, asked, Targets()))
    many = len(size(CARDS["a10g"], SEVEN_B, LIMITS, scaled(asked, 10), Targets()))
    assert 10 * (few - 1) <= many <= 10 * few


def test_a_model_that_is_too_large_is_refused() -> None:
    large = ModelShape("70b", 140_000_000_000, 140_000_000_000, 327_680)
    with pytest.raises(DoesNotFit, match="A10G: 70b does not fit"):
        size(CARDS["a10g"], large, LIMITS, [], Targets())
