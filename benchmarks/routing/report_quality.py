"""What routed answers are worth, in tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.figures import Goal, table
from benchmarks.routing.contenders import OURS

Figures = Mapping[str, Any]
PAIRS = {"routellm_mmlu_dev.csv": "MMLU", "routellm_gsm8k_dev.csv": "GSM8K"}
FLEETS = {
    "fleet9_dev.jsonl": "nine models",
    "fleet7_dev.jsonl": "seven models",
    "routerbench_dev.jsonl": "RouterBench",
}
_APGR_GOALS = {"routellm_mmlu_dev.csv": 0.70, "routellm_gsm8k_dev.csv": 0.68}
_PART_GOAL, _COST_GOAL = 0.25, 0.5


def goals(figures: Figures) -> list[Goal]:
    """Of our estimates, where they were measured."""
    ours = {name: told["estimators"].get(OURS) for name, told in figures.items()}
    found = []
    for file, least in _APGR_GOALS.items():
        if told := ours[file]:
            what = f"APGR on {PAIRS[file]}: {least:.2f}"
            value = _with_error(told["apgr"], told["apgr_error"])
            found.append(Goal(what, value, told["apgr"] >= least))
    for file in ("fleet9_dev.jsonl", "fleet7_dev.jsonl"):
        if told := ours[file]:
            what = f"{FLEETS[file]}: a quarter of the way to the oracle"
            value = _with_error(told["part"], told["part_error"])
            found.append(Goal(what, value, told["part"] >= _PART_GOAL))
    if told := ours["routerbench_dev.jsonl"]:
        part = told["cost_part"]
        what = "RouterBench: the best model's quality at half of its cost"
        is_reached = part is not None and part <= _COST_GOAL
        found.append(Goal(what, _cost_part(part), is_reached))
    return found


def sections(figures: Figures) -> dict[str, str]:
    """What the template has of quality."""
    pairs = "\n\n".join(_pair(title, figures[file]) for file, title in PAIRS.items())
    fleets = "\n\n".join(_fleet(title, figures[file]) for file, title in FLEETS.items())
    return {"pairs": pairs, "fleets": fleets}


def curves(figures: Figures) -> dict[str, Any]:
    """What plots.draw_curves draws."""
    titles = {"routerbench_dev.jsonl": "RouterBench, eleven models"}
    titles |= {file: f"GPT-4 and Mixtral, {title}" for file, title in PAIRS.items()}
    return {title: figures[file] for file, title in titles.items()}


def _pair(title: str, found: Figures) -> str:
    (strong, high), (weak, low) = found["fleet"]["means"].items()
    rows = [
        (
            _emphasised(name),
            _with_error(told["apgr"], told["apgr_error"]),
            f"{told['cpt50']:.0%}",
            f"{told['cpt80']:.0%}",
        )
        for name, told in found["estimators"].items()
    ]
    told = f"{title}, {found['prompts']:,} prompts: {strong} has {high:.3f}, {weak} {low:.3f}."
    return f"{told}\n\n" + table(("", "APGR", "CPT(50%)", "CPT(80%)"), rows)


def _fleet(title: str, found: Figures) -> str:
    alone = found["fleet"]
    best = alone["means"][alone["best"]]
    rows = []
    for name, told in found["estimators"].items():
        row = [
            _emphasised(name),
            f"{told['mean']:.4f}",
            _with_error(told["part"], told["part_error"]),
        ]
        rows.append((*row, _cost_part(told["cost_part"])) if "cost_part" in told else tuple(row))
    head = ["", "mean score", "of the way"]
    head += ["cost at equal quality"] if "costs_usd" in alone else []
    told = (
        f"{title}, {found['prompts']:,} prompts: the best single model, {alone['best']}, has "
        f"{best:.4f}, the oracle {alone['oracle']:.4f}."
    )
    return f"{told[0].upper()}{told[1:]}\n\n" + table(head, rows)


def _with_error(value: float, error: float) -> str:
    return f"{value:.3f} ± {error:.3f}"


def _cost_part(part: float | None) -> str:
    return "never as good" if part is None else f"{part:.0%}"


def _emphasised(name: str) -> str:
    return f"**{name}**" if name == OURS else name
