"""The report's part "sharing"."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.figures import Goal, middle, spread, table

TOKEN_SHARE = 0.7
PEER_RATIO = 10
HEAD = (
    "tokens/s",
    "of one model's",
    "queueing p50",
    "p99",
    "switches/s",
    "of the time",
    "running at once",
)

Row = dict[str, Any]


def render(figures: Row) -> tuple[str, list[Goal]]:
    """The section, and how its goals stand."""
    template = Path(__file__).with_name("sharing.md").read_text(encoding="utf-8")
    loads, closed = figures["loads"], figures["closed"]
    named = ("model_count", "window_s", "warm_up_s", "running_count", "client_count")
    load_rows = [_cells(row, loads, f"{row['load']:.0%}, ") for row in loads]
    text = template.format(
        **{name: figures[name] for name in named},
        request_rate=figures["capacity"]["request_rate"],
        token_rate=figures["capacity"]["token_rate"],
        loads=table(("load, engine", *HEAD), load_rows),
        closed=table(("engine", *HEAD), [_cells(row, closed) for row in closed]),
        peers=_peers(figures),
    )
    return text.rstrip(), [*_load_goals(figures), *_closed_goals(figures), *_peer_goals(figures)]


def _cells(row: Row, rows: list[Row], load: str = "") -> tuple[str, ...]:
    wait_s = row["max_wait_s"]
    return (
        load + ("one model" if wait_s is None else f"shared, max_wait_s {wait_s:.0f}"),
        f"{row['token_rate']:.0f}",
        f"{_share(row, rows):.0%}",
        f"{row['queueing_p50_s']:.2f} s",
        f"{row['queueing_p99_s']:.2f} s",
        f"{row['switch_rate']:.1f}",
        f"{row['switching_share']:.0%}",
        f"{row['running_count']:.1f}",
    )


def _share(row: Row, rows: list[Row]) -> float:
    """Of the tokens per second of one model alone, at the same load and in the same turn."""
    place = rows.index(row)
    alone = [one for one in rows[: place + 1] if one["max_wait_s"] is None][-1]
    return float(row["token_rate"] / alone["token_rate"])


def _waits_s(rows: list[Row]) -> list[float]:
    return sorted({row["max_wait_s"] for row in rows if row["max_wait_s"] is not None})


def _load_goals(figures: Row) -> Iterator[Goal]:
    loads = figures["loads"]
    for wait_s in _waits_s(loads):
        held = [
            row["load"]
            for row in loads
            if row["max_wait_s"] == wait_s
            and _share(row, loads) >= TOKEN_SHARE
            and row["queueing_p99_s"] <= wait_s
        ]
        yield Goal(
            f"{figures['model_count']} specialists: {TOKEN_SHARE:.0%} of one model's tokens/s, p99 "
            f"of queueing within {wait_s:.0f} s",
            f"up to load {max(held):.0%}" if held else "at no load",
            bool(held),
        )


def _closed_goals(figures: Row) -> Iterator[Goal]:
    closed = figures["closed"]
    for wait_s in _waits_s(closed):
        rows = [row for row in closed if row["max_wait_s"] == wait_s]
        share = middle([_share(row, closed) for row in rows])
        p99_s = middle([row["queueing_p99_s"] for row in rows])
        yield Goal(
            f"the same with {figures['client_count']} clients that always want more, p99 within "
            f"{wait_s:.0f} s",
            f"{share:.0%}, {p99_s:.2f} s",
            share >= TOKEN_SHARE and p99_s <= wait_s,
        )


def _peer_goals(figures: Row) -> Iterator[Goal]:
    rate = _shared_rate(figures)
    peer = next(one for one in figures["peers"] if one["starts_anew"])
    ratio = rate / peer["token_rate"] if peer["token_rate"] else float("inf")
    yield Goal(
        f"{PEER_RATIO} times the tokens/s of reload on demand at least",
        f"{ratio:.0f} times",
        ratio >= PEER_RATIO,
    )


def _shared_rate(figures: Row) -> float:
    """Tokens per second of the shared engine with the default policy, the closed loop."""
    closed = figures["closed"]
    wait_s = _waits_s(closed)[-1]
    return float(middle([row["token_rate"] for row in closed if row["max_wait_s"] == wait_s]))


def _peers(figures: Row) -> str:
    rate = _shared_rate(figures)
    rows = [
        (
            "an engine started anew" if one["starts_anew"] else "`reload_weights`",
            f"{one['token_rate']:.0f}",
            f"{rate / one['token_rate']:.1f}x" if one["token_rate"] else "all of it",
            f"{one['queueing_p50_s']:.1f} s",
            f"{one['queueing_p99_s']:.1f} s",
            spread(one["changes_s"]),
            f"{one['window_s']:.0f} s",
        )
        for one in figures["peers"]
    ]
    head = ("peer", "tokens/s", "the shared engine has", "queueing p50", "p99", "a change", "run")
    return table(head, rows)
