"""Measure the shipped fleet and write REPORT.md: `python -m examples.demo.evaluate`.

Every specialist is rebuilt from base and delta first, so the numbers are those of what is shipped.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from examples.demo import plan
from examples.demo.answering import answers
from examples.demo.checkpoints import load_model, load_tokenizer
from examples.demo.conversations import unseen_problems
from examples.demo.report import Result, table, write_report
from examples.demo.tasks import TASKS, Problem
from merge_on_load import Delta, unpack
from merge_on_load.codecs import Coding
from merge_on_load.codecs.layout import is_embedding


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
    problems, overlap = unseen_problems(name, plan.EVALUATION_PROBLEM_COUNT, plan.EVALUATION_SEED)
    specialist = _rebuild(name)
    return Result(
        name=name,
        codec=_codec(name),
        delta_size_bytes=_size_bytes(plan.delta_dir(name)),
        full_size_bytes=(plan.BASE_DIR / "model.safetensors").stat().st_size,
        base_accuracy=_accuracy(name, base, tokenizer, problems),
        specialist_accuracy=_accuracy(name, specialist, tokenizer, problems),
        problem_count=len(problems),
        overlap=overlap,
    )


def _codec(name: str) -> str:
    """What stores the most weights, and what the embeddings."""
    tensors = Delta.open(plan.delta_dir(name)).manifest.tensors
    weights: Counter[tuple[bool, str]] = Counter()
    for tensor, entry in tensors.items():
        coding = str(Coding(entry.codec, entry.settings))
        weights[is_embedding(tensor), coding] += entry.spec.size_bytes
    ranked = weights.most_common()
    matrices, embeddings = (
        next(coding for (is_other, coding), _ in ranked if is_other == of_embeddings)
        for of_embeddings in (False, True)
    )
    return f"{matrices}; embeddings {embeddings}"


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
