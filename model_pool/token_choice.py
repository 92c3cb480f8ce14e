"""The next token of each row of a batch, by that row's own sampling."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from model_pool.engine import Sampling


@dataclass(frozen=True, slots=True)
class Chooser:
    """One job's sampling and the random numbers that belong to it alone.

    One number is drawn per token, so an answer does not depend on the rest of the batch.
    """

    sampling: Sampling
    numbers: random.Random

    @classmethod
    def of(cls, sampling: Sampling) -> Chooser:
        """A seed of None draws one."""
        return cls(sampling, random.Random(sampling.seed))

    @property
    def is_greedy(self) -> bool:
        return self.sampling.temperature == 0


def choose_tokens(logits: torch.Tensor, choosers: Sequence[Chooser]) -> list[int]:
    """One token id per row. logits: floating[row, vocabulary].

    Raises FloatingPointError when a row has no finite maximum: its weights compute nonsense.
    """
    highest, greedy = logits.max(dim=-1)
    if not bool(torch.isfinite(highest).all()):
        raise FloatingPointError("the logits are not finite")
    token_ids: list[int] = greedy.tolist()
    sampled = [row for row, chooser in enumerate(choosers) if not chooser.is_greedy]
    if sampled:
        drawn = _draw(logits[sampled], [choosers[row] for row in sampled])
        for row, token_id in zip(sampled, drawn, strict=True):
            token_ids[row] = token_id
    return token_ids


def log_probabilities(
    logits: torch.Tensor, token_ids: Sequence[int], wanted: Sequence[bool]
) -> list[float | None]:
    """The natural logarithm of what the model gave each row's token, at temperature 1.

    logits: floating[row, vocabulary]. None for a row of which it is not wanted: only the others
    cost a pass over the vocabulary.
    """
    found: list[float | None] = [None] * len(token_ids)
    rows = [row for row, is_wanted in enumerate(wanted) if is_wanted]
    if rows:
        picked = logits[rows].float()
        chosen = torch.tensor([[token_ids[row]] for row in rows], device=logits.device)
        values = picked.gather(-1, chosen)[:, 0] - picked.logsumexp(dim=-1)
        for row, value in zip(rows, values.tolist(), strict=True):
            found[row] = value
    return found


def _draw(logits: torch.Tensor, choosers: Sequence[Chooser]) -> list[int]:
    """Nucleus sampling (Holtzman et al. 2020, arXiv:1904.09751), by inverting the sum.

    Of equal probabilities the lower token id comes first. A row with top_p 1 is not sorted; as
    that depends on the row alone, its answer does not depend on its neighbours.
    """
    temperatures = [chooser.sampling.temperature for chooser in choosers]
    scale = torch.tensor(temperatures, dtype=torch.float32, device=logits.device)
    probabilities = torch.softmax(logits.float() / scale[:, None], dim=-1)
    drawn = [0] * len(choosers)
    for is_cut in (False, True):
        rows = [i for i, chooser in enumerate(choosers) if (chooser.sampling.top_p < 1) == is_cut]
        if rows:
            pick = _draw_nucleus if is_cut else _draw_any
            picked = pick(probabilities[rows], [choosers[row] for row in rows])
            for row, token_id in zip(rows, picked, strict=True):
                drawn[row] = token_id
    return drawn


def _draw_any(probabilities: torch.Tensor, choosers: Sequence[Chooser]) -> list[int]:
    cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
    picked: list[int] = _invert(cumulative, cumulative[:, -1:], choosers).tolist()
    return picked


def _draw_nucleus(probabilities: torch.Tensor, choosers: Sequence[Chooser]) -> list[int]:
    """Draw among the likeliest tokens whose sum reaches top_p: always at least one."""
    ordered, token_ids = probabilities.sort(dim=-1, descending=True, stable=True)
    cumulative = ordered.cumsum(dim=-1, dtype=torch.float64)
    top_p = torch.tensor(
        [[chooser.sampling.top_p] for chooser in choosers],
        dtype=torch.float64,
        device=cumulative.device,
    )
    last = torch.searchsorted(cumulative, top_p).clamp_(max=cumulative.shape[-1] - 1)
    positions = _invert(cumulative, cumulative.gather(-1, last), choosers)
    picked: list[int] = token_ids.gather(-1, positions[:, None])[:, 0].tolist()
    return picked


def _invert(
    cumulative: torch.Tensor, total: torch.Tensor, choosers: Sequence[Chooser]
) -> torch.Tensor:
    """First position whose sum exceeds a random part of the total: int64[row].

    cumulative: float64[row, token]. total: float64[row, 1], the part of it to draw from.
    """
    parts = torch.tensor(
        [[chooser.numbers.random()] for chooser in choosers],
        dtype=torch.float64,
        device=cumulative.device,
    )
    positions = torch.searchsorted(cumulative, parts * total, right=True)
    return positions[:, 0].clamp_(max=cumulative.shape[-1] - 1)
