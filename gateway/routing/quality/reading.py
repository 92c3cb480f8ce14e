"""A prompt and its embedding → one row of numbers that estimates are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gateway.routing.quality.features import NAMES, form
from gateway.routing.quality.grams import RARITY_COUNT, Bags, Floats, Projection

_GRAM_DIMENSIONS = 16
GRAM_COUNT = 2 * _GRAM_DIMENSIONS
OTHER_COUNT = GRAM_COUNT + len(NAMES) + RARITY_COUNT  # beside the embedding

LEAST_SPREAD = 1e-3  # standard deviation, below which a column is as good as constant


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What is read of prompts: the embedding, words, letters and form, one after the other.

    words, letters: learned from the prompts that are fitted to.
    """

    words: Projection
    letters: Projection

    @classmethod
    def fit(cls, texts: Sequence[str]) -> Self:
        """texts: at least one."""
        bags = Bags()
        return cls(
            Projection.fit([bags.words(text) for text in texts], _GRAM_DIMENSIONS),
            Projection.fit([bags.letters(text) for text in texts], _GRAM_DIMENSIONS),
        )

    def read(self, text: str, embedding: Floats, bags: Bags, *, is_seen: bool = False) -> Floats:
        """float32[dim + OTHER_COUNT]. embedding: float32[dim]. is_seen: it was fitted to."""
        words = bags.words(text)
        parts: list[NDArray[Any]] = [
            embedding,
            self.words.project(words),
            self.letters.project(bags.letters(text)),
            form(text),
            self.words.rarity(words, is_seen=is_seen),
        ]
        return np.concatenate(parts, dtype=np.float32)

    def read_all(
        self, texts: Sequence[str], embeddings: Floats, *, is_seen: bool = False
    ) -> Floats:
        """float32[n, dim + OTHER_COUNT], of at least one text."""
        bags = Bags()
        pairs = zip(texts, embeddings, strict=True)
        return np.stack([self.read(text, row, bags, is_seen=is_seen) for text, row in pairs])

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What `from_tensors` reads."""
        found: dict[str, NDArray[Any]] = {}
        for name, part in (("words", self.words), ("letters", self.letters)):
            found[f"{name}.seen"] = part.seen
            found[f"{name}.text_count"] = np.array([part.text_count])
            found[f"{name}.directions"] = part.directions
        return found

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Self:
        """Raises KeyError for a missing tensor, ValueError for another shape."""
        words, letters = (
            Projection.checked(
                tensors[f"{name}.seen"],
                int(tensors[f"{name}.text_count"].item()),
                tensors[f"{name}.directions"],
                _GRAM_DIMENSIONS,
            )
            for name in ("words", "letters")
        )
        return cls(words, letters)
