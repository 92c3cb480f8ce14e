"""How fast deltas are decoded: the table of CODECS.md."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.deltas.speed import SHAPE, share_of_copy
from benchmarks.figures import Goal, table

_SHARE = 0.75

Figures = dict[str, Any]


def render(found: Figures) -> tuple[str, list[Goal]]:
    """found: speed.measure's."""
    rows, goals = [], []
    kinds: list[str] = []
    for coding, one in found["codings"].items():
        seconds = one["seconds"]
        kinds = [kind for kind in seconds if kind != "copy_"]
        shares = {kind: share_of_copy(seconds, kind) for kind in kinds}
        copied = found["weight_bytes"] / statistics.median(seconds["copy_"]) / 1e9
        bits = 8 * one["stored_bytes"] / (SHAPE[0] * SHAPE[1])
        told = (f"{shares[kind]:.2f}" for kind in kinds)
        rows.append((f"`{coding}`", f"{bits:.2f}", f"{copied:.1f}", *told))
        goals.append(
            Goal(
                f"`{coding}`: written at 75% of `copy_`'s speed",
                f"{shares[kinds[0]]:.0%}",
                shares[kinds[0]] >= _SHARE,
            )
        )
    return table(("coding", "bits a weight", "`copy_`, GB/s", *kinds), rows), goals
