"""Exactly so many of the largest, and of equal ones the first."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_on_load.methods.selection import select
from support.method_runs import Run


def kept_by_ties(model: torch.Tensor, density: float) -> torch.Tensor:
    values = [{"weight": 1.0, "density": density}]
    return Run("ties", torch.zeros_like(model), [model], values).merged() != 0


@given(
    st.lists(st.sampled_from([-2.0, -1.0, 1.0, 1.5, 2.0]), min_size=1, max_size=60),
    st.floats(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_of_equal_magnitudes_the_first_stay(numbers: list[float], density: float) -> None:
    model = torch.tensor(numbers)
    count = max(int(density * len(numbers)), int(density > 0))

    kept = kept_by_ties(model, density)

    expected = torch.sort(model.abs(), descending=True, stable=True).indices[:count]
    assert sorted(expected.tolist()) == kept.nonzero().flatten().tolist()


@pytest.mark.parametrize("density", [0.0001, 0.123, 0.5, 0.99999])
def test_ties_among_many_tiles_are_counted_through(density: float) -> None:
    model = (torch.randn(300, 1000, generator=torch.Generator().manual_seed(0)) * 3).round() + 0.5

    kept = kept_by_ties(model, density).flatten()

    count = int(density * model.numel())
    assert int(kept.sum()) == count
    order = torch.sort(model.abs().flatten(), descending=True, stable=True).indices
    assert kept[order[:count]].all()


def test_breadcrumbs_keep_the_middle() -> None:
    model = torch.arange(1.0, 101.0)
    values = [{"weight": 1.0, "density": 0.3, "gamma": 0.1}]

    kept = Run("breadcrumbs", torch.zeros(100), [model], values).merged()

    assert kept.nonzero().flatten().tolist() == list(range(60, 90))


@given(st.integers(1, 400), st.integers(0, 10**6), st.data())
@settings(max_examples=50, deadline=None)
def test_the_threshold_is_the_kth_largest(size: int, seed: int, data: st.DataObject) -> None:
    random = np.random.default_rng(seed)
    numbers = np.abs(random.standard_normal(size) * 10.0 ** random.integers(-30, 30, size))
    bits = numbers.astype(np.float32).view(np.int32).astype(np.int64)
    rank = data.draw(st.integers(1, size))

    def sweep(prefixes: np.ndarray, histograms: np.ndarray) -> None:
        prefix = int(prefixes[0, 0])
        found = bits >> 16 if prefix == -1 else bits[bits >> 16 == prefix] & 0xFFFF
        np.add.at(histograms[0, 0], found, 1)

    thresholds, quotas = select(np.array([[rank]]), size + 1, sweep)

    assert thresholds[0, 0] == np.sort(bits)[-rank]
    assert quotas[0, 0] == rank - (bits > thresholds[0, 0]).sum()
