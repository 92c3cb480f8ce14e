"""What a model's answer will probably cost, learned from what its answers did cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gateway.routing.quality.reading import LEAST_SPREAD

Table = NDArray[np.float64]

_STRENGTH = 10.0  # of the ridge
_FEWEST = 30  # answers of known cost, below which a model's mean is all that is learned


@dataclass(frozen=True, slots=True, eq=False)
class Costs:
    """Log-linear in what is read of a prompt, between the least and the greatest that was seen.

    weights: float64[width, models]. bias, lowest, highest: float64[models], logarithms of USD.
    means: float64[models], in USD; NaN: nothing is known.
    """

    weights: Table
    bias: Table
    lowest: Table
    highest: Table
    means: Table

    @classmethod
    def fit(cls, read: Table, costs_usd: Table) -> Self:
        """read: float64[n, width]. costs_usd: float64[n, models], NaN where unknown."""
        models = [_fitted(read, costs_usd[:, i]) for i in range(costs_usd.shape[1])]
        weights, bias, lowest, highest, means = (np.array(one) for one in zip(*models, strict=True))
        return cls(np.ascontiguousarray(weights.T), bias, lowest, highest, means)

    def expected(self, read: Table) -> Table:
        """float64[n, models], in USD; NaN where nothing is known. read: float64[n, width]."""
        logs = np.clip(read @ self.weights + self.bias, self.lowest, self.highest)
        return np.where(np.isfinite(self.lowest), np.exp(logs), self.means)


def _fitted(read: Table, costs_usd: Table) -> tuple[Table, float, float, float, float]:
    """Weights, bias, lowest, highest, mean. Lowest is infinite where the mean is all there is."""
    from sklearn.linear_model import Ridge

    known = ~np.isnan(costs_usd)
    told, width = costs_usd[known], read.shape[1]
    mean = float(told.mean()) if len(told) else float("nan")
    if len(told) < _FEWEST or told.min() <= 0:
        return np.zeros(width), 0.0, -np.inf, np.inf, mean
    logs, seen = np.log(told), read[known]
    centre, spread = seen.mean(0), seen.std(0)
    scale = np.where(spread > LEAST_SPREAD, 1 / np.maximum(spread, LEAST_SPREAD), 0)
    ridge = Ridge(_STRENGTH).fit((seen - centre) * scale, logs)
    weights = ridge.coef_ * scale
    bias = float(ridge.intercept_ - centre @ weights)
    low, high = float(logs.min()), float(logs.max())
    found = np.exp(np.clip(seen @ weights + bias, low, high)).mean()
    shift = float(np.log(mean / found))  # the mean of a logarithm is below the mean's logarithm
    return weights, bias + shift, low, high, mean
