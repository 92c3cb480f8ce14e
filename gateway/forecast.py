"""What an answer will probably cost, from what answers did cost."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.pricing import TokenPrice

# One new answer moves a model's mean by this share of the difference.
SMOOTHING = 0.1
# Tokens of an answer where the caller set no limit: about a short paragraph.
USUAL_OUTPUT_TOKEN_COUNT = 128


class CostForecast:
    """Expected nano-dollars per answer.

    Our own models: an exponentially weighted mean of what their answers cost, the whole fleet's
    mean before a model's first, 0 before any. Closed APIs: their list price for the prompt and the
    longest answer.
    """

    def __init__(self, closed: Mapping[str, TokenPrice]) -> None:
        self._closed = closed
        self._means: dict[str, float] = {}

    def learn(self, model: str, cost_nano_usd: int) -> None:
        """Take one finished answer into account."""
        mean = self._means.get(model, float(cost_nano_usd))
        self._means[model] = mean + SMOOTHING * (cost_nano_usd - mean)

    def expected_nano_usd(
        self, model: str, prompt_character_count: int, max_output_token_count: int
    ) -> int:
        """What the answer will probably cost. max_output_token_count: 0 where not limited."""
        price = self._closed.get(model)
        if price is not None:
            longest = max_output_token_count or USUAL_OUTPUT_TOKEN_COUNT
            return price.cost_nano_usd(price.token_count(prompt_character_count), longest)
        if not self._means:
            return 0
        everyone = sum(self._means.values()) / len(self._means)
        return round(self._means.get(model, everyone))
