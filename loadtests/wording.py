"""Figures as text, for reports."""

from __future__ import annotations


def in_seconds(value: float | None) -> str:
    """Milliseconds below one second."""
    if value is None:
        return "-"
    return f"{1e3 * value:.0f} ms" if value < 1 else f"{value:.2f} s"


def in_percent(value: float | None) -> str:
    """A share."""
    return "-" if value is None else f"{value:.1%}"


def in_usd(value: float | None) -> str:
    """A price, without its unit."""
    return "-" if value is None else f"{value:.4f}"
