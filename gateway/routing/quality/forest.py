"""Extremely randomised trees, grown by scikit-learn and walked by compiled code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from merge_on_load.kernels import compiled

Floats = NDArray[np.float32]
Places = NDArray[np.int32]


class BadForest(ValueError):
    """Arrays that are no forest."""


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """Trees as flat arrays, of all trees one after the other.

    roots: int32[trees]. features: int32[forks], of which a row's value is compared. thresholds:
    float32[forks]: at most this goes left. left, right: int32[forks]: the next fork, or where
    negative the leaf -1 - value. roots are such values, too. sums: float32[leaves, outputs], the
    known targets of a leaf's rows, in parts of how many rows there are. counts: of the same shape,
    how many of them are known.
    """

    roots: Places
    features: Places
    thresholds: Floats
    left: Places
    right: Places
    sums: Floats
    counts: Floats

    @classmethod
    def grow(cls, rows: Floats, targets: NDArray[np.float64], **settings: Any) -> Self:
        """Geurts et al. 2006, "Extremely randomized trees".

        rows: float32[n, width], finite. targets: float64[n, outputs], NaN where unknown: what is
        unknown has no part in a leaf's value, and is guessed while trees grow. settings:
        scikit-learn's, of ExtraTreesRegressor.
        """
        from sklearn.ensemble import ExtraTreesRegressor

        complete = guessed(targets)
        column = complete[:, 0] if complete.shape[1] == 1 else complete  # as it wants one output
        grown = ExtraTreesRegressor(**settings).fit(rows, column)
        return cls._joined([one.tree_ for one in grown.estimators_], rows, targets)

    @classmethod
    def _joined(cls, trees: list[Any], rows: Floats, targets: NDArray[np.float64]) -> Self:
        known = ~np.isnan(targets)
        stacked = np.concatenate([np.where(known, targets, 0), known], 1)
        parts, forks, leaves = [], 0, 0
        for tree in trees:
            is_leaf = tree.children_left < 0
            names = np.where(is_leaf, -leaves - is_leaf.cumsum(), forks + (~is_leaf).cumsum() - 1)
            inner = ~is_leaf
            own = -1 - names[tree.apply(rows)] - leaves
            summed = np.zeros((int(is_leaf.sum()), stacked.shape[1]))
            np.add.at(summed, own, stacked)
            summed /= np.bincount(own, minlength=len(summed))[:, None]
            parts.append(
                {
                    "roots": names[:1],
                    "features": tree.feature[inner],
                    "thresholds": _rounded_down(tree.threshold[inner]),
                    "left": names[tree.children_left[inner]],
                    "right": names[tree.children_right[inner]],
                    "sums": summed[:, : targets.shape[1]],
                    "counts": summed[:, targets.shape[1] :],
                }
            )
            forks, leaves = forks + int(inner.sum()), leaves + int(is_leaf.sum())
        return cls(**{f.name: _cast(f.name, [p[f.name] for p in parts]) for f in fields(cls)})

    def totals(self, row: Floats) -> tuple[Floats, Floats]:
        """float32[outputs] twice: sums and counts of the leaves that a row falls in.

        Their quotient is scikit-learn's prediction where all targets were known.
        """
        sums, counts = np.zeros((2, self.sums.shape[1]), np.float32)
        walk(
            row,
            *(self.roots, self.features, self.thresholds, self.left, self.right),
            *(self.sums, self.counts, sums, counts),
        )
        return sums, counts

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What `from_tensors` reads."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]], width: int) -> Self:
        """width: of the rows. Raises BadForest for what a walk would not end well in."""
        try:
            found = cls(**{f.name: tensors[f.name] for f in fields(cls)})
        except KeyError as error:
            raise BadForest(f"no tensor {error}") from error
        found._check(width)
        return found

    def _check(self, width: int) -> None:
        for f in fields(self):
            wanted, one = _DTYPES[f.name], getattr(self, f.name)
            if one.dtype != wanted or one.ndim != 1 + (f.name in ("sums", "counts")):
                raise BadForest(f"{f.name} is {one.dtype}{list(one.shape)}")
        forks, leaves = len(self.features), len(self.sums)
        if self.sums.shape != self.counts.shape or not len(self.roots):
            raise BadForest("no trees, or leaves without counts")
        if any(len(one) != forks for one in (self.thresholds, self.left, self.right)):
            raise BadForest("arrays of forks of different lengths")
        if forks and not (self.features.min() >= 0 and self.features.max() < width):
            raise BadForest(f"a feature beyond {width}")
        every = np.arange(forks)
        for names, least in ((self.left, every), (self.right, every), (self.roots, -1)):
            is_good = np.where(names >= 0, (names > least) & (names < forks), names >= -leaves)
            if not is_good.all():
                raise BadForest("a branch that leads nowhere, or back")
        if not all(np.isfinite(one).all() for one in (self.sums, self.counts, self.thresholds)):
            raise BadForest("numbers that are not finite")


_DTYPES = {
    **dict.fromkeys(("roots", "features", "left", "right"), np.int32),
    **dict.fromkeys(("thresholds", "sums", "counts"), np.float32),
}


def guessed(targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unknown targets replaced: by their column's mean, and by as much as the row's known ones are
    above theirs, of which one more that is not is assumed.
    """
    known = ~np.isnan(targets)
    zeros = np.where(known, targets, 0)
    means = zeros.sum(0) / np.maximum(1, known.sum(0))
    above = np.where(known, targets - means, 0).sum(1) / (1 + known.sum(1))
    return np.where(known, targets, means + above[:, None])


def _rounded_down(thresholds: NDArray[np.float64]) -> Floats:
    """The greatest float32 that is at most the threshold: no comparison changes."""
    rounded = thresholds.astype(np.float32)
    return np.where(rounded > thresholds, np.nextafter(rounded, np.float32(-np.inf)), rounded)


def _cast(name: str, parts: list[NDArray[Any]]) -> NDArray[Any]:
    return np.ascontiguousarray(np.concatenate(parts).astype(_DTYPES[name]))


def _walk(
    row: Any,
    roots: Any,
    features: Any,
    thresholds: Any,
    left: Any,
    right: Any,
    leaf_sums: Any,
    leaf_counts: Any,
    sums: Any,
    counts: Any,
) -> None:
    """sums, counts: float32[outputs], added to."""
    for root in roots:
        place = root
        while place >= 0:
            goes_left = row[features[place]] <= thresholds[place]
            place = left[place] if goes_left else right[place]
        leaf = -1 - place
        for i in range(len(sums)):
            sums[i] += leaf_sums[leaf, i]
            counts[i] += leaf_counts[leaf, i]


walk = compiled(_walk)
