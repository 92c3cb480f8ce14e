"""How many accelerators a fleet's traffic needs, and what they cost beside closed APIs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from gateway.pricing import TokenPrice
from gateway.running_costs import (
    MONTHS_PER_YEAR,
    Terms,
    baseline_monthly_usd,
    break_even_factor,
)
from model_pool.capacity import Card, Limits, ModelShape
from model_pool.sizing import Demand, DoesNotFit, Placed, Targets, scaled, size

# Where neither --usd-per-hour nor FLEET says. Facts of late 2026; yours may differ.
ASSUMED_USD_PER_HOUR = {
    "a10": (Decimal("0.75"), "Lambda, on demand"),
    "a10g": (Decimal("1.006"), "AWS g5.xlarge, on demand, us-east-1"),
    "h100": (Decimal(3), "on demand, between 2 and 4 at most providers"),
}
ASSUMED_STORAGE_USD_PER_GB_MONTH = Decimal("0.08")  # AWS gp3, us-east-1


@dataclass(frozen=True, slots=True)
class Bill:
    """One kind of accelerator for the whole traffic.

    break_evens: requests a day from which on ours is the cheaper one; None: never.
    """

    card: Card
    usd_per_hour: Decimal
    price_source: str
    placed: tuple[Placed, ...]
    monthly_usd: Decimal
    baselines_usd: Mapping[str, Decimal]
    break_evens: Mapping[str, float | None]

    @property
    def yearly_usd(self) -> Decimal:
        return self.monthly_usd * MONTHS_PER_YEAR


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be planned. stored_bytes: one copy of the base and all deltas.

    prices: of an hour of a card, by its name, and who says so.
    """

    shape: ModelShape
    limits: Limits
    demands: tuple[Demand, ...]
    targets: Targets
    baselines: Mapping[str, TokenPrice]
    stored_bytes: int
    headroom: Decimal
    storage_usd_per_gb_month: Decimal
    prices: Mapping[str, tuple[Decimal, str]]

    @property
    def requests_per_day(self) -> float:
        """Of all models."""
        return sum(one.requests_per_day for one in self.demands)

    def placed(self, card: Card, factor: float = 1.0) -> list[Placed]:
        """The accelerators for so many times the traffic. Raises DoesNotFit."""
        return size(card, self.shape, self.limits, scaled(self.demands, factor), self.targets)

    def monthly_usd(self, card: Card, factor: float = 1.0) -> Decimal:
        """What they cost; base and deltas are kept once, and once by each accelerator."""
        count = len(self.placed(card, factor))
        terms = Terms(
            self.prices[card.name.lower()][0],
            self.headroom,
            self.stored_bytes * (count + 1),
            self.storage_usd_per_gb_month,
        )
        return terms.monthly_usd(count)

    def bill(self, card: Card) -> Bill:
        """Raises DoesNotFit."""
        monthly: Callable[[float], Decimal] = partial(self.monthly_usd, card)
        theirs = {
            name: baseline_monthly_usd(price, self.demands)
            for name, price in self.baselines.items()
        }
        factors = {name: break_even_factor(monthly, usd) for name, usd in theirs.items()}
        usd_per_hour, source = self.prices[card.name.lower()]
        return Bill(
            card,
            usd_per_hour,
            source,
            tuple(self.placed(card)),
            monthly(1.0),
            theirs,
            {
                name: None if factor is None else factor * self.requests_per_day
                for name, factor in factors.items()
            },
        )


def bills(question: Question, cards: Sequence[Card]) -> list[Bill]:
    """Of each card that can serve the model, the cheapest first. Raises ClickException."""
    made, reasons = [], []
    for card in cards:
        try:
            made.append(question.bill(card))
        except DoesNotFit as error:
            reasons.append(str(error))
    if not made:
        raise click.ClickException("; ".join(reasons))
    return sorted(made, key=lambda one: one.monthly_usd)


def in_words(question: Question, made: Sequence[Bill]) -> list[str | Table]:
    """What a terminal shows."""
    told: list[str | Table] = [
        f"{question.requests_per_day:,.0f} requests a day; at the busiest time "
        f"{question.targets.peak_factor:g} times as many as on average"
    ]
    for bill in made:
        told += ["", *_bill_in_words(bill)]
    return [*told, "", "Assumed, not measured:", *(f"  {one}" for one in assumed(question))]


def _bill_in_words(bill: Bill) -> list[str | Table]:
    count = len(bill.placed)
    shown = Table(f"{bill.card.name}", "busiest", "average", "switching", "models")
    for number, one in enumerate(bill.placed, 1):
        shown.add_row(
            str(number),
            f"{one.peak_load:.0%}",
            f"{one.mean_load:.1%}",
            f"{one.switching:.0%}",
            ", ".join(demand.model for demand in one.demands),
        )
    costs = Table("", "USD a month", "ours pays from, requests a day")
    costs.add_row(f"{count} {bill.card.name}", f"{bill.monthly_usd:,.0f}", "")
    for name, usd in bill.baselines_usd.items():
        least = bill.break_evens[name]
        costs.add_row(name, f"{usd:,.0f}", "never" if least is None else f"{least:,.0f}")
    said = f"{bill.usd_per_hour} USD an hour each ({bill.price_source})"
    return [f"{count} {bill.card.name}, {said}; {bill.yearly_usd:,.0f} USD a year", shown, costs]


def assumed(question: Question) -> list[str]:
    """What the figures rest on."""
    targets = question.targets
    return [
        "speeds: a roofline of the cards' data sheets (model_pool/throughput.py)",
        f"an accelerator with one model is loaded to {targets.alone_load:.0%} at the busiest time, "
        f"one that switches to {targets.shared_load:.0%} of the rest beside switching",
        f"every model may have a turn within {targets.max_wait_s:g} s",
        f"headroom: {question.headroom:.0%} more accelerators than planned; storage: one copy of "
        f"base and deltas and one for each accelerator, at {question.storage_usd_per_gb_month} USD "
        "per GB and month",
        "closed APIs: list prices, tokens as many as ours",
    ]


def as_dict(question: Question, made: Sequence[Bill]) -> dict[str, Any]:
    """The same as an object; USD as decimal strings."""
    return {
        "requests_per_day": question.requests_per_day,
        "peak_factor": question.targets.peak_factor,
        "accelerators": {bill.card.name.lower(): _bill_as_dict(bill) for bill in made},
        "assumed": assumed(question),
    }


def _bill_as_dict(bill: Bill) -> dict[str, Any]:
    return {
        "count": len(bill.placed),
        "usd_per_hour": str(bill.usd_per_hour),
        "price_source": bill.price_source,
        "usd_per_month": f"{bill.monthly_usd:.2f}",
        "usd_per_year": f"{bill.yearly_usd:.2f}",
        "baselines": {
            name: {
                "usd_per_month": f"{usd:.2f}",
                "break_even_requests_per_day": bill.break_evens[name],
            }
            for name, usd in bill.baselines_usd.items()
        },
        "placement": [
            {
                "models": [demand.model for demand in one.demands],
                "peak_load": round(one.peak_load, 4),
                "mean_load": round(one.mean_load, 4),
                "switching": round(one.switching, 4),
            }
            for one in bill.placed
        ],
    }


def draw(question: Question, made: Sequence[Bill], path: Path) -> None:
    """USD a month by requests a day: ours on each card in steps, closed APIs as lines.

    Raises ClickException where matplotlib is not installed or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise click.ClickException("--plot: pip install 'deltafleet[plot]'") from None
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    planned = question.requests_per_day
    evens = [least for bill in made for least in bill.break_evens.values() if least]
    low, high = min([planned, *evens]) / 3, max([planned, *evens]) * 3
    counts = [low * (high / low) ** (place / 200) for place in range(201)]
    for bill in made:
        ours = [float(question.monthly_usd(bill.card, count / planned)) for count in counts]
        axes.plot(counts, ours, label=f"ours on {bill.card.name}", linewidth=2)
    for name, usd in made[0].baselines_usd.items():
        theirs = [float(usd) * count / planned for count in counts]
        axes.plot(counts, theirs, label=name, linestyle="--")
    axes.axvline(planned, color="gray", linewidth=1, label="planned traffic")
    axes.set(xscale="log", yscale="log", xlabel="requests a day", ylabel="USD a month")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend()
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"--plot: {error}") from None
