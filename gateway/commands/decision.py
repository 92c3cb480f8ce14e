"""What the commands that ask for a decision share: its limits, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

import click
from rich.console import Console
from rich.table import Column, Table

from deltafleet.v1 import routing_pb2
from gateway.commands.connection import plain_usd, usd
from gateway.pricing import to_nano_usd


def dollars(text: str) -> Decimal:
    """Dollars, exactly as typed. Raises ValueError unless between 0 and a billion."""
    try:
        found = Decimal(text)
    except InvalidOperation as error:
        raise ValueError from error
    if not (found.is_finite() and 0 <= found <= 10**9):
        raise ValueError
    return found


def constraint_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --min-quality, --max-cost-usd and --accept-less."""
    quality = click.option(
        "--min-quality",
        type=click.FloatRange(0, 1),
        help="Lowest expected share of right answers; default: the fleet's.",
    )
    cost = click.option("--max-cost-usd", type=dollars, help="Highest expected cost of the answer.")
    less = click.option(
        "--accept-less",
        "accepts_less",
        is_flag=True,
        help="The best within the cost where no model has the quality.",
    )
    return quality(cost(less(command)))


def to_constraints(
    min_quality: float | None, max_cost_usd: Decimal | None, *, accepts_less: bool
) -> routing_pb2.Constraints | None:
    """What was asked; None: nothing was."""
    if min_quality is None and max_cost_usd is None and not accepts_less:
        return None
    return routing_pb2.Constraints(
        min_quality=min_quality,
        max_cost_nano_usd=None if max_cost_usd is None else to_nano_usd(max_cost_usd),
        accepts_less=accepts_less,
    )


def as_dict(decision: routing_pb2.Decision) -> dict[str, Any]:
    """The decision alone, for JSON."""
    return {
        "model": decision.model,
        "task": decision.task,
        "similarity": round(decision.similarity, 4),
        "reason": routing_pb2.RouteReason.Name(decision.reason),
        "decided_by": decision.decided_by,
        "note": decision.note,
    }


def explained(decision: routing_pb2.Decision) -> dict[str, Any]:
    """The decision with all that it was made from, for JSON."""
    candidates = [
        {
            "model": one.model,
            "similarity": round(one.similarity, 4),
            "quality": round(one.quality, 4),
            "expected_cost_usd": plain_usd(one.expected_cost_nano_usd),
            "qualifies": one.qualifies,
        }
        for one in decision.candidates
    ]
    return {**as_dict(decision), "explanation": decision.explanation, "candidates": candidates}


def show(decision: routing_pb2.Decision, *, to_errors: bool = False) -> None:
    """The decision in a line, and a table of what was weighed."""
    click.echo(f"{decision.model}: {decision.explanation}", err=to_errors)
    if decision.decided_by:
        click.echo(f"decided by: {decision.decided_by}", err=to_errors)
    if decision.note:
        click.echo(f"note: {decision.note}", err=to_errors)
    if decision.candidates:
        Console(stderr=to_errors).print(_table(decision))


def _table(decision: routing_pb2.Decision) -> Table:
    model = Column("model", overflow="fold")  # a name that is cut off names nothing
    table = Table(model, "similarity", "quality", "cost, USD", "qualifies", "")
    for one in decision.candidates:
        table.add_row(
            one.model,
            f"{one.similarity:.2f}",
            f"{one.quality:.3f}",
            usd(one.expected_cost_nano_usd),
            "yes" if one.qualifies else "no",
            "chosen" if one.model == decision.model else "",
        )
    return table
