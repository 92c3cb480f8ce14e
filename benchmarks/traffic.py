"""Requests as they arrive: Poisson in time, Zipf over the specialists, real prompts of the demo."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import AutoTokenizer

from benchmarks.models import Models, task_of
from examples.demo.tasks import TASKS

SKEW = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """arrival_s: since the beginning. token_count: as long as the right answer is."""

    arrival_s: float
    model: str
    prompt: str
    token_count: int


class Traffic:
    """Draws requests. The same seed gives the same ones, for one model or for many."""

    def __init__(self, models: Models) -> None:
        self._names = sorted(models.deltas)
        random.Random(20).shuffle(self._names)  # popular ones of all tasks
        self._tokenizer = AutoTokenizer.from_pretrained(models.base, local_files_only=True)

    @property
    def names(self) -> list[str]:
        """The specialists, the most popular first."""
        return list(self._names)

    def requests(self, seed: int, rate: float = math.inf) -> Iterator[Request]:
        """Without end. rate: per second; the default gives all at once."""
        rng, arrival_s = random.Random(seed), 0.0
        weights = [1 / rank**SKEW for rank in range(1, len(self._names) + 1)]
        while True:
            arrival_s += rng.expovariate(rate) if rate < math.inf else 0.0
            model = rng.choices(self._names, weights)[0]
            problem = TASKS[task_of(model)].generate(rng)
            answer = self._tokenizer.encode(problem.answer, add_special_tokens=False)
            yield Request(arrival_s, model, problem.prompt, len(answer) + 1)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed; nan without any."""
    if not values:
        return math.nan
    return sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)]
