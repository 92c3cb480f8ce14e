"""A prompt's words and shape: what an embedding blurs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from gateway.routing import lookup, scanning

if TYPE_CHECKING:  # only who fits needs it: 11 MB
    from scipy import sparse

Floats = NDArray[np.float32]
Places = NDArray[np.int32]
Hashes = NDArray[np.uint64]

_TOKEN = re.compile(r"\w+|[^\w\s]")
_MOST_TERMS = 60_000


def tokens_of(text: str) -> list[str]:
    """Words and single punctuation marks, in lower case."""
    return _TOKEN.findall(text.lower())


def hashes_of(text: str) -> Hashes:
    """The hash of each of `tokens_of`: uint64, in order."""
    read = text.encode() if text.isascii() else _readable(tokens_of(text))
    data = np.frombuffer(read, np.uint8)
    out = np.empty(len(data), np.uint64)
    return out[: scanning.hash_words(data, scanning.WORD_KINDS, out)]


def hashes_of_words(words: Sequence[str]) -> Hashes:
    """One for each. words: as `tokens_of` gives them."""
    data = np.frombuffer(_readable(words), np.uint8)
    out = np.empty(len(data), np.uint64)
    return out[: scanning.hash_words(data, scanning.WORD_KINDS, out)]


def _readable(words: Sequence[str]) -> bytes:
    """A blank between words: compiled code takes all that is beyond ASCII for letters."""
    return " ".join(words).encode("utf-8", "replace")


def shape_of(text: str) -> Floats:
    """Length, digits, capitals, signs, lines, question marks ...: float32[14], about 0 to 1."""
    found = np.empty(scanning.SHAPE_COUNT, np.float32)
    data = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
    scanning.measure_shape(data, scanning.WORD_KINDS, found)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """Words and pairs of neighbours, weighted by TF-IDF with sublinear counts, of length 1.

    terms: in the order of their places; a pair is two words and a blank. idf: float32[terms].
    table: their hashes' places.
    """

    terms: list[str]
    idf: Floats
    table: lookup.Table

    @classmethod
    def of(cls, terms: list[str], idf: Floats) -> Self:
        """Raises ValueError for a term that is no word and no pair, or is there twice."""
        table = lookup.Table()
        parts = [term.split(" ") for term in terms]
        words = [word for part in parts for word in part]
        hashes = hashes_of_words(words)
        if len(hashes) != len(words) or any(len(part) > 2 for part in parts):
            raise ValueError("a term is no word and no pair of words")
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        is_pair = np.array([len(part) == 2 for part in parts], bool)
        keys = hashes[ends - 1] if len(ends) else hashes
        keys[is_pair] = lookup.pairs(hashes[ends[is_pair] - 2], hashes[ends[is_pair] - 1])
        if table.add(keys) != len(terms):
            raise ValueError("a term is there twice")
        return cls(terms, idf, table)

    @classmethod
    def fit(cls, texts: Sequence[str]) -> Self:
        """The terms that at least two texts have, as scikit-learn's TfidfVectorizer has them."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        none = cls.of([], np.zeros(0, np.float32))
        if len(texts) < 2:
            return none
        made = TfidfVectorizer(
            min_df=2,
            sublinear_tf=True,
            max_features=_MOST_TERMS,
            analyzer=lambda text: _terms(tokens_of(text)),
        )
        try:
            made.fit(texts)
        except ValueError:  # no term is in two texts
            return none
        terms = sorted(made.vocabulary_, key=made.vocabulary_.__getitem__)
        return cls.of(terms, np.asarray(made.idf_, np.float32))

    def weigh(self, hashes: Hashes) -> tuple[Places, Floats]:
        """Places of the terms that are in `terms`, ascending, and their weights: of one length.

        hashes: as `hashes_of` gives them.
        """
        places = np.empty(2 * len(hashes), np.int32)
        weights = np.empty(2 * len(hashes), np.float32)
        table = self.table
        count = lookup.weigh(hashes, table.keys, table.places, self.idf, places, weights)
        return places[:count], weights[:count]

    def matrix(self, texts: Sequence[str]) -> sparse.csr_array:
        """The same of many texts: float32[n, terms]."""
        from scipy import sparse

        rows = [self.weigh(hashes_of(text)) for text in texts]
        ends = np.cumsum([0, *(len(places) for places, _ in rows)])
        places = np.concatenate([one for one, _ in rows]) if rows else np.zeros(0, np.int32)
        weights = np.concatenate([one for _, one in rows]) if rows else np.zeros(0, np.float32)
        return sparse.csr_array((weights, places, ends), shape=(len(texts), len(self.terms)))


def _terms(tokens: list[str]) -> list[str]:
    return [*tokens, *(f"{left} {right}" for left, right in pairwise(tokens))]
