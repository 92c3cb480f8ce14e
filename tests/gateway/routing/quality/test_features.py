"""What is read of any text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.routing.quality.features import NAMES, form
from gateway.routing.quality.grams import Bags, Projection
from gateway.routing.quality.reading import OTHER_COUNT, Reading

ANY_TEXT = st.text(st.characters(codec=None), max_size=300)  # halves of surrogate pairs, too
TEXTS = [
    "What do 3 pens at $1.50 each cost?",
    "Write a function that sorts a list.",
    "What do 12 cups at $4.25 each cost?",
    "Write a function that reverses a list.",
]


def told(text: str) -> dict[str, float]:
    return dict(zip(NAMES, form(text), strict=True))


@settings(deadline=None)  # the first one waits for the compiler
@given(ANY_TEXT, st.integers(1, 40))
def test_every_text_has_a_form(text: str, times: int) -> None:
    found = form(text * times)

    assert found.shape == (len(NAMES),)
    assert np.isfinite(found).all()
    assert (found == form(text * times)).all()


def test_numbers() -> None:
    found = told("Of 1,250.5 litres, 7 were sold in 2024.")

    assert found["numbers"] == pytest.approx(np.log1p(3))
    assert found["greatest_number"] == pytest.approx(np.log1p(2024))
    assert found["least_number"] == pytest.approx(np.log1p(7))
    assert found["fractions"] == pytest.approx(np.log1p(1))
    assert found["long_numbers"] == pytest.approx(np.log1p(2))


def test_numbers_of_any_length_stay_finite() -> None:
    assert told("9" * 5000)["greatest_number"] < 50
    assert told("0." + "0" * 5000 + "1")["least_number"] == pytest.approx(0)


def test_options_in_their_usual_shapes() -> None:
    found = told("Which is it?\nA. red\nB) blue 7\n (C) grey\nNone\nAnswer:")

    assert found["options"] == 3
    assert found["option_digits"] == pytest.approx(1 / 3)
    assert found["option_length"] == pytest.approx(np.log1p((4 + 7 + 5) / 3))
    assert found["ends_colon"] == 1
    assert told("Apples. Are they red?")["option_length"] == -1


def test_lengths_and_ends() -> None:
    found = told("It is old. Is it?\n\nyes")

    assert found["bytes"] == pytest.approx(np.log1p(22))
    assert found["words"] == pytest.approx(np.log1p(6))
    assert found["sentences"] == pytest.approx(np.log1p(2))
    assert found["paragraphs"] == pytest.approx(np.log1p(1))
    assert found["longest_line"] == pytest.approx(np.log1p(17))
    assert (found["starts_upper"], found["starts_lower"]) == (1, 0)
    assert (found["ends_question"], told("Is it?\n")["ends_question"]) == (0, 1)


def test_keywords_are_whole_words_in_any_case() -> None:
    assert told("NOT this, not that, nothing")["negations"] == pytest.approx(np.log1p(2))


@settings(deadline=None)
@given(ANY_TEXT)
def test_bags_leave_nothing_behind(text: str) -> None:
    used, fresh = Bags(), Bags()
    used.words(text), used.letters(text)

    for one, other in ((used.words, fresh.words), (used.letters, fresh.letters)):
        for found, expected in zip(one("a b a"), other("a b a"), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_small_and_great_letters_are_alike() -> None:
    bags = Bags()

    for of in (bags.words, bags.letters):
        assert set(of("The Cat")[0]) == set(of("the cat")[0])
        assert set(of("The Cat")[0]) != set(of("the dog")[0])


def test_a_projection_is_the_singular_directions_of_tf_idf() -> None:
    """Inner products of projections are those of the weighed bags, at full rank."""
    bags = Bags()
    counted = [bags.words(text) for text in TEXTS]
    projection = Projection.fit(counted, 3)
    table = np.zeros((4, len(projection.weights)))
    for row, (buckets, values) in zip(table, counted, strict=True):
        row[buckets] = values * projection.weights[buckets]
    table /= np.linalg.norm(table, axis=1, keepdims=True)

    found = np.array([projection.project(bag) for bag in counted])

    left, values, _ = np.linalg.svd(table, full_matrices=False)
    expected = (left[:, :3] * values[:3]) @ (left[:, :3] * values[:3]).T
    np.testing.assert_allclose(found @ found.T, expected, atol=1e-5)


def test_what_only_one_text_had_counts_for_nothing() -> None:
    bags = Bags()
    projection = Projection.fit([bags.words(text) for text in TEXTS], 3)

    assert (projection.project(bags.words("zebra quagga okapi")) == 0).all()
    assert (projection.project(bags.words("")) == 0).all()


def test_a_text_that_was_fitted_to_is_as_rare_as_a_new_one() -> None:
    """What one text alone had counts as what none had."""
    bags = Bags()
    counted = [bags.words(text) for text in TEXTS]

    seen = Projection.fit(counted, 3).rarity(counted[0], is_seen=True)

    without = Projection.fit(counted[1:], 3).rarity(counted[0])
    np.testing.assert_allclose(seen, without, atol=1e-6)
    assert Projection.fit(counted, 3).rarity(bags.words("")).tolist() == [0] * 5


@settings(deadline=None)
@given(ANY_TEXT)
def test_reading_is_total_and_comes_back_from_its_tensors(text: str) -> None:
    reading = Reading.fit(TEXTS)
    embedding = np.array([0.6, 0.8], np.float32)

    read = reading.read(text, embedding, Bags())

    assert read.shape == (2 + OTHER_COUNT,)
    assert np.isfinite(read).all()
    again = Reading.from_tensors(reading.tensors())
    np.testing.assert_array_equal(again.read(text, embedding, Bags()), read)
