"""How fast a card answers: a roofline of its data sheet, not a measurement. Pure.

One step of continuous batching reads all weights once and each running request's keys and values,
and does the arithmetic of each token, so that it takes

    step_s + running * sequence_s + prefilled tokens / prefill_token_rate

as in `simulations/accelerator.py`, which checks it against published figures.
"""

from __future__ import annotations

from dataclasses import dataclass

from model_pool.capacity import BANDWIDTH_SHARE, Card, ModelShape

# Share of a card's peak arithmetic that is reached.
ARITHMETIC_SHARE = 0.5
# What the host adds to each step.
HOST_S = 1e-3
BATCH_LIMIT_COUNT = 256


@dataclass(frozen=True, slots=True)
class Request:
    """A request's size, in tokens."""

    prompt_token_count: int
    output_token_count: int

    @property
    def token_count(self) -> int:
        """At its end."""
        return self.prompt_token_count + self.output_token_count


@dataclass(frozen=True, slots=True)
class Speed:
    """One engine with one model on one card.

    step_s: of a step, whatever runs in it. cache_s_per_token: reading one token's keys and values.
    token_s: the arithmetic of one token. cache_token_count: keys and values that it has room for.
    """

    step_s: float
    cache_s_per_token: float
    token_s: float
    cache_token_count: int

    def batch_count(self, request: Request) -> int:
        """Such requests that run at once, at most."""
        return max(1, min(BATCH_LIMIT_COUNT, self.cache_token_count // request.token_count))

    def own_s(self, request: Request) -> float:
        """Seconds that a request adds to the steps that it is in."""
        mean_length = request.prompt_token_count + request.output_token_count / 2
        decode_s = self.token_s + mean_length * self.cache_s_per_token
        return request.prompt_token_count * self.token_s + request.output_token_count * decode_s

    def request_s(self, request: Request) -> float:
        """Seconds of the engine for each request where as many run as can: 1 / its capacity."""
        shared_s = request.output_token_count * self.step_s / self.batch_count(request)
        return shared_s + self.own_s(request)


def speed_of(card: Card, model: ModelShape, cache_token_count: int) -> Speed:
    """The model on the card, 2 FLOP for each parameter and token, parameters of 2 bytes."""
    bandwidth = BANDWIDTH_SHARE * card.memory_bytes_per_s
    return Speed(
        step_s=model.weights_bytes / bandwidth + HOST_S,
        cache_s_per_token=model.cache_bytes_per_token / bandwidth,
        token_s=model.weights_bytes / (ARITHMETIC_SHARE * card.flop_per_s),
        cache_token_count=cache_token_count,
    )
