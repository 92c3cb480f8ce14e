"""The Pareto plot: bytes against what is kept, the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot  # after what it draws with is chosen

_STYLE: Any = {
    "svg.hashsalt": "deltafleet",
    "svg.fonttype": "none",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_COLUMNS = 2
# Sizes that papers tell of their own models, as bits per parameter. Their quality is of other
# tasks: they are drawn as bands without a height.
PUBLISHED = {"BitDelta, 10 to 15x": (16 / 15, 16 / 10), "DeltaZip, 6 to 8x": (16 / 8, 16 / 6)}
_SHADES = "0.8", "0.9"
_COLOURS = {
    "auto": "black",
    "lowrank": "tab:blue",
    "sparse": "tab:orange",
    "topk": "tab:brown",
    "onebit": "tab:green",
    "int": "tab:purple",
}


@dataclass(frozen=True)
class Point:
    """bits: per parameter, all files of the delta. kept: of the specialist's own score. name: to be
    written beside it.
    """

    kind: str
    bits: float
    kept: float
    is_distilled: bool
    name: str = ""


def draw(panels: Mapping[str, Sequence[Point]], path: Path) -> None:
    """panels: title -> points."""
    rows = -(-len(panels) // _COLUMNS)
    with mpl.rc_context(_STYLE):
        picture, places = pyplot.subplots(
            rows, _COLUMNS, figsize=(4.6 * _COLUMNS, 2.7 * rows), squeeze=False, sharex=True
        )
        for axes in places.flat[len(panels) :]:
            axes.set_axis_off()
        for axes, (title, points) in zip(places.flat, panels.items(), strict=False):
            axes.set_title(title)
            axes.set_xscale("log", base=2)
            axes.axhline(0.99, color="0.7", linewidth=0.8, linestyle="--")
            for (label, (least, most)), shade in zip(PUBLISHED.items(), _SHADES, strict=True):
                axes.axvspan(least, most, color=shade, linewidth=0, label=label, zorder=0)
            if not any(one.name for one in points):
                front = _front(points)
                axes.plot([one.bits for one in front], [one.kept for one in front], color="0.6")
            for point in points:
                axes.plot(
                    *(point.bits, point.kept),
                    marker="*" if point.kind == "auto" else "o",
                    markersize=11 if point.kind == "auto" else 5,
                    color=_COLOURS[point.kind],
                    fillstyle="full" if point.is_distilled else "none",
                )
            for number, point in enumerate(sorted(points, key=lambda one: one.bits)):
                place = (point.bits, point.kept - 0.12 - 0.09 * (number % 9))
                axes.annotate(point.name, (point.bits, point.kept), place, size=6)
            axes.set_ylim(-0.05, 1.08)
            axes.set_ylabel("score kept")
        for axes in places[-1]:
            axes.set_xlabel("bits per parameter")
        _legend(picture)
        picture.tight_layout(rect=(0, 0.05, 1, 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        creator = {"Date": None, "Creator": "make bench-deltas"}
        picture.savefig(path, format="svg", metadata=creator)
        pyplot.close(picture)


def _front(points: Sequence[Point]) -> list[Point]:
    """Those that no smaller one beats."""
    found: list[Point] = []
    for point in sorted(points, key=lambda one: (one.bits, -one.kept)):
        if not found or point.kept > found[-1].kept:
            found.append(point)
    return found


def _legend(picture: Any) -> None:
    line = mpl.lines.Line2D
    kinds = [
        line([], [], color=colour, marker="*" if kind == "auto" else "o", linestyle="", label=kind)
        for kind, colour in _COLOURS.items()
    ]
    hollow = line([], [], color="0.4", marker="o", linestyle="", fillstyle="none")
    hollow.set_label("as coded (filled: distilled)")
    bands = [
        mpl.patches.Patch(color=shade, label=f"published: {label}")
        for label, shade in zip(PUBLISHED, _SHADES, strict=True)
    ]
    picture.legend(
        handles=[*kinds, hollow, *bands], loc="lower center", ncols=5, frameon=False, fontsize=7
    )
