"""What is expected of answers, from outcomes, traffic and feedback."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from gateway.classifier import Classification
from gateway.forecast import AnswerForecast, CostForecast
from gateway.pricing import TokenPrice
from gateway.router import ModelKind, Target
from gateway.routing.feedback import Feedback, Opinions, RecentAnswers
from gateway.routing.feedback_store import FeedbackStore
from gateway.routing.quality.fitting import fit_quality
from gateway.routing.quality.model import QualityModel
from gateway.routing.quality.outcomes import Outcomes
from gateway.routing.words import Floats

THINGS = ["pens", "cups", "hats", "keys", "lamps", "books", "chairs", "maps", "bells", "coins"]
SUM, TALE = "What do 7 pens cost at 3 dollars each?", "Write a tale about bells."


def row_of(text: str) -> Floats:
    return np.array([1, 0] if text.startswith("What") else [0, 1], np.float32)


@pytest.fixture(scope="module")
def learned() -> QualityModel:
    """`sums` is good at sums, `words` at tales; only what `sums` costs is known."""
    prompts = [f"What do {n + 3} {thing} cost?" for thing in THINGS for n in range(3)]
    prompts += [f"Write a tale about {n + 3} {thing}." for thing in THINGS for n in range(3)]
    is_sum = np.array([one.startswith("What") for one in prompts])
    scores = np.stack([is_sum, ~is_sum], 1).astype(float)
    costs = np.stack([np.full(len(prompts), 2e-6), np.full(len(prompts), np.nan)], 1)
    rows = np.stack([row_of(one) for one in prompts])
    return fit_quality(Outcomes(tuple(prompts), ("sums", "words"), scores, costs), rows)


def told(text: str, row: Floats | None) -> Classification:
    assert text
    return Classification("sums", 0.9, True, (("sums", 0.9),), row=row)


def qualities(forecast: AnswerForecast, text: str, row: Floats | None) -> dict[str, float]:
    _, found = forecast.expectations(
        text, told(text, row), prompt_character_count=len(text), max_output_token_count=0
    )
    return {name: found.corrected(name, one) for name, one in (found.qualities or {}).items()}


def target(name: str) -> Target:
    return Target(name, ModelKind.SPECIALIST, 1.0)


def test_the_prompt_decides_where_it_has_an_embedding(learned: QualityModel) -> None:
    forecast = AnswerForecast(CostForecast({}), learned, None)
    for text, better, worse in ((SUM, "sums", "words"), (TALE, "words", "sums")):
        found = qualities(forecast, text, row_of(text))
        assert found[better] > 0.6 > 0.4 > found[worse]
    assert qualities(forecast, TALE, None) == pytest.approx({"sums": 0.5, "words": 0.5})


def test_learned_costs_count_until_the_first_answer(learned: QualityModel) -> None:
    costs = CostForecast({"closed": TokenPrice(Decimal(1), Decimal(5))})
    forecast = AnswerForecast(costs, learned, None)

    def cost(name: str) -> int:
        _, found = forecast.expectations(
            SUM, told(SUM, row_of(SUM)), prompt_character_count=40, max_output_token_count=100
        )
        return found.cost_nano_usd(target(name))

    assert cost("sums") == pytest.approx(2000, rel=0.01)
    assert cost("words") == 0  # nothing is known of anyone's
    costs.learn("sums", 500)
    assert cost("sums") == cost("words") == 500
    assert cost("closed") == 10 * 1000 + 100 * 5000


def test_a_mixture_costs_at_least_what_its_closed_members_list() -> None:
    prices = {
        "cheap": TokenPrice(Decimal(1), Decimal(5)),
        "dear": TokenPrice(Decimal(2), Decimal(9)),
    }
    costs = CostForecast(prices, {"panel": ["cheap", "sums", "dear"], "pair": ["sums", "words"]})

    def cost(model: str) -> int:
        return costs.expected_nano_usd(model, 40, 100)

    assert cost("panel") == cost("cheap") + cost("dear")
    assert cost("pair") == 0
    costs.learn("panel", 7)
    assert cost("panel") == cost("cheap") + cost("dear")
    costs.learn("panel", 10**9)
    assert cost("panel") > cost("cheap") + cost("dear")


def test_what_cannot_be_estimated_is_said_and_fails_nothing(learned: QualityModel) -> None:
    forecast = AnswerForecast(CostForecast({}), learned, None)
    other_width = np.ones(5, np.float32)
    classification, found = forecast.expectations(
        SUM, told(SUM, other_width), prompt_character_count=1, max_output_token_count=0
    )
    assert found.qualities is None
    assert classification.note == "no quality could be estimated"
    assert classification.task == "sums"


async def test_feedback_moves_what_was_learned(learned: QualityModel, tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path / "f.sqlite3", 10)
    await store.open()
    feedback = Feedback(store, RecentAnswers(10), Opinions(10))
    forecast = AnswerForecast(CostForecast({}), learned, feedback)
    before = qualities(forecast, SUM, row_of(SUM))
    feedback.answered("r", "sums", "sums", row_of(SUM))
    await feedback.record("r", 0.0, "")

    after = qualities(forecast, SUM, row_of(SUM))
    assert after["sums"] < before["sums"]
    assert after["words"] == before["words"]
    assert qualities(forecast, TALE, row_of(TALE)) == pytest.approx(
        qualities(AnswerForecast(CostForecast({}), learned, None), TALE, row_of(TALE))
    )
    await store.close()
