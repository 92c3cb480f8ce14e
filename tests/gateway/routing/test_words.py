"""Words and pairs, weighted; and the shape of a text."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from gateway.routing.words import SHAPE_COUNT, Words, shape_of, tokens_of

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

    assert ours.terms == theirs.vocabulary_
    unseen = [*TEXTS, "write write a the orders", "", "nothing of it known"]
    expected = theirs.transform(unseen).toarray()
    assert np.allclose(ours.matrix(unseen).toarray(), expected, atol=1e-6)


def test_too_few_texts_have_no_terms() -> None:
    for texts in ([], ["one"], ["one", "two"]):
        words = Words.fit(texts)
        assert words.terms == {}
        assert words.weigh(tokens_of("one two"))[0].size == 0
        assert words.matrix(["one", "two"]).shape == (2, 0)


@given(st.text())
def test_any_text_has_weights_and_a_shape(text: str) -> None:
    places, weights = Words.fit(TEXTS).weigh(tokens_of(text))
    shape = shape_of(text)

    assert len(places) == len(weights) == len(set(places.tolist()))
    assert not len(weights) or abs(float(weights @ weights) - 1) < 1e-5
    assert shape.shape == (SHAPE_COUNT,)
    assert np.isfinite(shape).all()
