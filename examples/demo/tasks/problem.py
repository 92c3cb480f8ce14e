"""A problem of a task, what a task offers, and the two ways to mark an answer."""

import json
import random
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Problem:
    """One prompt as a caller would type it, and the one answer that counts as right."""

    prompt: str
    answer: str


class Task(Protocol):
    """What every module in this folder offers."""

    NAME: str
    DESCRIPTION: str

    def generate(self, rng: random.Random) -> Problem:
        """Draw one problem; the same state of `rng` gives the same problem."""

    def is_right(self, problem: Problem, output: str) -> bool:
        """Whether a model's output solves the problem."""


def same_text(problem: Problem, output: str) -> bool:
    """Equal after stripping whitespace at both ends."""
    return output.strip() == problem.answer.strip()


def same_json(problem: Problem, output: str) -> bool:
    """Equal as parsed JSON: the order of keys and the spacing do not matter."""
    try:
        parsed: object = json.loads(output)
    except ValueError:
        return False
    expected: object = json.loads(problem.answer)
    return parsed == expected
