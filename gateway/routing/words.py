"""A prompt's words and shape: what an embedding blurs. Pure numpy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.float32]
Places = NDArray[np.int32]

_TOKEN = re.compile(r"\w+|[^\w\s]")
_MOST_TERMS = 60_000
_CODE_END = re.compile(r"[{}();]\s*$", re.MULTILINE)
_FIRST_PERSON = re.compile(r"\b(?:i|my|me|i'm)\b", re.IGNORECASE)
_SIGNS = frozenset("+-*/=^<>\\$")
SHAPE_COUNT = 14


def tokens_of(text: str) -> list[str]:
    """Words and single punctuation marks, in lower case."""
    return _TOKEN.findall(text.lower())


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """Words and pairs of neighbours, weighted by TF-IDF with sublinear counts, of length 1.

    terms: each one's place; a pair is two words and a blank. idf: float32[terms].
    """

    terms: dict[str, int]
    idf: Floats

    @classmethod
    def fit(cls, texts: Sequence[str]) -> Self:
        """The terms that at least two texts have, as scikit-learn's TfidfVectorizer has them."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        if len(texts) < 2:
            return cls({}, np.zeros(0, np.float32))
        made = TfidfVectorizer(
            min_df=2,
            sublinear_tf=True,
            max_features=_MOST_TERMS,
            analyzer=lambda text: _terms(tokens_of(text)),
        )
        try:
            made.fit(texts)
        except ValueError:  # no term is in two texts
            return cls({}, np.zeros(0, np.float32))
        terms = {term: int(place) for term, place in made.vocabulary_.items()}
        return cls(terms, np.asarray(made.idf_, np.float32))

    def weigh(self, tokens: list[str]) -> tuple[Places, Floats]:
        """Places of the terms that are in `terms`, and their weights: two arrays of one length."""
        known = [one for one in map(self.terms.get, _terms(tokens)) if one is not None]
        found = dict.fromkeys(known, 0)
        places = np.fromiter(found, np.int32, len(found))
        weights = self.idf[places]
        if len(found) < len(known):
            for place in known:
                found[place] += 1
            weights *= 1 + np.log(np.array(list(found.values()), np.float32))
        norm = float(np.sqrt(weights @ weights))
        weights /= norm or 1.0
        return places, weights

    def matrix(self, texts: Sequence[str]) -> sparse.csr_array:
        """The same of many texts: float32[n, terms]."""
        rows = [self.weigh(tokens_of(text)) for text in texts]
        ends = np.cumsum([0, *(len(places) for places, _ in rows)])
        places = np.concatenate([one for one, _ in rows]) if rows else np.zeros(0, np.int32)
        weights = np.concatenate([one for _, one in rows]) if rows else np.zeros(0, np.float32)
        return sparse.csr_array((weights, places, ends), shape=(len(texts), len(self.terms)))


def _terms(tokens: list[str]) -> list[str]:
    return [*tokens, *(f"{left} {right}" for left, right in pairwise(tokens))]


def shape_of(text: str) -> Floats:
    """Length, digits, capitals, signs, lines, question marks ...: float32[14], about 0 to 1."""
    count = len(text) + 1
    stripped = text.strip()
    found = (
        np.log1p(len(text)) / 8,
        np.log1p(len(text.split())) / 6,
        np.log1p(len(re.findall(r"\d+", text))) / 3,
        sum(map(str.isdigit, text)) / count * 5,
        sum(map(str.isupper, text)) / count * 5,
        min(sum(one in _SIGNS for one in text), 10) / 10,
        np.log1p(text.count("\n")) / 3,
        min(text.count("?"), 3) / 3,
        bool(_CODE_END.search(text)),
        stripped.endswith("?"),
        stripped[:1].islower(),
        '"' in text,
        bool(_FIRST_PERSON.search(text)),
        sum(ord(one) > 127 for one in text) / count * 3,
    )
    return np.array(found, np.float32)
