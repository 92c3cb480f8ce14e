"""The report's part "gateway"."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.figures import Goal, middle, spread, table

TOKEN_SHARE = 0.95
ADDED_S = 0.005
DIRECT, MERGED, GATEWAY, ROUTED = (
    "direct", "direct, merged loader", "gateway", "gateway, routed"
)  # fmt: skip
HEAD = (
    "model, way",
    "tokens/s",
    "of direct",
    "of merged loader",
    "to the first text",
    "added to direct",
    "to merged loader",
)

Figures = dict[str, Any]


def render(figures: Figures) -> tuple[str, list[Goal]]:
    """The section, and how its goals stand. They are for the big model."""
    template = Path(__file__).with_name("gateway.md").read_text(encoding="utf-8")
    models = {name: figures[name] for name in ("big", "demo")}
    text = template.format(
        running_count=figures["running_count"],
        token_count=figures["token_count"],
        round_count=len(models["big"][DIRECT]["token_rates"]),
        others=f" of {os.cpu_count()}",
        rows=table(HEAD, _rows(models)),
    )
    return text.rstrip(), list(_goals(models["big"]))


def _rows(models: Figures) -> Iterator[tuple[str, ...]]:
    for name, model in models.items():
        for way in (DIRECT, MERGED, GATEWAY, ROUTED):
            medians = [middle(one) for one in model[way]["first_s"]]
            low, high = 1000 * min(medians), 1000 * max(medians)
            yield (
                f"{name}, {way}",
                spread(model[way]["token_rates"], "tokens/s"),
                f"{_share(model, way):.1%}",
                f"{_share(model, way, MERGED):.1%}",
                f"{1000 * _first_s(model, way):.1f} ms ({low:.1f} to {high:.1f})",
                f"{1000 * _added_s(model, way):+.1f} ms",
                f"{1000 * _added_s(model, way, MERGED):+.1f} ms",
            )


def _goals(model: Figures) -> Iterator[Goal]:
    share, added_s = _share(model, GATEWAY), _added_s(model, GATEWAY)
    yield Goal(
        f"through the gateway {TOKEN_SHARE:.0%} of the tokens/s of vLLM called directly (big)",
        f"{share:.1%}",
        share >= TOKEN_SHARE,
    )
    yield Goal(
        f"less than {1000 * ADDED_S:.0f} ms added to the first token (big)",
        f"{1000 * added_s:+.1f} ms",
        added_s < ADDED_S,
    )


def _share(model: Figures, way: str, against: str = DIRECT) -> float:
    return float(middle(model[way]["token_rates"]) / middle(model[against]["token_rates"]))


def _added_s(model: Figures, way: str, against: str = DIRECT) -> float:
    return _first_s(model, way) - _first_s(model, against)


def _first_s(model: Figures, way: str) -> float:
    """Median over all rounds."""
    return float(middle([one for seconds in model[way]["first_s"] for one in seconds]))
