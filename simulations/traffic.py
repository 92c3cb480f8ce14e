"""Seeded open-loop traffic: who asks for which model, when, and how much."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from model_pool.switching import Priority


@dataclass(frozen=True, slots=True)
class Mix:
    """Lengths in tokens: log-normal with these means and sigma, clipped to 1..limit_count."""

    name: str
    prompt_mean: float
    output_mean: float
    prompt_limit_count: int = 4096
    output_limit_count: int = 1024
    sigma: float = 0.8


TASKS = Mix("tasks", prompt_mean=512, output_mean=200)
# The means that vLLM's paper gives for ShareGPT (arXiv:2309.06180): most of the work is decoding.
CHAT = Mix("chat", prompt_mean=161, output_mean=338)
TOY_MIX = Mix("toy", prompt_mean=60, output_mean=40, prompt_limit_count=400, output_limit_count=150)


@dataclass(slots=True, eq=False)
class Request:
    """One request and what became of it. Seconds since the start; nan: not yet."""

    model: str
    arrival_s: float
    prompt_count: int
    output_count: int
    priority: Priority
    waiting_since_s: float
    done_count: int = 0  # answer tokens so far
    admitted_s: float = math.nan  # when the engine first had it
    first_token_s: float = math.nan
    finished_s: float = math.nan

    @property
    def token_count(self) -> int:
        """Prompt and answer so far."""
        return self.prompt_count + self.done_count


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests per second in all, their spread over models, and their burstiness.

    skew: exponent of the Zipf distribution over models, 0 is uniform. burst: arrival rate of a
    model in its busy phase over that in its calm phase (Markov-modulated Poisson, each phase
    phase_s long on average, the mean rate unchanged); 1 is Poisson. shares: of priorities.
    """

    model_count: int
    request_rate: float
    duration_s: float
    mix: Mix
    skew: float = 1.0
    burst: float = 1.0
    phase_s: float = 20.0
    shares: tuple[float, float, float] = (0.0, 1.0, 0.0)
    seed: int = 1

    def requests(self) -> list[Request]:
        """All requests by arrival."""
        draw = random.Random(self.seed)
        masses = [(rank + 1) ** -self.skew for rank in range(self.model_count)]
        found = [
            self._request(draw, f"s{rank:02}", arrival_s)
            for rank, mass in enumerate(masses)
            for arrival_s in self._arrivals(draw, self.request_rate * mass / sum(masses))
        ]
        return sorted(found, key=lambda one: (one.arrival_s, one.model))

    def _arrivals(self, draw: random.Random, rate: float) -> Iterator[float]:
        """Phases alternate; arrivals within each are Poisson."""
        calm_rate = 2 * rate / (1 + self.burst)
        start_s, is_busy = 0.0, draw.random() < 0.5
        while start_s < self.duration_s:
            end_s = start_s + draw.expovariate(1 / self.phase_s)
            at_s = start_s + draw.expovariate(calm_rate * (self.burst if is_busy else 1))
            while at_s < min(end_s, self.duration_s):
                yield at_s
                at_s += draw.expovariate(calm_rate * (self.burst if is_busy else 1))
            start_s, is_busy = end_s, not is_busy

    def _request(self, draw: random.Random, model: str, arrival_s: float) -> Request:
        mix = self.mix
        return Request(
            model=model,
            arrival_s=arrival_s,
            prompt_count=_length(draw, mix.prompt_mean, mix.prompt_limit_count, mix.sigma),
            output_count=_length(draw, mix.output_mean, mix.output_limit_count, mix.sigma),
            priority=draw.choices(list(Priority), self.shares)[0],
            waiting_since_s=arrival_s,
        )


def _length(draw: random.Random, mean: float, limit_count: int, sigma: float) -> int:
    location = math.log(mean) - sigma**2 / 2
    return max(1, min(limit_count, round(draw.lognormvariate(location, sigma))))
