"""The static step's compiled sums against plain ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.routing import quick_step
from gateway.routing.encoder_files import kept
from gateway.routing.head import BadRouter, Head
from gateway.routing.quick_step import QuickStep
from gateway.routing.scanning import SHAPE_COUNT
from gateway.routing.static import StaticVectors
from gateway.routing.words import Words, hashes_of, shape_of, tokens_of

TASKS = ("a", "b", "out_of_scope")
TEXTS = ["Write a query that counts orders.", "Write a poem!", "count the orders", "naïve 你好"]


@pytest.fixture(scope="module")
def static() -> StaticVectors:
    return StaticVectors.load(kept(None) / "static")


@pytest.fixture(scope="module")
def words() -> Words:
    return Words.fit(TEXTS)


@pytest.fixture(scope="module")
def head(static: StaticVectors, words: Words) -> Head:
    random = np.random.default_rng(0)
    shapes = [(3, static.width), (len(words.terms), 3), (3, SHAPE_COUNT), (3,)]
    return Head(TASKS, *(random.normal(size=one).astype(np.float32) for one in shapes), 0.5)


def logits_of(step: QuickStep, words: Words, text: str) -> np.ndarray:
    hashes = hashes_of(text)
    return step.logits(text, hashes, *words.weigh(hashes), shape_of(text))


@settings(max_examples=100, deadline=None)
@given(st.text() | st.sampled_from([*TEXTS, "", "orders orders unheard-of words"]))
def test_logits_are_the_heads(static: StaticVectors, words: Words, head: Head, text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    expected = head.logits(
        static.rows([tokens_of(text)])[0], *words.weigh(hashes_of(text)), shape_of(text)
    )

    step = QuickStep(head, words, static)
    first, second = logits_of(step, words, text), logits_of(step, words, text)

    np.testing.assert_allclose(first, expected, rtol=1e-3, atol=1e-3)
    assert np.array_equal(first, second)


def test_more_words_than_are_remembered(
    static: StaticVectors, words: Words, head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick_step, "_MOST_WORDS", 100)
    step = QuickStep(head, words, static)
    before = logits_of(step, words, TEXTS[0])

    for begin in range(0, 1000, 40):
        logits_of(step, words, " ".join(f"word{i}" for i in range(begin, begin + 40)))
    logits_of(step, words, " ".join(f"more{i}" for i in range(500)))

    assert np.array_equal(logits_of(step, words, TEXTS[0]), before)


def test_a_head_of_another_embedding_is_refused(
    static: StaticVectors, words: Words, head: Head
) -> None:
    with pytest.raises(BadRouter, match="expected"):
        QuickStep(dataclasses.replace(head, dense=head.dense[:, 1:]), words, static)
