"""A guess of the scores from the prompts that are most alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gateway.routing.quality.reading import LEAST_SPREAD

Floats = NDArray[np.float32]

_COUNT = 40
_WARMTH = 0.08  # difference of cosine by which a neighbour counts e times less
_GRAM_SCALE = 0.7
_FORM_SCALE, _FORM_LIMIT = 0.05, 4.0  # of a standard deviation; more of them count as these
_BLOCK_ROWS = 512


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """Prompts that are known, as keys of length 1, and their scores.

    A key is a reduced row: the embedding's axes as they are, words and letters scaled, and what is
    of a prompt's form standardised. centre, scale: float32[width]. keys: float32[n, width]. scores:
    float32[n, models]. plain_count: how many columns come before the form's.
    """

    centre: Floats
    scale: Floats
    keys: Floats
    scores: Floats
    plain_count: int

    @classmethod
    def fit(cls, reduced: Floats, scores: NDArray[Any], axes_count: int, gram_count: int) -> Self:
        """reduced: float32[n, axes, then grams, then form]. scores: [n, models], all known."""
        plain_count = axes_count + gram_count
        centre, spread = reduced.mean(0), reduced.std(0)
        scale = np.where(spread > LEAST_SPREAD, _FORM_SCALE / np.maximum(spread, LEAST_SPREAD), 0)
        centre[:plain_count] = 0
        scale[:axes_count], scale[axes_count:plain_count] = 1, _GRAM_SCALE
        no_keys = np.zeros((0, reduced.shape[1]), np.float32)
        empty = cls(centre, scale.astype(np.float32), no_keys, no_keys, plain_count)
        keys = empty._keys(reduced)
        return cls(centre, empty.scale, keys, scores.astype(np.float32), plain_count)

    def _keys(self, reduced: Floats) -> Floats:
        found = (reduced - self.centre) * self.scale
        limit = _FORM_SCALE * _FORM_LIMIT
        form = found[:, self.plain_count :]
        np.clip(form, -limit, limit, out=form)
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        return np.asarray(found / np.maximum(lengths, 1e-9), np.float32)

    def guess(self, reduced: Floats) -> Floats:
        """float32[n, models], means of the nearest by cosine, the nearer counting more."""
        blocks = [
            self._guessed(reduced[start : start + _BLOCK_ROWS])
            for start in range(0, len(reduced), _BLOCK_ROWS)
        ]
        return np.concatenate(blocks)

    def _guessed(self, reduced: Floats) -> Floats:
        alike = self._keys(reduced) @ self.keys.T
        count = min(_COUNT, len(self.keys))
        nearest = np.argpartition(alike, len(self.keys) - count, axis=1)[:, -count:]
        cosines = np.take_along_axis(alike, nearest, 1)
        weights = np.exp((cosines - cosines.max(1, keepdims=True)) / _WARMTH)
        weights /= weights.sum(1, keepdims=True)
        return np.asarray(np.einsum("nk,nkm->nm", weights, self.scores[nearest]), np.float32)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What `from_tensors` reads."""
        return {
            "centre": self.centre,
            "scale": self.scale,
            "keys": self.keys,
            "scores": self.scores,
            "plain_count": np.array([self.plain_count]),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]], width: int, models: int) -> Self:
        """Raises KeyError for a missing tensor, ValueError for another shape."""
        count = len(tensors["keys"])
        shapes = {
            "centre": (width,),
            "scale": (width,),
            "keys": (count, width),
            "scores": (count, models),
        }
        for name, shape in shapes.items():
            found = tensors[name]
            if found.dtype != np.float32 or found.shape != shape or not np.isfinite(found).all():
                raise ValueError(f"{name} is {found.dtype}{list(found.shape)}, or not finite")
        if not count:
            raise ValueError("no neighbours")
        plain_count = int(tensors["plain_count"].item())
        return cls(plain_count=plain_count, **{name: tensors[name] for name in shapes})
