"""merge_on_load/BENCHMARK.md, from the figures of `benchmarks.merge`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import Goal, middle, spread, table
from benchmarks.merge_recipes import RECIPES

REPORT = Path("merge_on_load/BENCHMARK.md")
MEMORY_GOAL_BYTES = 512 << 20

Figures = Mapping[str, Any]


def render(figures: Figures, engine: Figures | None) -> str:
    """The whole file. engine: of `benchmarks.merge_engine`."""
    methods = {name: figures["methods"][name] for name in RECIPES if name in figures["methods"]}
    goals = [_speed(name, found) for name, found in methods.items()]
    goals.append(_memory(methods, figures.get("large", {})))
    template = Path(__file__).with_name("merge.md").read_text(encoding="utf-8")
    return template.format(
        goals=table(
            ("goal", "measured", "verdict"),
            [(one.what, one.measured, one.verdict) for one in goals],
        ),
        parameters=figures["parameter_count"] / 1e9,
        copy_s=figures["copy_s"],
        methods=_methods(methods),
        missing=_missing(methods),
        large=_large(figures.get("large")),
        engine=_engine(engine),
        machine=table(("", "here"), list(figures["machine"].items())),
    )


def _speed(name: str, found: Figures) -> Goal:
    ratio, goal = _ratio(found), RECIPES[name].goal
    return Goal(f"{name}: {goal:g} times as fast as mergekit", f"{ratio:.1f} times", ratio >= goal)


def _memory(methods: Mapping[str, Figures], large: Figures) -> Goal:
    ours = [one for found in methods.values() for one in found["ours"]]
    ours += [one for one in large.values() if isinstance(one, Mapping)]
    most = _most(ours, "anonymous_bytes")
    return Goal(
        "512 MiB of anonymous memory at most, whatever is merged",
        f"{most / 2**20:.0f} MiB",
        most <= MEMORY_GOAL_BYTES,
    )


def _methods(methods: Mapping[str, Figures]) -> str:
    rows = [
        (
            name,
            spread([one["seconds"] for one in found["ours"]]),
            f"{found['theirs'][0]['seconds']:.1f} s",
            f"{_ratio(found):.1f}x",
            f"{_most(found['ours'], 'anonymous_bytes') / 2**20:.0f} MiB",
            f"{_most(found['theirs'], 'anonymous_bytes') / 2**20:.0f} MiB",
        )
        for name, found in methods.items()
    ]
    head = ("method", "deltafleet", "mergekit", "faster", "our memory", "mergekit's")
    return table(head, rows)


def _missing(methods: Mapping[str, Figures]) -> str:
    names = [name for name in RECIPES if name not in methods]
    return f"Not measured yet: {', '.join(names)}." if names else ""


def _large(found: Figures | None) -> str:
    if found is None:
        return "(not measured)"
    rows = [
        (name, f"{one['seconds']:.0f} s", f"{one['anonymous_bytes'] / 2**20:.0f} MiB")
        for name, one in found.items()
        if isinstance(one, Mapping)
    ]
    return (
        f"Three models of {found['parameter_count'] / 1e9:.1f} billion parameters, in a control "
        "group whose memory, page cache included, is limited to 2 GiB:\n\n"
        + table(("method", "whole command", "anonymous memory"), rows)
    )


def _engine(found: Figures | None) -> str:
    if found is None:
        return "(not measured)"
    names = {"fingerprint": "hash the inputs", "merge": "merge", "start": "start vLLM"}
    names |= {"first": "first token"}
    ways = {"merged into a running engine": "into", "on the disk, then vLLM started": "disk"}
    rows = []
    for told, way in ways.items():
        runs = found[way]
        parts = [spread([one[part] for one in runs]) if part in runs[0] else "" for part in names]
        rows.append((told, *parts, spread([sum(one.values()) for one in runs])))
    return (
        f"A bfloat16 Llama of {found['parameter_count'] / 1e6:.0f} million parameters, task "
        "arithmetic of two models over their base, in turns:\n\n"
        + table(("from recipe to first token", *names.values(), "together"), rows)
    )


def _ratio(found: Figures) -> float:
    ours = [one["seconds"] for one in found["ours"]]
    return float(middle([one["seconds"] for one in found["theirs"]]) / middle(ours))


def _most(runs: Sequence[Figures], what: str) -> int:
    return max(int(one[what]) for one in runs)
