"""Lists of measured values as the report shows them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

middle = statistics.median


@dataclass(frozen=True, slots=True)
class Goal:
    """What was to be reached, what was measured, and whether that is enough."""

    what: str
    measured: str
    is_reached: bool

    @property
    def verdict(self) -> str:
        """In words."""
        return "reached" if self.is_reached else "**not reached**"


def spread(values: Sequence[float], unit: str = "s") -> str:
    """Median (least to greatest, how many)."""
    scale, digits = {"s": (1.0, 2), "ms": (1e3, 1), "tokens/s": (1.0, 0)}[unit]
    low, mid, high = (scale * one for one in (min(values), middle(values), max(values)))
    return f"{mid:.{digits}f} {unit} ({low:.{digits}f} to {high:.{digits}f}, {len(values)})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown; the first column is text, the others are figures."""
    rule = ("---", *("---:" for _ in head[1:]))
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *rows))
