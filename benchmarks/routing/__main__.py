"""make bench-routing: tell tasks, choose models, take times; beside baselines, in one run.

Writes gateway/ROUTING.md and two pictures beside it; a --quick run writes them to build/ instead.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.machine import facts
from benchmarks.models import ROOT
from benchmarks.routing import data_sets, decision_times, ours_quality, quality, report, tasks
from benchmarks.routing.contenders import OURS, TOLD, TUNED, contenders
from benchmarks.routing.data_sets import Prompts
from benchmarks.routing.estimators import BASELINES, Estimates, Estimator, by_true_kind
from benchmarks.routing.peer import SemanticRouter
from benchmarks.routing.rows import KeptRows, Rows
from benchmarks.routing.splits import folds, sources_left_out
from benchmarks.routing.thinning import thin_outcomes, thin_prompts
from benchmarks.timing import say
from gateway.routing.quality.outcomes import Outcomes
from gateway.routing.task_router import FullEncoder

HOME = ROOT / "routing"
PARTS = ("tasks", "times", "quality")
PACKAGES = ("numpy", "onnxruntime", "scikit-learn", "sentence-transformers")


@dataclass(frozen=True, slots=True)
class Data:
    """All sets, whole or thinned."""

    tasks: Prompts
    languages: Prompts
    clinc: tuple[Prompts, Prompts]
    outcomes: dict[str, Outcomes]
    kinds: dict[str, dict[str, str]]

    @property
    def line_counts(self) -> dict[str, int]:
        """Of each file, of what is used."""
        return {
            "tasks_dev.jsonl": len(self.tasks),
            "routing_languages.jsonl": len(self.languages),
            "clinc150_dev.json": sum(map(len, self.clinc)),
            **{name: len(one.prompts) for name, one in self.outcomes.items()},
        }


def main() -> int:
    """Measure what was asked for and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routing", description=__doc__)
    parser.add_argument("--data", type=Path, default=data_sets.DEFAULT, help="%(default)s")
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all of them")
    parser.add_argument("--quick", action="store_true", help="a few lines, to try the chain")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    chosen = parser.parse_args()
    home = HOME / "quick" if chosen.quick else HOME
    if not chosen.report:
        if not chosen.data.is_dir():
            parser.error(f"no data in {chosen.data}: ROUTING_DATA=DIRECTORY, or --data DIRECTORY")
        measure(chosen.data, chosen.part or PARTS, home, is_quick=chosen.quick)
    figures = json.loads((home / "figures.json").read_text())
    if missing := [part for part in PARTS if part not in figures]:
        say(f"no report: {', '.join(missing)} not measured yet")
        return 0
    for path in report.write(figures, home if chosen.quick else report.HOME):
        say(str(path))
    return 0


def measure(data_home: Path, parts: Sequence[str], home: Path, *, is_quick: bool) -> None:
    """Add these parts' figures to what there is."""
    began = time.perf_counter()
    data = read(data_home, is_quick=is_quick)
    rows = Rows.kept_in(HOME)
    rows.use_threads(len(os.sched_getaffinity(0)))
    for listed in _texts(data, parts):
        rows.encode(listed)
    rows.save()  # for the other process
    path = home / "figures.json"
    home.mkdir(parents=True, exist_ok=True)
    found = json.loads(path.read_text()) if path.is_file() else {}
    found |= {"machine": facts(PACKAGES), "line_counts": data.line_counts}
    minutes = found.setdefault("minutes", {})
    minutes["encoding"] = (time.perf_counter() - began) / 60
    for part in parts:
        began = time.perf_counter()
        found[part] = MEASURES[part](data, rows, is_quick)
        minutes[part] = (time.perf_counter() - began) / 60
        path.write_text(json.dumps(found, indent=1))
        rows.save()


def _texts(data: Data, parts: Sequence[str]) -> Iterator[list[str]]:
    """All that the parts will need, so that seconds told later are not of encoding."""
    yield [*data.tasks.texts, *data.languages.texts]
    yield [text for one in data.clinc for text in one.texts]
    if "quality" in parts:
        yield [prompt for one in data.outcomes.values() for prompt in one.prompts]


def measure_tasks(data: Data, rows: Rows, is_quick: bool) -> dict[str, Any]:
    """Trial -> contender -> figures."""
    trials = {
        "sources": tasks.split_trial(
            data.tasks, sources_left_out(data.tasks.tasks, data.tasks.sources)[: _few(is_quick)]
        ),
        "folds": tasks.split_trial(data.tasks, folds(data.tasks.tasks)[: _few(is_quick)]),
        "languages": tasks.Trial(((data.tasks, data.languages),), data.languages.sources),
        "clinc": tasks.Trial((data.clinc,)),
    }
    with SemanticRouter(rows.whole.path) as peer:
        every = contenders(rows, peer)
        return {name: tasks.measure(name, trial, every) for name, trial in trials.items()}


def measure_times(data: Data, rows: Rows, is_quick: bool) -> dict[str, Any]:
    """Of decisions on prompts that were not learned from."""
    split = folds(data.tasks.tasks)[0]
    texts = data.tasks.at(split.tested).texts
    sets = {
        "short": decision_times.short_ones(texts, 20 if is_quick else 200),
        "all": decision_times.evenly(texts, 20 if is_quick else len(texts)),
    }
    learned = data.tasks.at(split.learned)
    with SemanticRouter(rows.whole.path) as one, SemanticRouter(rows.whole.path) as other:
        every = contenders(rows, one) | {TUNED: contenders(rows, other)[TUNED]}
        routers = {name: learn(learned) for name, learn in every.items()}
        found = decision_times.measure(routers, sets, rows)
    return {"decisions": found, "throughput": decision_times.throughput(texts, rows)}


def measure_quality(data: Data, rows: Rows, is_quick: bool) -> dict[str, Any]:
    """File -> figures."""
    fold_count = 2 if is_quick else 5
    found = {}
    for name, outcomes in data.outcomes.items():
        told = {TOLD: by_true_kind(data.kinds[name])}
        estimators: dict[str, Estimator] = {
            **BASELINES,
            OURS: partial(_own_estimates, rows.own),
            **told,
        }
        found[name] = quality.measure(name, outcomes, estimators, rows.whole, fold_count)
    return found


def _own_estimates(own: KeptRows, learned: Outcomes, tested: Outcomes, _: FullEncoder) -> Estimates:
    return ours_quality.estimates(learned, tested, own)


MEASURES = {"tasks": measure_tasks, "times": measure_times, "quality": measure_quality}


def read(home: Path, *, is_quick: bool) -> Data:
    """Raises OSError where a file is missing."""
    pairs = ("routellm_mmlu_dev.csv", "routellm_gsm8k_dev.csv")
    fleets = ("fleet9_dev.jsonl", "fleet7_dev.jsonl", "routerbench_dev.jsonl")
    outcomes = {name: data_sets.read_pair(home / name) for name in pairs}
    outcomes |= {name: data_sets.read_fleet(home / name) for name in fleets}
    data = Data(
        data_sets.read_prompts(home / "tasks_dev.jsonl"),
        data_sets.read_prompts(data_sets.LANGUAGES),
        data_sets.read_clinc(home / "clinc150_dev.json"),
        outcomes,
        {name: data_sets.read_kinds(home / name) for name in outcomes},
    )
    return _thinned(data) if is_quick else data


def _thinned(data: Data) -> Data:
    learned, tested = data.clinc
    return Data(
        thin_prompts(data.tasks, 12),
        thin_prompts(data.languages, 1),
        (thin_prompts(learned, 6), thin_prompts(tested, 1)),
        {name: thin_outcomes(one, 120) for name, one in data.outcomes.items()},
        data.kinds,
    )


def _few(is_quick: bool) -> int | None:
    return 1 if is_quick else None


if __name__ == "__main__":
    sys.exit(main())
