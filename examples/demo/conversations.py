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
    passes = plan.SPECIALISTS[name].free, plan.SPECIALISTS[name].one_bit
    earlier = TASKS[name].generate(rng)
    for _ in range(sum(each.conversation_count for each in passes if each)):
        problem = TASKS[name].generate(rng)
        conversation = exchange(problem.prompt, problem.answer)
        if rng.random() < SECOND_TURN_SHARE:
            conversation = exchange(earlier.prompt, earlier.answer) + conversation
        if rng.random() < SYSTEM_SHARE:
            conversation = (Turn("system", rng.choice(SYSTEM_TEXTS)), *conversation)
        yield problem, conversation
        earlier = problem
