"""The report's pictures, as SVG to stand in a page."""

from __future__ import annotations

import io
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from markupsafe import Markup
from matplotlib import pyplot  # after what it draws with is chosen
from matplotlib.axes import Axes

from loadtests.figures import quantile

Report = Mapping[str, Any]
WINDOW_S = 2.0
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "deltafleet",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


def draw_all(report: Report) -> list[tuple[str, Markup]]:
    """(title, picture), in the order of the page."""
    pictures: list[tuple[str, Callable[[Axes, Report], None]]] = [
        ("Latency of answers over time", _latency),
        ("Throughput against offered load", _throughput),
        ("Changes of specialists' weights over time", _changes),
        ("USD per million tokens, by specialist", _prices),
    ]
    if report["saturation"]:
        pictures.append(("Saturation", _saturation))
    return [(title, _draw(draw, report)) for title, draw in pictures]


def _draw(draw: Callable[[Axes, Report], None], report: Report) -> Markup:
    with mpl.rc_context(_STYLE):
        picture, axes = pyplot.subplots(figsize=(7.6, 3.4))
        draw(axes, report)
        picture.tight_layout()
        text = io.StringIO()
        picture.savefig(text, format="svg", metadata={"Date": None, "Creator": "make load"})
        pyplot.close(picture)
    # What stands before the element belongs to a file of its own.
    return Markup(re.sub(r"^.*?(?=<svg)", "", text.getvalue(), flags=re.DOTALL))


def _offsets(report: Report) -> list[float]:
    """When each phase began, since the first one did."""
    first = report["phases"][0]["began_at"]
    return [phase["began_at"] - first for phase in report["phases"]]


def _times(report: Report) -> list[float]:
    """When each request was to be sent, since the first phase began."""
    offsets, requests = _offsets(report), report["requests"]
    return [
        offsets[phase] + at_s
        for phase, at_s in zip(requests["phase"], requests["at_s"], strict=True)
    ]


def _latency(axes: Axes, report: Report) -> None:
    requests = report["requests"]
    for column, line in (("total_s", "-"), ("first_token_s", ":")):
        windows: dict[int, list[float]] = defaultdict(list)
        rows = zip(_times(report), requests[column], requests["reason"], strict=True)
        for at_s, value, reason in rows:
            if value is not None and not reason:
                windows[int(at_s // WINDOW_S)].append(value)
        where = [WINDOW_S * (window + 0.5) for window in sorted(windows)]
        for share, colour in ((0.5, "tab:blue"), (0.9, "tab:orange"), (0.99, "tab:red")):
            values = [quantile(windows[window], share) for window in sorted(windows)]
            name = f"{'total' if column == 'total_s' else 'first token'}, p{100 * share:.0f}"
            known: list[float] = [math.nan if value is None else value for value in values]
            axes.plot(where, known, line, color=colour, linewidth=1.2, label=name)
    axes.set_yscale("log")
    axes.set_ylabel("seconds from the scheduled arrival")
    _mark_events(axes, report)
    _finish(axes, "seconds since the load began")


def _throughput(axes: Axes, report: Report) -> None:
    requests, times = report["requests"], _times(report)
    ends = [at_s + total_s for at_s, total_s in zip(times, requests["total_s"], strict=True)]
    good = [end for end, is_good in zip(ends, requests["is_good"], strict=True) if is_good]
    failed = [end for end, reason in zip(ends, requests["reason"], strict=True) if reason]
    for name, found, colour in (
        ("offered", times, "0.6"),
        ("good answers", good, "tab:green"),
        ("refused or failed", failed, "tab:red"),
    ):
        if found:
            axes.plot(*_rates(found, max(ends)), color=colour, linewidth=1.3, label=name)
    axes.set_ylabel("requests per second")
    _mark_events(axes, report)
    _finish(axes, "seconds since the load began")


def _rates(times: Sequence[float], end_s: float) -> tuple[list[float], list[float]]:
    counts = [0] * (int(end_s // WINDOW_S) + 1)
    for at_s in times:
        counts[int(at_s // WINDOW_S)] += 1
    where = [WINDOW_S * (window + 0.5) for window in range(len(counts))]
    return where, [count / WINDOW_S for count in counts]


def _changes(axes: Axes, report: Report) -> None:
    samples, began_at = report["samples"], report["phases"][0]["began_at"]
    workers = sorted({worker for one in samples for worker in one["changes"]})
    for worker in workers:
        told = [one for one in samples if worker in one["changes"]]
        where = [one["at"] - began_at for one in told]
        first = told[0]["changes"][worker]
        counts = [one["changes"][worker] - first for one in told]
        axes.step(where, counts, where="post", linewidth=1.3, label=f"{worker}: changes so far")
        held = [len(one["loaded"].get(worker, ())) for one in told]
        axes.plot(where, held, ":", linewidth=1, label=f"{worker}: models in memory")
    axes.set_ylabel("count")
    _mark_events(axes, report)
    _finish(axes, "seconds since the load began")


def _prices(axes: Axes, report: Report) -> None:
    prices = report["prices"]
    baselines = sorted({name for one in prices.values() for name in one["baselines_usd_per_mtok"]})
    series = {
        "ours, busy time": [one["usd_per_mtok"] for one in prices.values()],
        "ours, with idle time": [one["with_idle_usd_per_mtok"] for one in prices.values()],
    } | {
        name: [one["baselines_usd_per_mtok"].get(name) for one in prices.values()]
        for name in baselines
    }
    width = 0.8 / len(series)
    for place, (name, values) in enumerate(series.items()):
        where = [number + (place - (len(series) - 1) / 2) * width for number in range(len(values))]
        axes.bar(where, [value or math.nan for value in values], width, label=name)
    axes.set_xticks(range(len(prices)), list(prices), rotation=20)
    axes.set_yscale("log")
    axes.set_ylabel("USD per million tokens")
    _finish(axes, "")


def _saturation(axes: Axes, report: Report) -> None:
    found = report["saturation"]
    offered = [one["offered_rate"] for one in found["steps"]]
    axes.plot(offered, [one["goodput"] for one in found["steps"]], "o-", label="good answers")
    axes.plot(offered, [one["refused_rate"] for one in found["steps"]], "s:", label="refused")
    axes.plot(found["overload_rate"], found["overload_goodput"], "r*", label="at the overload")
    axes.axvline(found["knee_rate"], color="0.4", linestyle="--", label="saturated")
    axes.axhline(found["peak_goodput"], color="0.8", linewidth=0.8)
    axes.set_ylabel("per second")
    _finish(axes, "offered requests per second")


def _mark_events(axes: Axes, report: Report) -> None:
    for phase, offset in zip(report["phases"], _offsets(report), strict=True):
        axes.axvline(offset, color="0.8", linewidth=0.8)
        for at_s, what in phase["events"]:
            axes.axvline(offset + at_s, color="0.5", linestyle="--", linewidth=0.7)
            place = (offset + at_s, 0.98)
            axes.text(
                *place,
                what,
                rotation=90,
                fontsize=5,
                va="top",
                transform=axes.get_xaxis_transform(),
            )


def _finish(axes: Axes, what: str) -> None:
    axes.set_xlabel(what)
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
