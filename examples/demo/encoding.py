"""From conversations to tokens, and from tokens to padded batches of similar length."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from examples.demo.conversations import Conversation, Turn
from examples.demo.tokenizer import END, ROLES

BATCHES_SORTED_TOGETHER = 50


@dataclass(frozen=True)
class Sample:
    """Token ids of one conversation; `is_target[i]` tells whether training learns token i."""

    ids: list[int]
    is_target: list[bool]


@dataclass(frozen=True)
class Batch:
    """ids: int64[batch, length], padded on the right. is_target: bool[batch, length]."""

    ids: torch.Tensor
    is_target: torch.Tensor


def encode(
    tokenizer: PreTrainedTokenizerFast,
    conversations: Sequence[Conversation],
    *,
    only_answers: bool,
) -> list[Sample]:
    """Encode as the chat template would; `only_answers` leaves the rest out of the targets."""
    turns = [turn for conversation in conversations for turn in conversation]
    encoded = iter(tokenizer([_text(turn) for turn in turns])["input_ids"])
    samples = []
    for conversation in conversations:
        sample = Sample([], [])
        for turn in conversation:
            ids = next(encoded)
            is_target = not only_answers or turn.role == "assistant"
            sample.ids.extend(ids)
            # The role token is given, never predicted.
            sample.is_target.extend([turn.role == "document" and is_target])
            sample.is_target.extend([is_target] * (len(ids) - 1))
        samples.append(sample)
    return samples


def _text(turn: Turn) -> str:
    return f"{ROLES.get(turn.role, '')}{turn.text}{END}"


def batches(samples: Sequence[Sample], batch_size: int, rng: random.Random) -> Iterator[Batch]:
    """Every sample once, in random order, but neighbours in length share a batch."""
    order = rng.sample(range(len(samples)), len(samples))
    window = batch_size * BATCHES_SORTED_TOGETHER
    for start in range(0, len(order), window):
        near = sorted(order[start : start + window], key=lambda place: len(samples[place].ids))
        groups = [near[first : first + batch_size] for first in range(0, len(near), batch_size)]
        rng.shuffle(groups)
        yield from (_pad([samples[place] for place in group]) for group in groups)


def _pad(samples: Sequence[Sample]) -> Batch:
    shape = len(samples), max(len(sample.ids) for sample in samples)
    ids = torch.zeros(shape, dtype=torch.int64)
    is_target = torch.zeros(shape, dtype=torch.bool)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
        is_target[row, : len(sample.ids)] = torch.tensor(sample.is_target)
    return Batch(ids, is_target)
