"""What an answer will probably be worth and cost, from what answers were and did."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from gateway.classifier import Classification
from gateway.pricing import NANO, TextSize, TokenPrice
from gateway.router import Expectations, Target
from gateway.routing.feedback import Feedback
from gateway.routing.quality.model import QualityModel
from gateway.routing.words import Floats

log = logging.getLogger(__name__)

# One new answer moves a model's mean by this share of the difference.
SMOOTHING = 0.1
# Tokens of an answer where the caller set no limit: about a short paragraph.
USUAL_OUTPUT_TOKEN_COUNT = 128


class CostForecast:
    """Expected nano-dollars per answer.

    Our own models: an exponentially weighted mean of what their answers cost, the whole fleet's
    mean before a model's first, 0 before any. Closed APIs: their list price for the prompt and the
    longest answer. A mixture: at least what those among its members cost. What else is known of a
    model's cost counts until its first answer.
    """

    def __init__(
        self,
        closed: Mapping[str, TokenPrice],
        mixtures: Mapping[str, Collection[str]] | None = None,
        means: dict[str, float] | None = None,
    ) -> None:
        """mixtures: the members of each. means: what was learned before, and is learned on."""
        self._closed = closed
        groups = {name: (name,) for name in closed} | {
            name: (name, *members) for name, members in (mixtures or {}).items()
        }
        self._prices = {
            name: [closed[one] for one in group if one in closed] for name, group in groups.items()
        }
        self._means = {} if means is None else means
        self._everyone = self._mean_of_all()

    def learn(self, model: str, cost_nano_usd: int) -> None:
        """Take one finished answer into account."""
        mean = self._means.get(model, float(cost_nano_usd))
        self._means[model] = mean + SMOOTHING * (cost_nano_usd - mean)
        self._everyone = self._mean_of_all()

    def _mean_of_all(self) -> float:
        return sum(self._means.values()) / max(1, len(self._means))

    def expected_nano_usd(
        self,
        model: str,
        prompt_character_count: int,
        max_output_token_count: int,
        learned_nano_usd: int | None = None,
    ) -> int:
        """What the answer will probably cost.

        max_output_token_count: 0 where not limited. learned_nano_usd: what such answers of the
        model cost elsewhere, where that is known.
        """
        prices = self._prices.get(model)
        if not prices:  # most models; every prompt asks for all
            return max(0, self._ours_nano_usd(model, learned_nano_usd))
        longest = max_output_token_count or USUAL_OUTPUT_TOKEN_COUNT
        size = TextSize(prompt_character_count)
        listed = sum(price.cost_nano_usd(price.token_count(size), longest) for price in prices)
        if model in self._closed:
            return listed
        return max(listed, self._ours_nano_usd(model, learned_nano_usd))

    def _ours_nano_usd(self, model: str, learned_nano_usd: int | None) -> int:
        if model not in self._means and learned_nano_usd is not None:
            return learned_nano_usd
        if not self._means:
            return 0
        mean = self._means.get(model)
        return round(self._everyone if mean is None else mean)


class AnswerForecast:
    """What to expect of each model's answer to one prompt.

    qualities: None where nothing was learned from outcomes. feedback: None where none is kept.
    """

    def __init__(
        self, costs: CostForecast, qualities: QualityModel | None, feedback: Feedback | None
    ) -> None:
        self._costs = costs
        self._qualities = qualities
        self._feedback = feedback

    def expectations(
        self,
        text: str,
        classification: Classification,
        *,
        prompt_character_count: int,
        max_output_token_count: int,
    ) -> tuple[Classification, Expectations]:
        """The same classification, with a note where nothing could be estimated.

        text: what was classified. prompt_character_count: of all that the model will read.
        """
        learned: dict[str, tuple[float, int | None]] | None = None
        try:
            learned = self._learned(text, classification.row)
        except Exception:  # a decision never fails a request
            log.exception("estimate_failed")
            note = "; ".join(filter(None, [classification.note, "no quality could be estimated"]))
            classification = replace(classification, note=note)

        def cost_nano_usd(target: Target) -> int:
            _, cost = (learned or {}).get(target.name, (0.0, None))
            return self._costs.expected_nano_usd(
                target.name, prompt_character_count, max_output_token_count, cost
            )

        qualities = None if learned is None else {name: one for name, (one, _) in learned.items()}
        if self._feedback is None:
            return classification, Expectations(cost_nano_usd, qualities)
        task = classification.task if classification.is_in_scope else ""
        corrected = self._feedback.corrected(classification.row, task)
        return classification, Expectations(cost_nano_usd, qualities, corrected)

    def _learned(self, text: str, row: Floats | None) -> dict[str, tuple[float, int | None]] | None:
        """Quality and nano-dollars by model; no model costs less than nothing."""
        if self._qualities is None:
            return None
        known = self._qualities
        found = known.means if row is None else known.estimate(text, row)
        costs = np.maximum(0, found.cost_usd * float(NANO))
        return {
            name: (float(quality), round(float(cost)) if np.isfinite(cost) else None)
            for name, quality, cost in zip(
                known.models, np.clip(found.quality, 0, 1), costs, strict=True
            )
        }
