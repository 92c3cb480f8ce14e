"""model_pool/BENCHMARK.md, from the figures of the parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import report_gateway, report_sharing, report_switch
from benchmarks.figures import Goal, table

REPORT = Path("model_pool/BENCHMARK.md")
PARTS: dict[str, Callable[[Any], tuple[str, list[Goal]]]] = {
    "switch": report_switch.render,
    "gateway": report_gateway.render,
    "sharing": report_sharing.render,
}


def render(results: Mapping[str, Any]) -> str:
    """results: part -> what it left; a part that was not run says so."""
    sections = {part: f"(part {part}: not measured)" for part in PARTS}
    goals: list[Goal] = []
    for part, found in results.items():
        sections[part], reached = PARTS[part](found["figures"])
        goals += reached
    rows = [(goal.what, goal.measured, goal.verdict) for goal in goals]
    template = Path(__file__).with_name("pool.md").read_text(encoding="utf-8")
    return template.format(
        goals=table(("goal", "measured", "verdict"), rows), machine=_machine(results), **sections
    )


def _machine(results: Mapping[str, Any]) -> str:
    """One column where all parts ran on the same, which is all but the time and the load."""
    facts = {part: found["machine"] for part, found in results.items()}
    names = list(dict.fromkeys(name for one in facts.values() for name in one))
    rows = [(name, *(str(one.get(name, "")) for one in facts.values())) for name in names]
    minutes = (f"{found['seconds'] / 60:.0f}" for found in results.values())
    return table(("part", *facts), [*rows, ("minutes", *minutes)])
