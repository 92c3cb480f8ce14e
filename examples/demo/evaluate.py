"""Measure the shipped fleet and write REPORT.md: `python -m examples.demo.evaluate`.

Every specialist is rebuilt from base and delta first, so the numbers are those of what is shipped.
"""

import argparse
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from examples.demo import plan
from examples.demo.answering import answers
from examples.demo.checkpoints import load_model, load_tokenizer
from examples.demo.conversations import training_conversations
from examples.demo.report import Result, table, write_report
from examples.demo.tasks import TASKS, Problem
from merge_on_load import unpack


def main() -> None:
    """Evaluate the tasks that the command line asks for; only a full run writes the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=tuple(plan.SPECIALISTS), action="append")
    parser.add_argument("--thread-count", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.thread_count)
    disable_progress_bar()
    base, tokenizer = load_model(plan.BASE_DIR), load_tokenizer(plan.BASE_DIR)
    results = [
        evaluate(name, base, tokenizer)
        for name in tqdm(arguments.only or plan.SPECIALISTS, unit="task", disable=None)
    ]
    print(table(results))
    if not arguments.only:
        write_report(results)


def evaluate(name: str, base: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Result:
    """Measure base and rebuilt specialist on the same unseen problems."""
    problems, overlap = unseen_problems(name, plan.EVALUATION_PROBLEM_COUNT)
    specialist = _rebuild(name)
    return Result(
        name=name,
        codec=plan.SPECIALISTS[name].codec,
        delta_size_bytes=_size_bytes(plan.delta_dir(name)),
        full_size_bytes=(plan.BASE_DIR / "model.safetensors").stat().st_size,
        base_accuracy=_accuracy(name, base, tokenizer, problems),
        specialist_accuracy=_accuracy(name, specialist, tokenizer, problems),
        problem_count=len(problems),
        overlap=overlap,
    )


def unseen_problems(name: str, count: int) -> tuple[list[Problem], float]:
    """`count` different problems whose prompts no specialist training saw.

    Also returns the overlap: the share of all draws that had to be thrown away for that.
    """
    trained_on = {problem.prompt for problem, _ in training_conversations(name)}
    rng = random.Random(f"{plan.EVALUATION_SEED} {name}")
    problems: dict[str, Problem] = {}
    draw_count = seen_count = 0
    while len(problems) < count:
        problem = TASKS[name].generate(rng)
        draw_count += 1
        if problem.prompt in trained_on:
            seen_count += 1
        else:
            problems[problem.prompt] = problem
    return list(problems.values()), seen_count / draw_count


def _rebuild(name: str) -> LlamaForCausalLM:
    with tempfile.TemporaryDirectory() as folder:
        rebuilt = Path(folder) / name
        unpack(plan.BASE_DIR, plan.delta_dir(name), rebuilt)
        return load_model(rebuilt)


def _accuracy(
    name: str,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[Problem],
) -> float:
    outputs = answers(model, tokenizer, [problem.prompt for problem in problems])
    is_right = TASKS[name].is_right
    return sum(map(is_right, problems, outputs)) / len(problems)


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
