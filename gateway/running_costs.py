"""What a sized fleet costs a month, and from which traffic on it is the cheaper one. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from gateway.pricing import TokenPrice, to_usd
from model_pool.sizing import Demand

HOURS_PER_YEAR = Decimal(8760)
MONTHS_PER_YEAR = Decimal(12)
DAYS_PER_MONTH = Decimal(365) / MONTHS_PER_YEAR
# A break-even is looked for between a thousandth and a thousand times the traffic.
_FACTORS = [10 ** (place / 40) for place in range(-120, 121)]


@dataclass(frozen=True, slots=True)
class Terms:
    """What is paid for. headroom: accelerators beyond those planned, for failures and rollouts, as
    a share of them. storage_bytes: base and deltas, wherever copies are kept.
    """

    usd_per_hour: Decimal
    headroom: Decimal
    storage_bytes: int
    storage_usd_per_gb_month: Decimal

    def monthly_usd(self, accelerator_count: int) -> Decimal:
        """Of so many accelerators, up all the time, and the storage."""
        hours = HOURS_PER_YEAR / MONTHS_PER_YEAR
        paid_count = accelerator_count * (1 + self.headroom)
        storage = Decimal(self.storage_bytes) / 10**9 * self.storage_usd_per_gb_month
        return paid_count * self.usd_per_hour * hours + storage


def baseline_monthly_usd(price: TokenPrice, demands: Sequence[Demand]) -> Decimal:
    """What a closed API would charge for the same requests, tokens taken as its own."""
    return sum(
        (
            Decimal(one.requests_per_day)
            * DAYS_PER_MONTH
            * to_usd(
                price.likely_cost_nano_usd(
                    one.request.prompt_token_count, one.request.output_token_count
                )
            )
            for one in demands
        ),
        Decimal(0),
    )


def break_even_factor(
    monthly_usd: Callable[[float], Decimal], baseline_usd: Decimal
) -> float | None:
    """The smallest multiple of the traffic at which ours costs no more; None: there is none.

    monthly_usd: ours, at so many times the traffic. baseline_usd: theirs, at one.
    """
    below = 0.0
    for factor in _FACTORS:
        if monthly_usd(factor) <= baseline_usd * Decimal(factor):
            return _bisected(monthly_usd, baseline_usd, below, factor)
        below = factor
    return None


def _bisected(
    monthly_usd: Callable[[float], Decimal], baseline_usd: Decimal, low: float, high: float
) -> float:
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        if monthly_usd(middle) <= baseline_usd * Decimal(middle):
            high = middle
        else:
            low = middle
    return high
