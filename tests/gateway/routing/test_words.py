"""Words and pairs, weighted; and the shape of a text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from gateway.routing.scanning import SHAPE_COUNT
from gateway.routing.words import Words, hashes_of, hashes_of_words, shape_of, tokens_of

TEXTS = [
    "Write a query that counts orders.",
    "Write a poem, please: write it short!",
    "How many orders were there in May?",
    "count count count the orders",
    "naïve Über-query №5 — 你好",
    "naïve 你好",
]


def test_weights_are_those_of_scikit_learn() -> None:
    theirs = TfidfVectorizer(
        ngram_range=(1, 2), min_df=2, sublinear_tf=True, token_pattern=r"\w+|[^\w\s]"
    ).fit(TEXTS)
    ours = Words.fit(TEXTS)

    assert {term: place for place, term in enumerate(ours.terms)} == theirs.vocabulary_
    unseen = [*TEXTS, "write write a the orders", "", "nothing of it known"]
    expected = theirs.transform(unseen).toarray()
    assert np.allclose(ours.matrix(unseen).toarray(), expected, atol=1e-6)


def test_too_few_texts_have_no_terms() -> None:
    for texts in ([], ["one"], ["one", "two"]):
        words = Words.fit(texts)
        assert words.terms == []
        assert words.weigh(hashes_of("one two"))[0].size == 0
        assert words.matrix(["one", "two"]).shape == (2, 0)


@given(st.text() | st.text(st.characters(max_codepoint=127)))
def test_compiled_code_parts_a_text_as_the_expression_does(text: str) -> None:
    words = tokens_of(text.encode("utf-8", "replace").decode())

    assert hashes_of(text).tolist() == hashes_of_words(words).tolist()
    assert len(hashes_of(text)) == len(words)


def test_terms_that_are_none_are_refused() -> None:
    idf = np.ones(2, np.float32)
    for terms in (["one two three", "one"], ["one", "one"], ["", "one"], ["one-two", "one"]):
        with pytest.raises(ValueError, match="a term is"):
            Words.of(terms, idf)


@pytest.mark.parametrize(
    ("text", "place", "value"),
    [
        ("", 0, 0),
        ("abcdefg", 0, np.log(8) / 8),
        ("été", 0, np.log(4) / 8),
        ("one two\tthree\n four", 1, np.log(5) / 6),
        ("12 apples, 3.5 pears", 2, np.log(4) / 3),
        ("ab1C", 3, 1 / 5 * 5),
        ("abcD", 4, 1 / 5 * 5),
        ("1 + 1 = 2", 5, 0.2),
        ("a\nb\nc", 6, np.log(3) / 3),
        ("? ???", 7, 1),
        ("return x;\nplease", 8, 1),
        ("f(x) {  ", 8, 1),
        ("f(x) is", 8, 0),
        ("is it so? ", 9, 1),
        ("is it so? no", 9, 0),
        ("  small", 10, 1),
        ("Great", 10, 0),
        ('say "no"', 11, 1),
        ("so am I", 12, 1),
        ("My dog", 12, 1),
        ("give me", 12, 1),
        ("I'm here", 12, 1),
        ("mine it is", 12, 0),
        ("né", 13, 1),
    ],
)
def test_the_shape_of_a_text(text: str, place: int, value: float) -> None:
    assert shape_of(text)[place] == pytest.approx(value, abs=1e-6)


@given(st.text())
def test_any_text_has_weights_and_a_shape(text: str) -> None:
    places, weights = Words.fit(TEXTS).weigh(hashes_of(text))
    shape = shape_of(text)

    assert len(places) == len(weights) == len(set(places.tolist()))
    assert not len(weights) or abs(float(weights @ weights) - 1) < 1e-5
    assert shape.shape == (SHAPE_COUNT,)
    assert np.isfinite(shape).all()
