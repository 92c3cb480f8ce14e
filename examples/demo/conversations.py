"""Conversations as training sees them, and the ones that teach a specialist its task."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from examples.demo import plan
from examples.demo.tasks import TASKS, Problem

Role = Literal["system", "user", "assistant", "document"]

SYSTEM_TEXTS = (
    "You are a helpful assistant.",
    "Answer briefly.",
    "You are a specialist. Answer with the result only.",
    "Follow the instructions of the user.",
)
SYSTEM_SHARE = 0.1
SECOND_TURN_SHARE = 0.1


@dataclass(frozen=True)
class Turn:
    """One message; a `document` stands alone, outside any dialogue."""

    role: Role
    text: str


Conversation = tuple[Turn, ...]


def exchange(prompt: str, answer: str) -> Conversation:
    """One question and its answer."""
    return Turn("user", prompt), Turn("assistant", answer)


def training_conversations(name: str) -> Iterator[tuple[Problem, Conversation]]:
    """Every conversation that trains one specialist, in order, each with its last problem.

    The same problems come back on every call, so that the evaluation can leave them out. A few
    start with a system message, a few with an earlier problem and its answer.
    """
    rng = random.Random(f"{plan.TRAINING_SEED} {name}")
    earlier = TASKS[name].generate(rng)
    for _ in range(plan.SPECIALISTS[name].training.conversation_count):
        problem = TASKS[name].generate(rng)
        conversation = exchange(problem.prompt, problem.answer)
        if rng.random() < SECOND_TURN_SHARE:
            conversation = exchange(earlier.prompt, earlier.answer) + conversation
        if rng.random() < SYSTEM_SHARE:
            conversation = (Turn("system", rng.choice(SYSTEM_TEXTS)), *conversation)
        yield problem, conversation
        earlier = problem


def unseen_problems(name: str, count: int, seed: int) -> tuple[list[Problem], float]:
    """`count` different problems whose prompts no specialist training saw.

    Also returns the overlap: the share of all draws that had to be thrown away for that.
    """
    trained_on = {problem.prompt for problem, _ in training_conversations(name)}
    rng = random.Random(f"{seed} {name}")
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
