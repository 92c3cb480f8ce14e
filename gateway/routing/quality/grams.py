"""Words and letters of a prompt, hashed, weighed and projected to few dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gateway.routing import scanning
from gateway.routing.quality.features import read_bytes, word_hashes

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

_BUCKETS = 1 << 15
_RARITIES = (0.0, 0.25, 0.5, 1.0)  # quantiles of how rare the words are
RARITY_COUNT = len(_RARITIES) + 1


class Bags:
    """Counts what is in texts; holds the memory for it. Not for several threads."""

    def __init__(self) -> None:
        """See above."""
        self._counts = np.zeros(_BUCKETS, np.int32)

    def words(self, text: str) -> tuple[Indices, Floats]:
        """Buckets of words and pairs of words, and 1 + log(count) of each."""
        hashes = word_hashes(read_bytes(text))
        out = np.empty(2 * len(hashes), np.int64)
        return self._taken(out[: scanning.bag_words(hashes, self._counts, out)])

    def letters(self, text: str) -> tuple[Indices, Floats]:
        """The same of two to four neighbouring bytes."""
        data = read_bytes(text)
        out = np.empty(3 * len(data), np.int64)
        found = scanning.bag_letters(data, scanning.KINDS, self._counts, out)
        return self._taken(out[:found])

    def _taken(self, buckets: Indices) -> tuple[Indices, Floats]:
        counts = self._counts[buckets]
        self._counts[buckets] = 0
        return buckets, np.asarray(1 + np.log(counts), np.float32)


@dataclass(frozen=True, eq=False)
class Projection:
    """TF-IDF with sublinear counts, then its singular directions (latent semantic analysis,
    Deerwester et al. 1990).

    seen: float32[buckets], how many of the texts that were fitted to had it. text_count: how many
    they were. directions: float32[buckets, dim], multiplied by the weights.
    """

    seen: Floats
    text_count: int
    directions: Floats

    @cached_property
    def weights(self) -> Floats:
        """float32[buckets], inverse document frequencies; 0 for what only one text had."""
        found = np.log((1 + self.text_count) / (1 + self.seen)) + 1
        return np.where(self.seen > 1, found, 0).astype(np.float32)

    @classmethod
    def fit(cls, bags: Sequence[tuple[Indices, Floats]], dim: int) -> Self:
        """bags: at least one, of each text."""
        from scipy.sparse import csr_matrix, diags
        from sklearn.decomposition import TruncatedSVD

        places = np.concatenate([[0], np.cumsum([len(buckets) for buckets, _ in bags])])
        columns, values = (np.concatenate([bag[i] for bag in bags]) for i in (0, 1))
        table = csr_matrix((values, columns, places), shape=(len(bags), _BUCKETS))
        seen = np.bincount(columns, minlength=_BUCKETS).astype(np.float32)
        used = np.zeros((_BUCKETS, dim), np.float32)
        made = cls(seen, len(bags), used)
        weighted = table @ diags(made.weights)
        lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(1)).ravel())
        scaled = diags(1 / np.maximum(lengths, 1e-9)) @ weighted
        rank = min(dim, len(bags) - 1)
        if rank > 0 and scaled.nnz:
            svd: Any = TruncatedSVD(rank, random_state=0).fit(scaled)
            used[:, :rank] = svd.components_.T * made.weights[:, None]
        return made

    @classmethod
    def checked(
        cls, seen: NDArray[Any], text_count: int, directions: NDArray[Any], dim: int
    ) -> Self:
        """Raises ValueError unless these may be a projection's."""
        for found, shape in ((seen, (_BUCKETS,)), (directions, (_BUCKETS, dim))):
            if found.dtype != np.float32 or found.shape != shape:
                raise ValueError(f"{found.dtype}{list(found.shape)}, not float32{list(shape)}")
            if not np.isfinite(found).all():
                raise ValueError("numbers that are not finite")
        if seen.min() < 0 or seen.max() > text_count:
            raise ValueError(f"seen in more than {text_count} texts, or in fewer than none")
        return cls(seen, text_count, directions)

    def project(self, bag: tuple[Indices, Floats]) -> Floats:
        """float32[dim], of a text's bag. Zeros where nothing in it is known."""
        buckets, values = bag
        found = np.zeros(self.directions.shape[1], np.float32)
        scanning.project(buckets, values, self.weights, self.directions, found)
        return found

    def rarity(self, bag: tuple[Indices, Floats], *, is_seen: bool = False) -> Floats:
        """float32[RARITY_COUNT]: quantiles and mean of how rare what is in a bag is, as logarithms.

        is_seen: the text was fitted to, and is not counted itself: rarities are to mean the same of
        new texts.
        """
        if not len(bag[0]):
            return np.zeros(RARITY_COUNT, np.float32)
        others = np.maximum(0, self.seen[bag[0]] - is_seen)
        found = np.sort(np.log((1 + self.text_count - is_seen) / (1 + others)))
        places = (np.array(_RARITIES) * (len(found) - 1)).astype(int)
        return np.append(found[places], found.mean()).astype(np.float32)
