"""gateway/ROUTING.md and its pictures, from the figures of the parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.figures import table
from benchmarks.routing import plots, report_quality, report_tasks
from benchmarks.routing.data_sets import SOURCES

HOME = Path("gateway")
Figures = Mapping[str, Any]


def write(figures: Figures, home: Path) -> list[Path]:
    """What was written. Raises KeyError where a part was not measured."""
    page = home / "ROUTING.md"
    page.write_text(render(figures), encoding="utf-8")
    curve, reliability = home / plots.CURVE, home / plots.RELIABILITY
    plots.draw_curves(report_quality.curves(figures["quality"]), curve)
    plots.draw_reliability(report_tasks.diagrams(figures["tasks"]), reliability)
    return [page, curve, reliability]


def render(figures: Figures) -> str:
    """The whole page."""
    goals = report_tasks.goals(figures["tasks"], figures["times"])
    goals += report_quality.goals(figures["quality"])
    template = Path(__file__).with_name("routing.md").read_text(encoding="utf-8")
    return template.format(
        goals=table(
            ("goal", "measured", "verdict"),
            [(one.what, one.measured, one.verdict) for one in goals],
        ),
        glance=report_tasks.glance(figures["tasks"], figures["times"]),
        **report_tasks.sections(figures["tasks"]),
        **report_tasks.times(figures["times"]),
        **report_quality.sections(figures["quality"]),
        clinc_learned=figures["line_counts"]["clinc150_dev.json"]
        - figures["tasks"]["clinc"]["deltafleet"]["count"],
        data=_data(figures["line_counts"]),
        machine=_machine(figures),
    )


def _data(counts: Mapping[str, int]) -> str:
    head = ("file", "lines used", "what", "from (GitHub)")
    rows = [(f"`{s.file}`", f"{counts[s.file]:,}", s.what, s.origin) for s in SOURCES]
    lines = [head, ("---", "---:", "---", "---"), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _machine(figures: Figures) -> str:
    minutes = sum(figures["minutes"].values())
    return table(("", "here"), [*figures["machine"].items(), ("minutes", f"{minutes:.0f}")])
