"""Signal-to-noise ratios of weight matrices."""

import math

import numpy as np
import pytest
import torch
import yaml

from merge_on_load import Checkpoint
from merge_on_load.spectrum import Signal, signal_to_noise, signals, to_train, to_yaml


def noise(rows: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32)


def test_a_direction_stands_out_of_noise():
    one = np.random.default_rng(1).standard_normal((2, 200)).astype(np.float32)
    with_signal = noise(200, 100) + 4 * np.outer(one[0], one[1][:100])

    assert signal_to_noise(with_signal) != signal_to_noise(noise(200, 100))
    assert signal_to_noise(np.zeros((4, 4), np.float32)) == 0


def test_the_ratio_is_the_sums_on_both_sides_of_the_threshold():
    """Singular values 9, 2, 1, 1: quartiles 1 and 3.75, deviation 2.0385, threshold twice that."""
    matrix = np.diag(np.array([9, 2, 1, 1], np.float32))

    deviation = (3.75 - 1) / 1.349
    assert 2 < 2 * deviation < 9
    assert signal_to_noise(matrix) == pytest.approx(9 / 4 / 9)


def test_where_all_is_beyond_the_threshold_there_is_no_noise():
    assert math.isinf(signal_to_noise(np.eye(5, dtype=np.float32)))


def test_matrices_within_layers_are_weighed(save):
    weights = {
        f"model.layers.{layer}.mlp.{kind}.weight": torch.randn(8, 8)
        for layer in range(4)
        for kind in ("up_proj", "down_proj")
    }
    others = {"model.embed_tokens.weight": torch.randn(9, 8), "model.norm.weight": torch.ones(8)}

    found = signals(Checkpoint.open(save("model", weights | others)))

    assert {one.name for one in found} == weights.keys()
    assert {one.kind for one in found} == {"mlp.up_proj", "mlp.down_proj"}


def test_the_best_of_each_kind_are_listed():
    found = [
        Signal(f"model.layers.{layer}.{kind}.weight", ratio)
        for kind in ("a", "b")
        for layer, ratio in enumerate((3.0, 1.0, 4.0, 2.0))
    ]

    chosen = to_train(found, 0.5)

    names = ["model.layers.2.a", "model.layers.0.a", "model.layers.2.b", "model.layers.0.b"]
    assert [one.module for one in chosen] == names
    told = yaml.safe_load(to_yaml(chosen))["unfrozen_parameters"]
    assert told == ["^lm_head.weight$", "^model.embed_tokens.weight$", *names]
    assert len(to_train(found, 0.01)) == 2
