"""What each codec keeps of each specialist, and in how many bytes.

    python -m benchmarks.deltas.quality [--family demo|large] [--only TASK ...] [--threads 1]

Figures are left in build/benchmarks/deltas/quality, one file a trial, and the smallest delta that
keeps enough beside them; a trial whose figures are there is skipped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from benchmarks.deltas.training import FAMILIES, ROOT, Family
from benchmarks.timing import say
from examples.demo import plan
from examples.demo.conversations import unseen_problems
from examples.demo.packing import examples_for_packing, pack_specialist
from merge_on_load import Delta, pack, unpack
from merge_on_load.calibration.examples import Example
from merge_on_load.calibration.judge import Examples, Judge
from merge_on_load.calibration.ladder import Rung
from merge_on_load.calibration.measuring import score
from merge_on_load.calibration.runner import Runner
from merge_on_load.codecs import CodecSettings, Coding

HOME = ROOT / "quality"
AUTO, PROBLEM_COUNT = "auto", 200
_USUAL = CodecSettings(group_size=256)
_CALIBRATION_COUNT = 256
TRIAL_STEPS = 200

Figures = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """label: as the table and the plot call it. kind: of codec, one colour each. embeddings: a
    coding, or the bits per weight of a thin product. is_distilled: for TRIAL_STEPS, fewer than what
    `auto` takes for hard tasks.
    """

    label: str
    kind: str
    matrices: Coding | float
    embeddings: Coding | float = 0.3
    is_distilled: bool = False


# Whom every codec is tried on; `auto` packs all.
TRIED = {("demo", "arithmetic"), ("demo", "triage")}


def _coding(text: str) -> Coding:
    return Coding.parse(text, _USUAL)


_INT4, _ONEBIT = _coding("int4"), _coding("onebit")
TRIALS = (
    Trial("int8", "int", _coding("int8"), _coding("int8")),
    Trial("int4", "int", _INT4, _INT4),
    Trial("int3", "int", _coding("int3"), _INT4),
    Trial("int2", "int", _coding("int2"), _INT4),
    Trial("onebit", "onebit", _ONEBIT),
    Trial("onebit, distilled (BitDelta)", "onebit", _ONEBIT, is_distilled=True),
    Trial("onebit, rows and columns", "onebit", _coding("onebit:scales=2")),
    Trial("top 1/16, one bit (ComPEFT)", "topk", _coding("topk:keep=16,bits=1")),
    Trial("top 1/16, 4 bits", "topk", _coding("topk:keep=16,bits=4")),
    Trial("seeded 1/16, 2 bits (DARE)", "sparse", _coding("sparse:keep=16")),
    Trial("seeded 1/32, 2 bits, distilled", "sparse", _coding("sparse:keep=32"), 0.1, True),
    Trial("ranks 8+3+2 bits (Delta-CoMe)", "lowrank", _coding("lowrank:rank8=2,rank3=20,rank2=40")),
    Trial("low rank and one bit", "lowrank", _coding("lowrank:rank3=16,residual=1")),
    Trial("low rank, 0.9 bits", "lowrank", 0.9, 0.6),
    Trial("low rank, 0.3 bits", "lowrank", 0.3, 0.2),
)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.deltas.quality", description=__doc__
    )
    parser.add_argument("--family", choices=FAMILIES, action="append")
    parser.add_argument("--only", action="append", help="a task")
    parser.add_argument("--trials-only", action="store_true", help="leave auto out")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    disable_progress_bar()
    for name in chosen.family or FAMILIES:
        for task in chosen.only or FAMILIES[name].tasks:
            measure(FAMILIES[name], task, with_auto=not chosen.trials_only)
    return 0


def measure(family: Family, task: str, *, with_auto: bool = True) -> Figures:
    """label -> figures of one specialist, which has been trained."""
    found: Figures = {}
    trials = TRIALS if (family.name, task) in TRIED else ()
    for trial in (*((AUTO,) if with_auto else ()), *trials):
        label = trial if isinstance(trial, str) else trial.label
        file = _results_file(family, task, label)
        if not file.exists():
            began_s = time.monotonic()
            one = _auto(family, task) if isinstance(trial, str) else _tried(family, task, trial)
            one |= {"seconds": time.monotonic() - began_s}
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(one, indent=1), encoding="utf-8")
        found[label] = one = json.loads(file.read_text(encoding="utf-8"))
        kept = one["score"] / one["tuned_score"]
        times = one["full_size_bytes"] / one["size_bytes"]
        say(f"{family.name}/{task}: {label}: {times:.1f} times smaller, {kept:.3f} kept")
    return found


def _results_file(family: Family, task: str, label: str) -> Path:
    """Where `measure` leaves what it found, each in a file of its own: several may run at once."""
    slug = "-".join("".join(c if c.isalnum() else " " for c in label).split())
    return HOME / family.name / task / f"{slug}.json"


def delta_dir(family: Family, task: str) -> Path:
    """Where the delta that `auto` chose is left."""
    return HOME / family.name / f"{task}.delta"


def _tried(family: Family, task: str, trial: Trial) -> Figures:
    steps = TRIAL_STEPS if trial.is_distilled else 0
    given = examples_for_packing(task, max(steps, _CALIBRATION_COUNT // 32))
    examples = Examples(
        calibration=given.calibration,
        evaluation=_evaluation(task)[:PROBLEM_COUNT],
        distilling=given.distilling if steps else None,
    )
    model, out = family.directory(task), HOME / family.name / f"{task}.trial"
    delta = pack(
        family.base_dir,
        model,
        AUTO,
        out,
        layout=Rung(trial.matrices, trial.embeddings),
        judge=Judge(model, examples),
        overwrite=True,
    )
    return _told(delta, delta.measured["quality"])


def _auto(family: Family, task: str) -> Figures:
    """The score is that of problems which did not choose the codec."""
    model, out = family.directory(task), delta_dir(family, task)
    out.parent.mkdir(parents=True, exist_ok=True)
    specialist = family.tasks[task]
    delta = pack_specialist(task, specialist, family.base_dir, model, out)
    rebuilt = out.with_suffix(".rebuilt")
    unpack(family.base_dir, out, rebuilt, overwrite=True)
    problems = _evaluation(task)
    tuned, kept = (score(Runner(path), problems) for path in (model, rebuilt))
    return _told(delta, delta.measured["quality"] | {"tuned_score": tuned, "score": kept})


def _told(delta: Delta, quality: Figures) -> Figures:
    measured = delta.measured
    parts = {
        str(Coding(entry.codec, entry.settings)): 0 for entry in delta.manifest.tensors.values()
    }
    return {
        "size_bytes": sum(file.stat().st_size for file in delta.path.rglob("*") if file.is_file()),
        "full_size_bytes": measured["full_size_bytes"],
        "parameter_count": measured["parameter_count"],
        "relative_error": measured["relative_error"],
        "codings": list(parts),
        **quality,
    }


def _evaluation(task: str) -> list[Example]:
    problems, _ = unseen_problems(task, plan.EVALUATION_PROBLEM_COUNT, plan.EVALUATION_SEED)
    return [Example(one.prompt, one.answer) for one in problems]


if __name__ == "__main__":
    sys.exit(main())
