"""Every weight in a few bits: onebit, int8 and steps, beside naive references."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_on_load.codecs import CodecSettings, make_codec, steps
from support.codec_runs import LOSSY, SHAPES, round_trip, small_floats


def naive_onebit(base: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
    width = base.shape[-1] if base.ndim else 1
    out = torch.empty(math.prod(base.shape[:-1]), width, dtype=tuned.dtype)
    for i in range(out.shape[0]):
        before = base.reshape(out.shape)[i].float()
        change = tuned.reshape(out.shape)[i].float() - before
        mean = change.double().abs().sum() / max(1, width)
        sign = torch.where(change >= 0, 1.0, -1.0)
        out[i] = (before + sign * mean.float()).to(tuned.dtype)
    return out.reshape(tuned.shape)


@settings(deadline=None)
@given(SHAPES, st.sampled_from(LOSSY), st.sampled_from(LOSSY), st.integers(0, 2**32))
def test_onebit_equals_a_naive_reference(shape, base_dtype, dtype, seed):
    base = small_floats(shape, base_dtype, seed)
    tuned = small_floats(shape, dtype, seed + 1)

    assert torch.equal(round_trip("onebit", base, tuned), naive_onebit(base, tuned))


def test_onebit_equals_a_naive_reference_across_blocks():
    base, tuned = small_floats((700, 1001), "BF16", 0), small_floats((700, 1001), "BF16", 1)

    assert torch.equal(round_trip("onebit", base, tuned), naive_onebit(base, tuned))


def test_onebit_scale_is_the_best_one_for_each_row():
    base, tuned = torch.zeros(8, 64), small_floats((8, 64), "F32", 0)
    payload = make_codec("onebit", CodecSettings()).encode("w", base, tuned)
    sign = torch.where(tuned >= 0, 1.0, -1.0)

    best = (tuned * sign).sum(dim=1) / (sign * sign).sum(dim=1)  # least squares

    assert torch.allclose(payload["scale"], best)


@pytest.mark.parametrize("scales", [0, 1, 2])
def test_onebit_scales_are_mean_magnitudes(scales):
    tuned = small_floats((20, 33), "F32", 0) * torch.linspace(0.1, 3, 33)
    size = tuned.abs()
    expected = {
        0: size.mean(dim=1, keepdim=True).expand(20, 33),
        1: size.mean().expand(20, 33),
        2: size.mean(dim=1, keepdim=True) * size.mean(dim=0) / size.mean(),
    }[scales]

    rebuilt = round_trip("onebit", torch.zeros(20, 33), tuned, scales=scales)

    assert torch.allclose(rebuilt, torch.where(tuned >= 0, expected, -expected), rtol=1e-5)


def test_a_scale_for_each_column_is_nearer_where_columns_differ():
    base, tuned = torch.zeros(60, 64), small_floats((60, 64), "F32", 0) * torch.arange(1, 65)

    errors = [
        (round_trip("onebit", base, tuned, scales=scales) - tuned).norm() for scales in (1, 0, 2)
    ]

    assert errors[2] < 0.9 * errors[1] <= errors[0]


@settings(deadline=None)
@given(SHAPES, st.sampled_from(LOSSY), st.integers(1, 200), st.integers(0, 2**32))
def test_int8_is_within_half_a_step_of_its_group(shape, dtype, group_size, seed):
    base, tuned = small_floats(shape, dtype, seed), small_floats(shape, dtype, seed + 1)

    rebuilt = round_trip("int8", base, tuned, group_size=group_size).float()

    if tuned.numel() == 0:
        return
    rounding = {"BF16": 2.0**-8, "F16": 2.0**-11, "F32": 2.0**-22}[dtype]
    step = (tuned.float() - base.float()).abs().max() / 127
    allowed = step * 0.5001 + rounding * (tuned.float().abs() + step)
    assert bool(((rebuilt - tuned.float()).abs() <= allowed).all())


@pytest.mark.parametrize("width", [128, 1000, 129])
def test_int8_relative_error_is_below_one_percent(width):
    base = small_floats((300, width), "F32", 0)
    tuned = base + small_floats((300, width), "F32", 1, 1e-3)

    error = (round_trip("int8", base, tuned) - tuned).norm() / (tuned - base).norm()

    assert error < 0.01


def test_int8_values_that_zstd_cannot_shrink_are_kept_as_they_are():
    random = torch.Generator().manual_seed(0)
    tuned = torch.randint(-127, 128, (64, 1024), generator=random).float()
    tuned[:, ::128] = 127  # so that every scale is 1

    payload = make_codec("int8", CodecSettings()).encode("w", torch.zeros(64, 1024), tuned)

    assert set(payload) == {"scale", "values"}
    assert torch.equal(round_trip("int8", torch.zeros(64, 1024), tuned), tuned)


@pytest.mark.parametrize("bits", steps.BITS)
@pytest.mark.parametrize("width", [0, 1, 31, 32, 33, 100])
def test_codes_are_packed_and_unpacked(bits, width):
    codes = np.random.default_rng(0).integers(0, 2**bits, (5, width), np.uint8)

    packed = steps.pack(codes, bits)

    assert packed.shape == (5, steps.packed_bytes(width, bits))
    assert np.array_equal(steps.unpack(packed, width, bits), codes)


@pytest.mark.parametrize("bits", steps.BITS)
def test_more_bits_are_nearer_and_none_is_further_than_a_step_where_nothing_is_cut_off(bits):
    values = np.linspace(-1, 1, 64, dtype=np.float32)[None]

    codes, scale = steps.quantise(values, bits)

    error = np.abs(steps.dequantise(codes, scale, bits) - values)
    assert error.max() <= 1.02 * max(scale[0] / 2, 1 - 2 ** (bits - 1) * scale[0] + scale[0] / 2)
    if bits > 1:
        fewer, coarser = steps.quantise(values, max(1, bits // 2))
        nearer = np.abs(steps.dequantise(fewer, coarser, max(1, bits // 2)) - values)
        assert (error**2).sum() < (nearer**2).sum()


@pytest.mark.parametrize("codec", ["int2", "int3", "int4"])
@pytest.mark.parametrize("width", [128, 1000, 129])
def test_few_bits_are_as_near_as_their_number_says(codec, width):
    base = small_floats((300, width), "F32", 0)
    tuned = base + small_floats((300, width), "F32", 1, 1e-3)

    error = (round_trip(codec, base, tuned) - tuned).norm() / (tuned - base).norm()

    assert error < {"int2": 0.37, "int3": 0.2, "int4": 0.12}[codec]
