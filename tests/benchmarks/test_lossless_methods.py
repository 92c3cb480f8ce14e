"""What the other methods of bit-exact coding are said to take."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.deltas import lossless


def test_fm_delta_takes_the_sign_and_highest_bit_and_leaves_the_rest():
    """Four symbols, each a quarter: two bits each; of 5 and -3, two and one bits stay below."""
    difference = np.array([0, 1, 5, -3] * 100, np.int16).view(np.uint16)

    assert lossless.fm_delta_bits(difference) == pytest.approx(100 * (4 * 2 + 2 + 1))


@pytest.mark.parametrize("size", [32767, -32768])
def test_the_largest_differences_have_fifteen_bits_below_or_fourteen(size):
    difference = np.array([size] * 8, np.int16).view(np.uint16)

    assert lossless.fm_delta_bits(difference) == 8 * (15 if size < 0 else 14)


def test_every_method_is_counted_and_ours_takes_least(tmp_path):
    random = torch.Generator().manual_seed(0)
    base = torch.randn(256, 512, generator=random) * 0.02
    tuned = base + torch.randn(256, 512, generator=random) * 1e-3
    for name, tensor in (("base", base), ("tuned", tuned)):
        (tmp_path / name).mkdir()
        save_file({"w": tensor.bfloat16()}, tmp_path / name / "model.safetensors")

    (found,) = lossless.measure([(tmp_path / "base", tmp_path / "tuned")])

    assert found["weight_bytes"] == 2 * 256 * 512
    assert 0 < found["unchanged"] < 0.2
    assert {"ours", "FM-Delta", "zstd 19, difference", "zstd 1, XOR"} <= set(found["bytes"])
    assert min(found["bytes"], key=found["bytes"].get) == "ours"
    assert all(0 < size < 1.1 * found["weight_bytes"] for size in found["bytes"].values())
