"""make bench-merge: merge models of 1.1 billion parameters with mergekit and with us, in turns.

Whole commands, their imports included, on the same files; writes merge_on_load/BENCHMARK.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from benchmarks import merge_models, report_merge
from benchmarks.commands import Run, run
from benchmarks.machine import facts
from benchmarks.merge_recipes import RECIPES
from benchmarks.models import ROOT
from benchmarks.timing import say

HOME = ROOT / "merge"
FIGURES = ROOT / "merge.json"
ENGINE_FIGURES = ROOT / "merge-engine.json"
OURS = Path(".venv/bin/deltafleet")
THEIRS = Path(".venv-mergekit/bin/mergekit-yaml")
# Of those that make it faster: no card, no copies of what is not merged.
THEIR_FLAGS = ("--lazy-unpickle", "--no-write-model-card", "--no-copy-tokenizer", "--quiet")


def main() -> int:
    """Measure the methods that were asked for and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.merge", description=__doc__)
    parser.add_argument("--method", choices=RECIPES, action="append", help="default: all of them")
    parser.add_argument("--repeat", type=int, default=3, help="of our command; theirs runs once")
    parser.add_argument("--large", action="store_true", help="7 billion parameters in 2 GiB, too")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    chosen = parser.parse_args()
    if not chosen.report:
        measure(chosen.method or list(RECIPES), chosen.repeat, with_large=chosen.large)
    engine = json.loads(ENGINE_FIGURES.read_text()) if ENGINE_FIGURES.is_file() else None
    report_merge.REPORT.write_text(report_merge.render(json.loads(FIGURES.read_text()), engine))
    say(str(report_merge.REPORT))
    return 0


def measure(methods: list[str], repeat: int, *, with_large: bool) -> None:
    """Add these methods' figures to what there is."""
    HOME.mkdir(parents=True, exist_ok=True)
    models = merge_models.make(HOME, merge_models.TINY_LLAMA)
    merge_models.read_once(models)
    found = json.loads(FIGURES.read_text()) if FIGURES.is_file() else {"methods": {}}
    found["machine"] = facts(("numba", "numpy", "safetensors"))
    found["parameter_count"] = merge_models.parameter_count(merge_models.TINY_LLAMA)
    found["copy_s"] = _copy(models[0])
    for method in methods:
        found["methods"][method] = _method(method, repeat)
        FIGURES.write_text(json.dumps(found, indent=1))
    if with_large:
        found["large"] = _large()
        FIGURES.write_text(json.dumps(found, indent=1))


def _method(method: str, repeat: int) -> dict[str, Any]:
    recipe = HOME / f"{method}.yaml"
    recipe.write_text(yaml.safe_dump(RECIPES[method].document))
    ours: list[Run] = []
    theirs: list[Run] = []
    for which in _turns(repeat):
        out = HOME / "out"
        shutil.rmtree(out, ignore_errors=True)
        if which == "ours":
            ours.append(run([OURS, "merge", recipe, out], cwd=HOME))
        else:
            theirs.append(run([THEIRS, recipe, out, *THEIR_FLAGS], cwd=HOME))
        last = (ours if which == "ours" else theirs)[-1]
        say(f"{method}, {which}: {last.seconds:.1f} s, {last.anonymous_bytes / 2**20:.0f} MiB")
    shutil.rmtree(HOME / "out", ignore_errors=True)
    return {"ours": [asdict(one) for one in ours], "theirs": [asdict(one) for one in theirs]}


def _turns(repeat: int) -> Iterator[str]:
    """Theirs in the middle of ours."""
    for i in range(repeat):
        yield "ours"
        if i == 0:
            yield "theirs"


def _copy(model: Path) -> float:
    """Seconds to copy one model's file: what only writing the output takes."""
    began = time.perf_counter()
    shutil.copyfile(model / "model.safetensors", HOME / "copy")
    seconds = time.perf_counter() - began
    (HOME / "copy").unlink()
    return seconds


def _large() -> dict[str, Any]:
    """Three inputs of a 7B's size, under a hard limit of memory, page cache included."""
    home = ROOT / "merge-large"
    home.mkdir(parents=True, exist_ok=True)
    merge_models.make(home, merge_models.LLAMA_7B)
    found = {}
    for method in ("linear", "ties"):
        recipe = home / f"{method}.yaml"
        recipe.write_text(yaml.safe_dump(RECIPES[method].document))
        shutil.rmtree(home / "out", ignore_errors=True)
        done = run([OURS, "merge", recipe, home / "out"], cwd=home, limit_bytes=2 << 30)
        say(f"7B, {method}: {done.seconds:.0f} s, {done.anonymous_bytes / 2**20:.0f} MiB")
        found[method] = asdict(done)
    shutil.rmtree(home)
    return {"parameter_count": merge_models.parameter_count(merge_models.LLAMA_7B), **found}


if __name__ == "__main__":
    sys.exit(main())
