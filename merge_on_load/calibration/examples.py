"""Prompts, with the answers that are wanted, and as tokens."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from merge_on_load.errors import BadExamples

_BATCHES_SORTED_TOGETHER = 50
_LARGEST_SEQUENCE = 2048  # tokens of an example that are looked at


@dataclass(frozen=True)
class Example:
    """One turn. answer: None where the tuned model is to write it."""

    prompt: str
    answer: str | None = None


@dataclass(frozen=True)
class Batch:
    """ids: int64[batch, length], padded on the right. is_answer: bool[batch, length]."""

    ids: torch.Tensor
    is_answer: torch.Tensor


def read_examples(file: Path) -> list[Example]:
    """A JSON object a line: {"prompt": ..., "answer": ...}, the answer being optional.

    Raises BadExamples, which names the line.
    """
    examples = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
            prompt, answer = told["prompt"], told.get("answer")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadExamples(f"line {number}: {error!r}", file=file) from error
        if not isinstance(prompt, str) or not prompt or not isinstance(answer, str | None):
            raise BadExamples(f"line {number}: prompt and answer must be texts", file=file)
        examples.append(Example(prompt, answer))
    if not examples:
        raise BadExamples("no examples", file=file)
    return examples


class Samples:
    """Examples as tokens: the chat template's where the tokenizer has one, else prompt, answer and
    the end of sequence.
    """

    def __init__(self, tokenizer: Any, examples: Sequence[Example]) -> None:
        """examples: all with their answers. tokenizer: transformers'."""
        self._tokenizer = tokenizer
        self._samples = [self._encode(one) for one in examples]

    def batches(self, size: int, seed: int) -> Iterator[Batch]:
        """Every sample once, in an order of the seed's, neighbours in length in one batch."""
        rng = random.Random(seed)
        order = rng.sample(range(len(self._samples)), len(self._samples))
        window = size * _BATCHES_SORTED_TOGETHER
        for start in range(0, len(order), window):
            near = sorted(
                order[start : start + window], key=lambda place: len(self._samples[place][0])
            )
            groups = [near[first : first + size] for first in range(0, len(near), size)]
            rng.shuffle(groups)
            yield from (_padded([self._samples[place] for place in group]) for group in groups)

    def _encode(self, example: Example) -> tuple[list[int], int]:
        """Tokens, and how many of them are the prompt's."""
        assert example.answer is not None, "the answer is known by now"
        if getattr(self._tokenizer, "chat_template", None):
            asked = [{"role": "user", "content": example.prompt}]
            told = [*asked, {"role": "assistant", "content": example.answer}]
            prompt = self._template(asked, add_generation_prompt=True)
            whole = self._template(told)
        else:
            prompt = self._tokenizer(example.prompt)["input_ids"]
            rest = self._tokenizer(example.answer, add_special_tokens=False)["input_ids"]
            end = self._tokenizer.eos_token_id
            whole = prompt + rest + ([] if end is None else [end])
        return whole[:_LARGEST_SEQUENCE], len(prompt)

    def _template(self, messages: list[dict[str, str]], **options: Any) -> list[int]:
        ids: list[int] = self._tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, **options
        )["input_ids"]
        return ids


def _padded(samples: Sequence[tuple[list[int], int]]) -> Batch:
    shape = len(samples), max(len(ids) for ids, _ in samples)
    ids = torch.zeros(shape, dtype=torch.int64)
    is_answer = torch.zeros(shape, dtype=torch.bool)
    for row, (tokens, prompt_count) in enumerate(samples):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        is_answer[row, prompt_count : len(tokens)] = True
    return Batch(ids, is_answer)
