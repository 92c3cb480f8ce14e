"""A model of quality, fitted to prompts whose outcomes follow a rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from gateway.routing.head import BadRouter
from gateway.routing.quality.fitting import fit_quality
from gateway.routing.quality.model import QualityModel
from gateway.routing.quality.outcomes import BadOutcomes, Outcomes

MODELS = ("large", "sums", "words")
THINGS = ["pens", "cups", "hats", "keys", "lamps", "books", "chairs", "maps", "bells", "coins"]
DIM = 4


def rule(count: int, seed: int = 0) -> tuple[Outcomes, np.ndarray]:
    """`sums` is good at sums and `words` at the rest; `large` at all, for ten times the cost."""
    random = np.random.default_rng(seed)
    prompts, scores, costs = [], [], []
    for i in range(count):
        thing, number = THINGS[int(random.integers(10))], int(random.integers(2, 99))
        is_sum = i % 2 == 0
        sum_text = f"What do {number} {thing} cost at {number + i} dollars each?"
        prompts.append(sum_text if is_sum else f"Write a tale, the {i}th, about {thing}.")
        scores.append([0.9, 0.95 if is_sum else 0.1, 0.1 if is_sum else 0.95])
        costs.append([0.01 * len(prompts[-1]), 0.001 * len(prompts[-1]), 0.001])
    rows = random.normal(size=(count, DIM)).astype(np.float32)
    rows[:, 0] = np.where(np.arange(count) % 2, 2, -2)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Outcomes(tuple(prompts), MODELS, np.array(scores), np.array(costs)), rows


@pytest.fixture(scope="module")
def fitted() -> QualityModel:
    return fit_quality(*rule(80))


def test_the_better_model_is_found_for_prompts_it_has_not_seen(fitted: QualityModel) -> None:
    outcomes, rows = rule(40, seed=1)

    for prompt, row, scores in zip(outcomes.prompts, rows, outcomes.scores, strict=True):
        found = fitted.estimate(prompt, row)

        assert found.quality.argmax() == scores.argmax()
        np.testing.assert_allclose(found.quality, scores, atol=0.2)


def test_costs_follow_the_length(fitted: QualityModel) -> None:
    outcomes, rows = rule(40, seed=1)

    found = fitted.estimate_all(outcomes.prompts, rows)

    assert np.median(np.abs(np.log(found.cost_usd / outcomes.costs_usd))) < 0.1
    np.testing.assert_allclose(fitted.means.cost_usd, rule(80)[0].costs_usd.mean(0))


def test_costs_of_new_prompts_of_one_template_are_right_on_average() -> None:
    """Most of what is read of such prompts is the same for all."""
    shown = "Answer with one word.\n\nQ: Is ice cold?\nA: yes\n\nQ: Is fire wet?\nA: no\n\nQ: "
    outcomes, rows = rule(120)
    prompts = tuple(shown + prompt for prompt in outcomes.prompts)
    told = Outcomes(prompts, MODELS, outcomes.scores, outcomes.costs_usd)

    made = fit_quality(told.only(np.arange(80)), rows[:80])

    expected = made.estimate_all(prompts[80:], rows[80:]).cost_usd
    np.testing.assert_allclose(expected.mean(0) / told.costs_usd[80:].mean(0), 1, atol=0.1)


def test_one_and_many_are_estimated_alike(fitted: QualityModel) -> None:
    outcomes, rows = rule(10, seed=2)

    many = fitted.estimate_all(outcomes.prompts, rows)

    for i, (prompt, row) in enumerate(zip(outcomes.prompts, rows, strict=True)):
        one = fitted.estimate(prompt, row)
        np.testing.assert_allclose(one.quality, many.quality[i], atol=1e-6)
        np.testing.assert_allclose(one.cost_usd, many.cost_usd[i], rtol=1e-6)


@settings(deadline=None)
@given(
    st.text(st.characters(codec=None), max_size=200),
    st.lists(st.floats(-1, 1, width=32), min_size=DIM, max_size=DIM),
)
def test_every_text_has_estimates(fitted: QualityModel, text: str, row: list[float]) -> None:
    found = fitted.estimate(text, np.array(row, np.float32))

    assert ((found.quality >= 0) & (found.quality <= 1)).all()
    assert (np.isfinite(found.cost_usd) & (found.cost_usd > 0)).all()


def test_an_embedding_of_another_width_is_refused(fitted: QualityModel) -> None:
    with pytest.raises(ValueError, match="embedding"):
        fitted.estimate("a", np.zeros(DIM + 1, np.float32))
    with pytest.raises(BadRouter, match="dimensions"):
        fitted.check_width(DIM + 1)


def test_the_held_out_figures_tell_what_routing_is_worth(fitted: QualityModel) -> None:
    found = fitted.facts["held_out"]

    assert found["best_single_model"] == "large"
    assert found["part_of_oracle"] > 0.9
    assert found["cost_at_best_quality"] < 0.2


def test_unknown_scores_do_not_draw_an_estimate_down() -> None:
    """Each prompt was asked of one model only, as the same prompts are of three."""
    outcomes, rows = rule(240)
    scores = np.where(np.arange(240)[:, None] % 3 == np.arange(3), outcomes.scores, np.nan)

    made = fit_quality(Outcomes(outcomes.prompts, MODELS, scores, outcomes.costs_usd), rows)

    unseen, unseen_rows = rule(40, seed=1)
    found = made.estimate_all(unseen.prompts, unseen_rows).quality
    np.testing.assert_allclose(found.mean(0), unseen.scores.mean(0), atol=0.1)
    assert (found.argmax(1) == unseen.scores.argmax(1)).mean() > 0.9


def test_a_model_without_costs_has_none_expected() -> None:
    outcomes, rows = rule(40)
    outcomes.costs_usd[:, 1] = np.nan

    found = fit_quality(outcomes, rows).estimate(outcomes.prompts[0], rows[0])

    assert np.isnan(found.cost_usd).tolist() == [False, True, False]


def test_costs_of_nothing_are_expected_to_stay_so() -> None:
    outcomes, rows = rule(40)
    outcomes.costs_usd[:, 1] = 0

    assert fit_quality(outcomes, rows).estimate("a", rows[0]).cost_usd[1] == 0


@pytest.mark.parametrize("kept", [["large"], ["large", "sums"]])
def test_one_model_or_two(kept: list[str]) -> None:
    outcomes, rows = rule(40)
    places = [MODELS.index(name) for name in kept]
    part = Outcomes(
        outcomes.prompts, tuple(kept), outcomes.scores[:, places], outcomes.costs_usd[:, places]
    )

    made = fit_quality(part, rows)

    assert made.estimate("Write a tale.", rows[1]).quality.shape == (len(kept),)
    assert ("apgr" in made.facts["held_out"]) == (len(kept) == 2)


def test_the_same_prompts_make_the_same_model(fitted: QualityModel) -> None:
    outcomes, rows = rule(20, seed=3)

    again = fit_quality(*rule(80))

    for one in zip(
        *(made.estimate_all(outcomes.prompts, rows).quality for made in (fitted, again)),
        strict=True,
    ):
        np.testing.assert_array_equal(*one)


def test_too_few_prompts_are_refused() -> None:
    with pytest.raises(BadOutcomes, match="19 prompts"):
        fit_quality(*rule(19))


def test_a_model_comes_back_as_it_was(fitted: QualityModel, tmp_path: Path) -> None:
    outcomes, rows = rule(10, seed=4)
    fitted.save(tmp_path)

    again = QualityModel.load(tmp_path)

    assert again.models == MODELS
    assert again.facts == fitted.facts
    np.testing.assert_array_equal(again.means.quality, fitted.means.quality)
    for prompt, row in zip(outcomes.prompts, rows, strict=True):
        one, other = fitted.estimate(prompt, row), again.estimate(prompt, row)
        np.testing.assert_array_equal(one.quality, other.quality)
        np.testing.assert_array_equal(one.cost_usd, other.cost_usd)


def rewrite(directory: Path, **changes: Any) -> None:
    file = directory / "quality.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def retensor(directory: Path, name: str, change: Any) -> None:
    file = directory / "quality.safetensors"
    tensors = load_file(file)
    tensors[name] = np.ascontiguousarray(change(tensors[name]))
    save_file(tensors, file)


DAMAGES: dict[str, Any] = {
    "no facts": lambda home: (home / "quality.json").unlink(),
    "no tensors": lambda home: (home / "quality.safetensors").unlink(),
    "no JSON": lambda home: (home / "quality.json").write_text("{"),
    "a list": lambda home: (home / "quality.json").write_text("[]"),
    "cut off": lambda home: (home / "quality.safetensors").write_bytes(b"\x08"),
    "another version": lambda home: rewrite(home, format="deltafleet.quality 0"),
    "a model too many": lambda home: rewrite(home, models=[*MODELS, "other"]),
    "no models": lambda home: rewrite(home, models=[]),
    "a shorter blend": lambda home: retensor(home, "blend", lambda one: one[:2]),
    "fewer axes": lambda home: retensor(home, "axes", lambda one: one[:, :-1]),
    "a wider guess": lambda home: retensor(home, "weights", lambda one: one[:-1]),
    "words as integers": lambda home: retensor(home, "words.seen", lambda one: one.view("i4")),
    "seen too often": lambda home: retensor(home, "letters.seen", lambda one: one + 100),
    "no such word": lambda home: retensor(home, "words.directions", lambda one: one[:-1]),
    "no such leaf": lambda home: retensor(home, "forest.left", lambda one: one - 100_000),
    "a ring": lambda home: retensor(home, "forest.right", lambda one: one * 0),
    "no neighbours": lambda home: retensor(home, "near.keys", lambda one: one[:0]),
    "another neighbour": lambda home: retensor(home, "near.scores", lambda one: one[:-1]),
    "fewer costs": lambda home: retensor(home, "costs.bias", lambda one: one[:-1]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_refused(fitted: QualityModel, tmp_path: Path, damage: str) -> None:
    fitted.save(tmp_path)
    DAMAGES[damage](tmp_path)

    with pytest.raises(BadRouter, match=str(tmp_path)):
        QualityModel.load(tmp_path)
