"""What a panel is, and the labels and queries that many have."""

from __future__ import annotations

from dataclasses import dataclass

MODEL = 'model=~"$model"'
WORKER = 'worker=~"$worker"'
RATE = "[$__rate_interval]"
ANSWERS = 'grpc_method=~"Generate|StreamGenerate"'


@dataclass(frozen=True)
class Query:
    """One of a panel's. legend: with labels in double braces."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """unit: Grafana's name of it. width: of 24. with_exemplars: dots that lead to traces."""

    title: str
    text: str
    unit: str
    queries: tuple[Query, ...]
    width: int = 8
    is_stat: bool = False
    is_stacked: bool = False
    with_exemplars: bool = False


def quantiles(name: str, *, by: str, label: str) -> tuple[Query, ...]:
    """The middle and the tail of a histogram. by: what is told apart; label: what is chosen."""
    buckets = f"sum by (le, {by}) (rate(deltafleet_{name}_bucket{{{label}}}{RATE}))"
    return tuple(
        Query(f"histogram_quantile({share}, {buckets})", f"{{{{{by}}}}} p{share * 100:g}")
        for share in (0.5, 0.95)
    )


def times(title: str, name: str, text: str) -> Panel:
    """A histogram of the gateway's, by model."""
    return Panel(
        title, text, "s", quantiles(name, by="model", label=MODEL), width=12, with_exemplars=True
    )
