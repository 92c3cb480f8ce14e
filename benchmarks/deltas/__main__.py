"""make bench-deltas: train, pack, judge, time; write merge_on_load/CODECS.md and its plot.

    python -m benchmarks.deltas [--part NAME ...] [--report]

Training and quality take hours, and skip what is there already (build/benchmarks/deltas). The other
parts want a quiet machine. --report writes the report from what the parts have left.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.deltas import (
    cold_start,
    lossless,
    memory,
    quality,
    report_exact,
    report_quality,
    report_speed,
    speed,
    training,
)
from benchmarks.figures import Goal, table
from benchmarks.timing import say

RESULTS = training.ROOT / "results"
REPORT = Path("merge_on_load/CODECS.md")
Figures = dict[str, Any]


def _quality() -> Figures:
    """Trains what is not there."""
    found = {}
    for family in training.FAMILIES.values():
        training.train_family(family)
        for task in family.tasks:
            found[f"{family.name}/{task}"] = quality.measure(family, task)
    return found


def _lossless() -> Figures:
    """Of all the demo's specialists, a large one, and one that was tuned gently."""
    demo, large = training.DEMO, training.LARGE
    training.train_family(demo)
    training.train_family(large, ["base", "arithmetic"])
    pairs = [(demo.base_dir, training.train_gently())]
    pairs += [(demo.base_dir, demo.directory(task)) for task in demo.tasks]
    pairs += [(large.base_dir, large.directory("arithmetic"))]
    return {"pairs": lossless.measure(pairs), "decoding": lossless.measure_decoding()}


PARTS: Mapping[str, tuple[Callable[[], Figures], Callable[[Figures], tuple[str, list[Goal]]]]] = {
    "quality": (_quality, report_quality.render),
    "lossless": (_lossless, report_exact.render_lossless),
    "speed": (speed.measure, report_speed.render),
    "cold": (cold_start.measure, report_exact.render_cold),
    "memory": (memory.measure, report_exact.render_memory),
}


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deltas", description=__doc__)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    chosen = parser.parse_args()
    torch.set_num_threads(2)
    for part in () if chosen.report else chosen.part or PARTS:
        say(part)
        facts = machine.facts(("torch", "numba", "transformers"))
        began_s = time.monotonic()
        figures = PARTS[part][0]()
        told = {"machine": facts, "seconds": time.monotonic() - began_s, "figures": figures}
        if part == "quality":  # some of it may have been there
            told["seconds"] = sum(
                one["seconds"] for each in figures.values() for one in each.values()
            )
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{part}.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    REPORT.write_text(render(), encoding="utf-8")
    say(f"{REPORT} written")
    return 0


def render() -> str:
    """CODECS.md, from what the parts have left."""
    sections, goals, machines = {}, [], {}
    for part, (_, rendered) in PARTS.items():
        file = RESULTS / f"{part}.json"
        if not file.exists():
            sections[part] = f"(part {part}: not measured)"
            continue
        told = json.loads(file.read_text(encoding="utf-8"))
        sections[part], reached = rendered(told["figures"])
        goals += reached
        machines[part] = told["machine"] | {"minutes": f"{told['seconds'] / 60:.0f}"}
    template = Path(__file__).with_name("codecs.md").read_text(encoding="utf-8")
    rows = [(goal.what, goal.measured, goal.verdict) for goal in goals]
    return template.format(
        goals=table(("goal", "measured", "verdict"), rows), machine=_machine(machines), **sections
    )


def _machine(machines: Mapping[str, Mapping[str, str]]) -> str:
    names = list(dict.fromkeys(name for one in machines.values() for name in one))
    rows = [(name, *(str(one.get(name, "")) for one in machines.values())) for name in names]
    return table(("part", *machines), rows)


if __name__ == "__main__":
    sys.exit(main())
