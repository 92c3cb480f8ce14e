"""The report's part "switch"."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.figures import Goal, middle, spread, table

COPY_SHARE = 0.7
CONTROL_S = 0.003
LOADER_RATIO = 1.05
START_RATIOS = {"big": 75, "demo": 500}

Figures = dict[str, Any]


def render(figures: Figures) -> tuple[str, list[Goal]]:
    """The section, and how its goals stand."""
    template = Path(__file__).with_name("switch.md").read_text(encoding="utf-8")
    models = {name: figures[name] for name in START_RATIOS}
    run = figures["demo"]["long_run"]
    text = template.format(
        big_parameters=figures["big"]["parameter_count"] / 1e6,
        demo_parameters=figures["demo"]["parameter_count"] / 1e6,
        thread_count=figures["thread_count"],
        big_reload=_answers(figures["big"]),
        demo_reload=_answers(figures["demo"]),
        starts=_starts(models),
        switches=_switches(models),
        prepared=_prepared(figures["big"]),
        long_run=(
            f"{run['count']:,} switches in random order over the base and the demo's deltas took "
            f"{run['seconds']:.1f} s. The digests of the live weights of all {run['model_count']} "
            f"models ({run['distinct_count']} different ones) were "
            f"{'the same' if run['are_all_unchanged'] else '**not the same**'} after them."
        ),
    )
    return text.rstrip(), [*_goals(models), _long_run_goal(run)]


def _answers(model: Figures) -> str:
    right = model["reload"]["is_right"]
    return (
        "those of an engine started there" if right else "**not** those of an engine started there"
    )


def _starts(models: Figures) -> str:
    names: dict[str, Callable[[Figures], str]] = {
        "vLLM's own loader": lambda one: spread(one["starts"]["own"]),
        "merged loader": lambda one: spread(one["starts"]["merged"]),
        "of that, learning": lambda one: spread(one["starts"]["learning"]),
        "merged against own": lambda one: f"{_loader_ratio(one):.2f}",
        "`reload_weights`": lambda one: spread(one["reload"]["seconds"], "ms"),
    }
    rows = [(name, *(show(one) for one in models.values())) for name, show in names.items()]
    return table(("start", *models), rows)


def _switches(models: Figures) -> str:
    head = (
        "model, delta",
        "`copy_`",
        "switch",
        "of copy_'s speed",
        "control alone",
        "back to the base",
        "of copy_'s speed",
        "against a start",
        "against `reload_weights`",
    )
    return table(head, _switch_rows(models))


def _switch_rows(models: Figures) -> Iterator[tuple[str, ...]]:
    for name, model in models.items():
        for codec, seconds in model["codecs"].items():
            switch_s, copy_s = middle(seconds["switch"]), middle(seconds["copy"])
            yield (
                f"{name}, {codec}",
                spread(seconds["copy"], "ms"),
                spread(seconds["switch"], "ms"),
                f"{copy_s / switch_s:.0%}",
                spread(seconds["control"], "ms"),
                spread(seconds["back"], "ms"),
                f"{copy_s / middle(seconds['back']):.0%}",
                f"{middle(model['starts']['own']) / switch_s:.0f}x",
                f"{middle(model['reload']['seconds']) / switch_s:.1f}x",
            )


def _prepared(model: Figures) -> str:
    rows = [
        (f"big, {codec}", spread(one["prepare"]), f"{one['held_bytes'] / 2**20:.0f} MiB")
        for codec, one in model["codecs"].items()
    ]
    return table(("delta", "prepare", "held"), rows)


def _goals(models: Figures) -> Iterator[Goal]:
    for codec, seconds in models["big"]["codecs"].items():
        share = middle(seconds["copy"]) / middle(seconds["switch"])
        yield Goal(
            f"a switch at {COPY_SHARE:.0%} of `copy_`'s speed at least (big, {codec})",
            f"{share:.0%}",
            share >= COPY_SHARE,
        )
    for name, model in models.items():
        control_s = middle([one for codec in model["codecs"].values() for one in codec["control"]])
        yield Goal(
            f"control {1000 * CONTROL_S:.0f} ms at most ({name})",
            f"{1000 * control_s:.1f} ms",
            control_s <= CONTROL_S,
        )
    for name, model in models.items():
        slowest_s = max(middle(one["switch"]) for one in model["codecs"].values())
        ratio = middle(model["starts"]["own"]) / slowest_s
        yield Goal(
            f"a switch {START_RATIOS[name]} times faster than a start ({name}, the slowest codec)",
            f"{ratio:.0f} times",
            ratio >= START_RATIOS[name],
        )
        yield Goal(
            f"a start with the merged loader within {LOADER_RATIO} of vLLM's own ({name})",
            f"{_loader_ratio(model):.2f}",
            _loader_ratio(model) <= LOADER_RATIO,
        )


def _loader_ratio(model: Figures) -> float:
    return float(middle(model["starts"]["merged"]) / middle(model["starts"]["own"]))


def _long_run_goal(run: Figures) -> Goal:
    return Goal(
        f"{run['count']:,} switches leave the base's digest unchanged",
        f"{'unchanged' if run['is_base_unchanged'] else 'changed'}, {run['seconds']:.1f} s",
        run["is_base_unchanged"],
    )
