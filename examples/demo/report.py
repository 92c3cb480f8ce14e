"""REPORT.md: what the evaluation measured, and how to measure it again."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from examples.demo import plan

REPORT_FILE = plan.DEMO_DIR / "REPORT.md"
DURATIONS_FILE = plan.DEMO_DIR / "training_seconds.json"

TEXT = """\
# The demo fleet, measured

These models are small and synthetic: a Llama of 3 million parameters and seven fine-tunes of it,
trained on generated sentences within minutes on a CPU. They exist to show the machinery of
routing, deltas and merging, and they solve nothing outside the sentence patterns of their tasks.

{table}

- **base**, **specialist**: exact match on the same problems; greedy decoding, float32 arithmetic
  on the bfloat16 weights. The specialist is rebuilt from base and delta before it is measured.
- **codec**: of the matrices, and of the embeddings; each delta is the smallest of the ladder of
  codecs that keeps enough (`packing.py`).
- **delta**: all files of `NAME.delta/`; **ratio**: the full bfloat16 checkpoint over the delta.
- **overlap**: the share of freshly drawn problems whose prompt was in the specialist's training.
  Those were thrown away, so no measured prompt was seen by the specialist; where the overlap is
  large, the measured prompts are still close neighbours of trained ones. The operands of
  `arithmetic`, and the words and sentence patterns of every task, do occur in training.
- The base read prompts of all tasks, but with answers to *other* prompts: it knows the formats,
  not the solutions. So it guesses among six queues and three moods. Its own training draws were
  not removed from the measured problems. It read bare equations (`37 + 45 = 82`), never the steps
  that `arithmetic` writes, so its zero there says nothing about its sums.

Problems are drawn with seed {evaluation_seed}; the specialists were trained with seed
{training_seed}, the base with seed {base_seed}, the tokenizer with seed {tokenizer_seed}
(`plan.py`).

| stage | training, seconds |
|---|---:|
{durations}

That is the wall clock of the stages that made the shipped files, packing included,
{total_minutes:.0f} minutes in sum: one thread each, several at a time, on two CPU cores that other
work shared.
The commands, from the root of the repository:

```
python -m examples.demo.train
python -m examples.demo.evaluate
```
"""


@dataclass(frozen=True)
class Result:
    """What the evaluation found for one task; accuracies and overlap lie between 0 and 1."""

    name: str
    codec: str
    delta_size_bytes: int
    full_size_bytes: int
    base_accuracy: float
    specialist_accuracy: float
    problem_count: int
    overlap: float


def table(results: Sequence[Result]) -> str:
    """The results as a Markdown table."""
    return "\n".join(
        (
            "| task | codec | delta, KiB | ratio | base | specialist | problems | overlap |",
            "|---|---|---:|---:|---:|---:|---:|---:|",
            *map(_row, results),
        )
    )


def _row(result: Result) -> str:
    return (
        f"| {result.name} | {result.codec} | {result.delta_size_bytes / 1024:.0f} "
        f"| {result.full_size_bytes / result.delta_size_bytes:.1f} "
        f"| {result.base_accuracy:.3f} | {result.specialist_accuracy:.3f} "
        f"| {result.problem_count} | {result.overlap:.1%} |"
    )


def write_report(results: Sequence[Result]) -> None:
    """Write REPORT.md from the results and the noted training durations."""
    durations_s: dict[str, int] = json.loads(DURATIONS_FILE.read_text())
    text = TEXT.format(
        table=table(results),
        evaluation_seed=plan.EVALUATION_SEED,
        training_seed=plan.TRAINING_SEED,
        base_seed=plan.BASE_SEED,
        tokenizer_seed=plan.TOKENIZER_SEED,
        durations="\n".join(f"| {stage} | {spent_s} |" for stage, spent_s in durations_s.items()),
        total_minutes=sum(durations_s.values()) / 60,
    )
    REPORT_FILE.write_text(text, "utf-8")
