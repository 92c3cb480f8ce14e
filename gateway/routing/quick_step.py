"""The static step: a prompt's words → logits, in microseconds."""

from __future__ import annotations

import numpy as np

from gateway.routing import lookup
from gateway.routing.head import Head
from gateway.routing.static import StaticVectors
from gateway.routing.words import Floats, Hashes, Places, Words, hashes_of_words, tokens_of

_MOST_WORDS = 50_000  # met beside the terms', and remembered; then they are forgotten


class QuickStep:
    """A head over words, the sums of whose vectors are remembered. Not for several threads."""

    def __init__(self, head: Head, words: Words, static: StaticVectors) -> None:
        """static: what the head was fitted with. Raises BadRouter where widths differ."""
        head.check(width=static.width, term_count=len(words.terms))
        self._head = head
        self._static = static
        self._usual = [term for term in words.terms if " " not in term]
        self._known = lookup.Table()
        self._sums: Floats = np.zeros((0, static.width), np.float32)
        self._take(self._usual)

    def logits(
        self, text: str, hashes: Hashes, places: Places, weights: Floats, shape: Floats
    ) -> Floats:
        """float32[tasks].

        hashes, shape: as `hashes_of` and `shape_of` give them. places, weights: as `Words.weigh`
        does.
        """
        found: Floats = self._head.shape @ shape
        found += self._head.bias
        if self._vote(hashes, places, weights, found):
            self._learn(tokens_of(text), hashes)
            self._vote(hashes, places, weights, found)
        return found

    def _vote(self, hashes: Hashes, places: Places, weights: Floats, logits: Floats) -> int:
        """Returns how many words are unknown; adds nothing then."""
        known = self._known
        count: int = lookup.vote(
            *(hashes, known.keys, known.places, self._sums, self._head.dense),
            *(places, weights, self._head.terms, logits),
        )
        return count

    def _learn(self, words: list[str], hashes: Hashes) -> None:
        if self._known.count + len(words) > len(self._usual) + _MOST_WORDS:
            self._known = lookup.Table()
            self._take(self._usual)
        out = np.empty(len(hashes), np.int32)
        lookup.locate(hashes, self._known.keys, self._known.places, out)
        self._take([words[place] for place in np.flatnonzero(out < 0)])

    def _take(self, words: list[str]) -> None:
        words = list(dict.fromkeys(words))
        before, after = self._known.count, self._known.add(hashes_of_words(words))
        if after > len(self._sums):
            wider = np.zeros((max(after, 2 * len(self._sums)), self._static.width), np.float32)
            wider[:before] = self._sums[:before]
            self._sums = wider
        self._sums[before:after] = self._static.sums(words)
