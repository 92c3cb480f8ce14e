"""How near a rebuilt model's answers are to the tuned one's."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from merge_on_load.calibration.examples import Batch, Example
from merge_on_load.calibration.runner import Runner


@dataclass(frozen=True)
class Distance:
    """divergence: of the rebuilt model's next-token distributions from the tuned one's
    (Kullback-Leibler), nats, mean over the answers' tokens. agreement: share of these where both
    have the same likeliest token.
    """

    divergence: float
    agreement: float


@torch.inference_mode()
def distance(tuned: Runner, rebuilt: Runner, batches: Sequence[Batch]) -> Distance:
    """See `Distance`."""
    total, same, count = 0.0, 0, 0
    for batch in batches:
        expected = tuned.log_probabilities(batch)
        found = rebuilt.log_probabilities(batch)
        total += float(divergences(expected, found).double().sum())
        same += int((expected.argmax(dim=-1) == found.argmax(dim=-1)).sum())
        count += len(expected)
    return Distance(total / max(1, count), same / max(1, count))


def divergences(expected: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler, nats, of each row. Both log probabilities [places, vocabulary]."""
    return (expected.exp() * (expected - found)).sum(dim=-1)


def score(runner: Runner, examples: Sequence[Example]) -> float:
    """The share of prompts whose greedy answer is the wanted one, but for space around it."""
    answers = runner.answers([one.prompt for one in examples])
    right = (
        one.answer is not None and one.answer.strip() == answer.strip()
        for one, answer in zip(examples, answers, strict=True)
    )
    return sum(right) / len(examples)
