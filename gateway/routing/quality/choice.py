"""Which of several models answers: the cheapest that is good enough. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Option:
    """A model that may answer one prompt.

    quality: the estimated probability of a good answer, 0 to 1. cost_nano_usd: what it will
    probably cost.
    """

    model: str
    quality: float
    cost_nano_usd: int


def choose(
    options: Iterable[Option], *, min_quality: float, max_cost_nano_usd: int | None
) -> Option | None:
    """The cheapest option with the quality asked; where none has it, the best. None: none is as
    cheap as asked.

    Asking for more quality never gives less, nor does allowing a higher cost: what is chosen for a
    lower quality is chosen for a higher one, too, unless it has less than that; and a higher cost
    only adds options, of which one below the quality gives way only to a better one.
    """
    affordable = [
        one
        for one in options
        if max_cost_nano_usd is None or one.cost_nano_usd <= max_cost_nano_usd
    ]
    if not affordable:
        return None
    able = [one for one in affordable if one.quality >= min_quality]
    if able:
        return min(able, key=lambda one: (one.cost_nano_usd, -one.quality, one.model))
    return min(affordable, key=lambda one: (-one.quality, one.cost_nano_usd, one.model))
