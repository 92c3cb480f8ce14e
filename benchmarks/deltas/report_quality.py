"""What is kept in how many bytes: the tables and the plot of CODECS.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.deltas.plots import Point, draw
from benchmarks.deltas.quality import AUTO, TRIALS
from benchmarks.figures import Goal, table

PICTURE = Path("merge_on_load/codecs.svg")
_HARDEST, _EASY_TIMES, _HARD_TIMES, _KEPT = "arithmetic", 50, 25, 0.99

_EVERY = "auto, every specialist"

Figures = dict[str, Any]


def render(found: Figures) -> tuple[str, list[Goal]]:
    """found: "family/task" -> label -> figures."""
    _draw(found)
    text = "\n\n".join((_auto_table(found), _all_table(found)))
    return text, _goals(found)


def _times(one: Figures) -> float:
    return float(one["full_size_bytes"] / one["size_bytes"])


def _kept(one: Figures) -> float:
    return float(one["score"] / one["tuned_score"])


def _auto_table(found: Figures) -> str:
    rows = []
    for which, labels in found.items():
        if (one := labels.get(AUTO)) is None:
            continue
        codings = [name for name in one["codings"] if name not in ("lossless", "same")]
        rows.append(
            (
                which,
                f"{one['tuned_score']:.3f}",
                f"{one['score']:.3f}",
                f"{one['divergence_nats']:.4f}",
                f"{one['size_bytes'] / 1000:.0f}",
                f"**{_times(one):.1f}**",
                ", ".join(f"`{name}`" for name in codings[:3]),
            )
        )
    head = "specialist", "its score", "rebuilt", "nats", "delta, kB", "times smaller", "codecs"
    return table(head, rows)


def _all_table(found: Figures) -> str:
    """A row a codec, a column a specialist: times smaller / share kept."""
    whole = {which: labels for which, labels in found.items() if len(labels) > 1}
    rows = []
    for trial in TRIALS:
        cells = []
        for labels in whole.values():
            one = labels.get(trial.label)
            cells.append(f"{_times(one):.1f} / {_kept(one):.3f}" if one else "")
        rows.append((trial.label, *cells))
    return table(("times smaller / kept", *whole), rows)


def _goals(found: Figures) -> list[Goal]:
    goals = []
    for which, labels in found.items():
        if (one := labels.get(AUTO)) is None:
            continue
        wanted = _HARD_TIMES if which.endswith(_HARDEST) else _EASY_TIMES
        reached = _times(one) >= wanted and _kept(one) >= _KEPT
        told = f"{_times(one):.1f} times, {_kept(one):.1%} kept"
        goals.append(Goal(f"{which}: {wanted} times smaller, 99% kept", told, reached))
    return goals


def _draw(found: Figures) -> None:
    kinds = {trial.label: trial for trial in TRIALS}
    panels: dict[str, list[Point]] = {_EVERY: []}
    for which, labels in found.items():
        points = []
        for label, one in labels.items():
            bits = 8 * one["size_bytes"] / one["parameter_count"]
            trial = kinds.get(label)
            if label == AUTO:
                points.append(Point(AUTO, bits, _kept(one), is_distilled=True))
                panels[_EVERY].append(Point(AUTO, bits, _kept(one), True, which))
            elif trial is not None:
                points.append(Point(trial.kind, bits, _kept(one), trial.is_distilled))
        if len(points) > 1:
            panels[which] = points
    draw(panels, PICTURE)
