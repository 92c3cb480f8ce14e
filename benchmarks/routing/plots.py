"""Pictures of the figures, the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot  # after what it draws with is chosen
from matplotlib.axes import Axes

Figures = Mapping[str, Any]
CURVE, RELIABILITY = "routing_curve.svg", "routing_reliability.svg"
_STYLE: Any = {
    "svg.hashsalt": "deltafleet",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw_curves(sets: Figures, path: Path) -> None:
    """Quality against cost, or against calls to the strong model, with single models as points.

    sets: title -> figures of quality.measure that have curves.
    """
    with mpl.rc_context(_STYLE):
        picture, places = pyplot.subplots(1, len(sets), figsize=(5 * len(sets), 4), squeeze=False)
        for axes, (title, found) in zip(places[0], sets.items(), strict=True):
            axes.set_title(title)
            for name, told in found["estimators"].items():
                axes.plot(*told["curve"], label=name, linewidth=1.3)
            (_with_costs if "costs_usd" in found["fleet"] else _with_calls)(axes, found["fleet"])
            axes.set_ylabel("mean score")
        places[0][0].legend(frameon=False)
        _save(picture, path)


def draw_reliability(panels: Mapping[str, Mapping[str, Sequence[Any]]], path: Path) -> None:
    """panels: title -> name -> bins as answers.figures tells them. A point's area is its count."""
    with mpl.rc_context(_STYLE):
        picture, places = pyplot.subplots(
            1, len(panels), figsize=(4.2 * len(panels), 4), squeeze=False
        )
        for axes, (title, lines) in zip(places[0], panels.items(), strict=True):
            axes.set_title(title)
            axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
            for name, bins in lines.items():
                _, _, counts, confidences, accuracies = zip(*bins, strict=True)
                (line,) = axes.plot(confidences, accuracies, linewidth=1.2, label=name)
                areas = [200 * count / sum(counts) for count in counts]
                axes.scatter(confidences, accuracies, s=areas, color=line.get_color(), alpha=0.6)
            axes.set_xlabel("probability given to the answer")
            axes.set_ylabel("share that is right")
        places[0][0].legend(frameon=False)
        _save(picture, path)


def _with_costs(axes: Axes, fleet: Figures) -> None:
    axes.set_xscale("log")
    axes.set_xlabel("mean cost of a prompt, USD")
    for model, mean in fleet["means"].items():
        _mark(axes, model.split("/")[-1], fleet["costs_usd"][model], mean)


def _with_calls(axes: Axes, fleet: Figures) -> None:
    axes.set_xlabel("share of calls to the strong model")
    for share, (model, mean) in zip((1, 0), fleet["means"].items(), strict=True):
        _mark(axes, model, share, mean)


def _mark(axes: Axes, model: str, x: float, y: float) -> None:
    axes.plot(x, y, "k.")
    axes.annotate(model, (x, y), (3, 3), textcoords="offset points", size=6)


def _save(picture: Any, path: Path) -> None:
    picture.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, format="svg", metadata={"Date": None, "Creator": "make bench-routing"})
    pyplot.close(picture)
