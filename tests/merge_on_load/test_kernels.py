"""The compiled kernels, and their twins in torch for other devices, against plain arithmetic."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from merge_on_load import kernels
from merge_on_load.codecs import on_device, steps
from merge_on_load.codecs.lowrank import largest_factor
from merge_on_load.floats import copy_words, words
from merge_on_load.kernels import lowrank, vectors
from merge_on_load.tensors import raw_bytes

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
SIZES = st.tuples(st.integers(0, 5), st.integers(0, 150))


def any_bits(rows: int, width: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Any bit pattern: NaNs, denormals, -0.0, infinities."""
    tensor = torch.empty(rows, width, dtype=dtype)
    data = raw_bytes(tensor)
    data[:] = np.random.default_rng(seed).integers(0, 256, data.size, np.uint8)
    return tensor


def random_signs(rows: int, width: int, seed: int) -> torch.Tensor:
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.integers(0, 256, (rows, -(-width // 8)), np.uint8))


def random_values(rows: int, width: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(-127, 128, (rows, width), np.int8))


def random_scale(rows: int, count: int, seed: int) -> torch.Tensor:
    """From far below to far above the weights, and some zeros."""
    random = torch.Generator().manual_seed(seed)
    size = 10.0 ** torch.randint(-8, 5, (rows, count), generator=random)
    return torch.rand(rows, count, generator=random) * size * (size > 1e-8)


def naive_signs(base: torch.Tensor, signs: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    bits = np.unpackbits(signs.numpy(), axis=1, count=base.shape[1], bitorder="little")
    return base.float() + torch.where(torch.from_numpy(bits) == 1, scale, -scale)


def naive_scaled(
    base: torch.Tensor, values: torch.Tensor, scale: torch.Tensor, group_size: int
) -> torch.Tensor:
    out = base.float().clone()
    for column in range(base.shape[1]):
        out[:, column] += scale[:, column // group_size] * values[:, column].float()
    return out


def assert_same_bits(found: torch.Tensor, expected: torch.Tensor) -> None:
    """NaN where NaN is expected, whichever; elsewhere every bit."""
    assert found.dtype == expected.dtype
    is_nan = expected.isnan()
    assert torch.equal(found.isnan(), is_nan)
    whole = {2: torch.int16, 4: torch.int32}[found.itemsize]
    assert torch.equal(found.view(whole)[~is_nan], expected.view(whole)[~is_nan])


@settings(deadline=None, max_examples=300)
@given(SIZES, st.sampled_from(DTYPES), st.sampled_from(DTYPES), st.integers(0, 2**32))
def test_adding_signs_is_one_rounded_sum(size, base_dtype, dtype, seed):
    base, signs = any_bits(*size, base_dtype, seed), random_signs(*size, seed)
    scale = random_scale(size[0], 1, seed)
    expected = naive_signs(base, signs, scale).to(dtype)

    compiled, in_torch = torch.empty(size, dtype=dtype), torch.empty(size, dtype=dtype)
    kernels.add_signs(words(base), signs.numpy(), scale[:, 0].numpy(), words(compiled))
    on_device.add_signs(base, signs, scale[:, 0], in_torch)

    assert_same_bits(compiled, expected)
    assert_same_bits(in_torch, expected)


@settings(deadline=None, max_examples=300)
@given(
    SIZES,
    st.sampled_from([1, 3, 32, 64, 96, 128, 200]),
    st.sampled_from(DTYPES),
    st.sampled_from(DTYPES),
    st.integers(0, 2**32),
)
def test_adding_scaled_values_rounds_the_product_and_the_sum(
    size, group_size, base_dtype, dtype, seed
):
    base, values = any_bits(*size, base_dtype, seed), random_values(*size, seed)
    scale = random_scale(size[0], -(-size[1] // group_size), seed)
    expected = naive_scaled(base, values, scale, group_size).to(dtype)

    compiled, in_torch = torch.empty(size, dtype=dtype), torch.empty(size, dtype=dtype)
    kernels.add_scaled(words(base), values.numpy(), scale.numpy(), group_size, words(compiled))
    on_device.add_scaled(base, values, scale, group_size, in_torch)

    assert_same_bits(compiled, expected)
    assert_same_bits(in_torch, expected)


BITS = st.sampled_from([1, 2, 3, 4])


def random_steps(rows: int, width: int, bits: int, group_size: int, seed: int):
    """Codes as they are packed, their scale, and the values that they stand for."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, 2**bits, (rows, width), np.uint8)
    scale = random_scale(rows, -(-width // group_size), seed)
    values = steps.dequantise_rows(codes, scale.numpy(), group_size, bits)
    return torch.from_numpy(steps.pack(codes, bits)), scale, torch.from_numpy(values)


@settings(deadline=None, max_examples=200)
@given(SIZES, BITS, st.sampled_from([32, 64, 128]), st.sampled_from(DTYPES), st.integers(0, 2**32))
def test_adding_steps_rounds_the_product_and_the_sum(size, bits, group_size, dtype, seed):
    base = any_bits(*size, dtype, seed)
    packed, scale, values = random_steps(*size, bits, group_size, seed)
    expected = (base.float() + values).to(dtype)

    compiled, in_torch = torch.empty(size, dtype=dtype), torch.empty(size, dtype=dtype)
    kernels.add_steps(words(base), packed.numpy(), scale.numpy(), group_size, bits, words(compiled))
    on_device.add_steps(base, packed, scale, group_size, bits, in_torch)

    assert_same_bits(compiled, expected)
    assert_same_bits(in_torch, expected)


KEEPS = st.one_of(st.integers(1, 40), st.sampled_from([16, 32, 48, 64, 112]))


def scattered(
    base: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """The base, also its -0.0, and at some columns a sum."""
    change = torch.zeros(base.shape).scatter_(1, columns, values)
    is_kept = torch.zeros(base.shape, dtype=torch.bool).scatter_(1, columns, value=True)
    return torch.where(is_kept, base.float() + change, base.float()).to(dtype)


@settings(deadline=None, max_examples=200)
@given(SIZES, BITS, KEEPS, st.sampled_from(DTYPES), st.integers(0, 2**32))
def test_sparse_values_are_added_where_the_seeds_say(size, bits, keep, dtype, seed):
    base = any_bits(*size, dtype, seed)
    packed, scale, values = random_steps(size[0], -(-size[1] // keep), bits, 32, seed)
    seeds = np.random.default_rng(seed).integers(-(2**31), 2**31, size[0], np.int32)
    places = kernels.places(seeds, size[1], keep)
    expected = scattered(base, torch.from_numpy(places).long(), values, dtype)

    compiled, in_torch = torch.empty(size, dtype=dtype), torch.empty(size, dtype=dtype)
    given = packed, scale, torch.from_numpy(seeds)
    kernels.add_sparse(
        words(base), *(one.numpy() for one in given), 32, keep, bits, words(compiled)
    )
    on_device.add_sparse(base, *given, 32, keep, bits, in_torch)

    assert (places // keep == np.arange(places.shape[1])).all()
    assert (places < size[1]).all()
    assert_same_bits(compiled, expected)
    assert_same_bits(in_torch, expected)


@settings(max_examples=100)
@given(SIZES, BITS, st.sampled_from(DTYPES), st.integers(0, 2**32))
def test_values_are_added_at_the_marks(size, bits, dtype, seed):
    base, random = any_bits(*size, dtype, seed), np.random.default_rng(seed)
    count = size[1] // 3
    order = np.argsort(random.random(size), axis=1)[:, :count]
    columns = torch.from_numpy(np.sort(order, axis=1).astype(np.int32))
    packed, scale, values = random_steps(size[0], count, bits, 32, seed)
    expected = scattered(base, columns.long(), values, dtype)

    compiled, in_torch = torch.empty(size, dtype=dtype), torch.empty(size, dtype=dtype)
    marks = np.zeros((size[0], -(-size[1] // 32) * 32), bool)
    np.put_along_axis(marks, columns.numpy(), True, axis=1)
    given = packed, scale, torch.from_numpy(np.packbits(marks, axis=1, bitorder="little"))
    arrays = (one.numpy() for one in given)
    kernels.add_marked(words(base), *arrays, 32, count, bits, words(compiled))
    on_device.add_marked(base, *given, 32, count, bits, in_torch)

    assert_same_bits(compiled, expected)
    assert_same_bits(in_torch, expected)


@settings(max_examples=100)
@given(SIZES, st.sampled_from(DTYPES), st.integers(0, 2**32))
def test_signs_may_have_a_scale_for_each_column_too(size, dtype, seed):
    base, signs = any_bits(*size, dtype, seed), random_signs(*size, seed)
    scale, by_column = random_scale(size[0], 1, seed), random_scale(1, size[1], seed + 1)[0]
    expected = naive_signs(base, signs, scale * by_column).to(dtype)

    compiled, in_torch = torch.empty(size, dtype=dtype), torch.empty(size, dtype=dtype)
    given = signs, scale[:, 0].contiguous(), by_column
    kernels.add_signs_by_column(words(base), *(one.numpy() for one in given), words(compiled))
    on_device.add_signs_by_column(base, *given, in_torch)

    assert_same_bits(compiled, expected)
    assert_same_bits(in_torch, expected)


def random_factors(random, dtype, count: int, rank: int, largest: int):
    """[count, rank] as they come, and with a few at their limits."""
    found = random.integers(-largest, largest, (count, rank), dtype, endpoint=True)
    limits = random.choice(np.array([-largest, largest], dtype), found.shape)
    return np.where(random.random(found.shape) < random.random(), limits, found).astype(dtype)


@settings(deadline=None, max_examples=300)
@given(
    SIZES,
    st.sampled_from([1, 2, 5, 40, 200]),
    st.sampled_from([np.int8, np.int16]),
    st.booleans(),
    st.sampled_from(DTYPES),
    st.integers(0, 2**32),
)
def test_products_are_exact_sums_of_integers(size, count, factor, has_signs, dtype, seed):
    random, (rows, width) = np.random.default_rng(seed), size
    each, lines = 4 // np.dtype(factor).itemsize, -(-width // 32)
    rank = count * each
    largest = largest_factor(np.dtype(factor), rank)
    left = random_factors(random, factor, rows, rank, largest)
    right = random_factors(random, factor, lines * 32, rank, largest)
    base = any_bits(*size, dtype, seed)
    scales = random_scale(rows, 1, seed)[:, 0].contiguous(), random_scale(1, lines * 32, seed)[0]
    signs, scale, values = random_steps(*size, 1, 1 << 20, seed)
    sign_scale = scale[:, 0].contiguous() / 2 if width else torch.zeros(rows)
    if not has_signs:
        signs, values = torch.empty((rows, 0), dtype=torch.uint8), torch.zeros(size)
    sums = torch.from_numpy((left.astype(np.int64) @ right.T[:, :width]).astype(np.int32))
    change = sums.float() * scales[0][:, None] * scales[1][:width]
    expected = (base.float() + (change + values if has_signs else change)).to(dtype)

    by_lines = right.reshape(lines, 32, count, each).swapaxes(1, 2).reshape(lines, rank * 32)
    factors = torch.from_numpy(left), torch.from_numpy(by_lines)
    given = *factors, *scales, signs, sign_scale
    for add in (kernels.add_product, PLAIN_PRODUCTS[each]):
        compiled = torch.empty(size, dtype=dtype)
        arrays = [one.numpy() for one in given]
        arrays[0] = arrays[0] if add is kernels.add_product else arrays[0].view(np.uint32)
        add(words(base), *arrays, words(compiled))
        assert_same_bits(compiled, expected)
    in_torch = torch.empty(size, dtype=dtype)
    on_device.add_product(base, *given, in_torch)
    assert_same_bits(in_torch, expected)


@pytest.mark.parametrize("rank", [8, 400])
def test_wide_products_are_taken_in_stretches(rank):
    random, (rows, width) = np.random.default_rng(rank), (6, 5000)
    lines = -(-width // 32)
    left = random_factors(random, np.int8, rows, rank, 127)
    right = random_factors(random, np.int8, lines * 32, rank, 127)
    by_lines = right.reshape(lines, 32, rank // 4, 4).swapaxes(1, 2).reshape(lines, rank * 32)
    ones = np.ones(rows, np.float32), np.ones(lines * 32, np.float32)
    out, no_signs = np.empty((rows, width), np.float32), np.empty((rows, 0), np.uint8)

    kernels.add_product(np.zeros_like(out), left, by_lines, *ones, no_signs, ones[0], out)

    expected = left.astype(np.int64) @ right[:width].T.astype(np.int64)
    assert np.array_equal(out, expected.astype(np.float32))


# By factors of a word: what CPUs run that have no instruction for it.
PLAIN_PRODUCTS = {32 // bits: lowrank.adder(bits, has_vnni=False) for bits in (8, 16)}


def rounder(*, has_bf16: bool):
    """Rounds float32 to bfloat16 by lines, as writing them does."""
    write = vectors.writer(is_streamed=False, has_bf16=has_bf16)

    @njit
    def rounded(values, out):
        for begin in range(0, values.size, vectors.LANES):
            write(out, begin, vectors.read(values, begin))

    return rounded


@pytest.mark.parametrize("has_bf16", sorted({False, vectors.HAS_BF16}))
@pytest.mark.parametrize("low_half", [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
def test_every_float_is_rounded_as_torch_does(has_bf16, low_half):
    bits = np.arange(1 << 16, dtype=np.uint32) << 16 | np.uint32(low_half)
    mixed = np.random.default_rng(6).permutation(bits)  # normal ones beside NaN and subnormal ones
    values = np.concatenate([bits, mixed]).view(np.float32)
    out = torch.empty(values.size, dtype=torch.bfloat16)

    rounder(has_bf16=has_bf16)(values, words(out))

    assert_same_bits(out, torch.from_numpy(values).bfloat16())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1024, 1040, 1041])
def test_what_is_large_comes_out_the_same(width, dtype):
    """It is written past the caches where rows begin with a cache line."""
    size = (1100, width)
    base, signs, values = any_bits(*size, dtype, 1), random_signs(*size, 2), random_values(*size, 3)
    scale = random_scale(size[0], -(-width // 32), 4)
    out = torch.empty(size, dtype=dtype)
    assert out.data_ptr() % 64 == 0
    assert out.nbytes >= 1 << 21

    kernels.add_signs(words(base), signs.numpy(), scale[:, 0].contiguous().numpy(), words(out))
    assert_same_bits(out, naive_signs(base, signs, scale[:, :1]).to(dtype))
    kernels.add_scaled(words(base), values.numpy(), scale.numpy(), 32, words(out))
    assert_same_bits(out, naive_scaled(base, values, scale, 32).to(dtype))


@pytest.mark.parametrize("size", [0, 63, (1 << 21) - 1, (1 << 21) + 65])
@pytest.mark.parametrize("shift", [0, 1, 64])
def test_copies_are_exact_and_go_no_further(size, shift):
    source = torch.from_numpy(np.random.default_rng(5).integers(0, 255, size + 7, np.uint8))
    out = torch.full((size + 256,), 255, dtype=torch.uint8)
    copy_words(source[7:], out[shift : shift + size])

    assert torch.equal(out[shift : shift + size], source[7:])
    assert (out[:shift] == 255).all()
    assert (out[shift + size :] == 255).all()


def test_every_float16_is_read_exactly():
    halves = torch.arange(1 << 16).to(torch.int16).view(torch.float16).reshape(1, -1)
    found = torch.empty(halves.shape)

    plus_zero = np.full((1, halves.numel() // 8), 255, np.uint8)
    kernels.add_signs(words(halves), plus_zero, np.zeros(1, np.float32), words(found))

    assert_same_bits(found, halves.float() + 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_ties_are_rounded_to_the_even_neighbour(dtype):
    """Every value of the dtype, half a step up and half a step down, and one bit beside."""
    exact = torch.arange(1 << 16).to(torch.int16).view(dtype).float()
    step = 1 << (16 if dtype == torch.bfloat16 else 13)
    nearby = [
        exact.view(torch.int32) + around for around in (step // 2 - 1, step // 2, step // 2 + 1)
    ]
    values = torch.stack(nearby).view(torch.float32)
    found = torch.empty(values.shape, dtype=dtype)

    plus_zero = np.full((3, values.shape[1] // 8), 255, np.uint8)
    kernels.add_signs(values.numpy(), plus_zero, np.zeros(3, np.float32), words(found))

    assert_same_bits(found, (values + 0).to(dtype))


def test_decoding_needs_no_place_to_write_to(tmp_path):
    """Where neither the package's nor the user's cache can be made, kernels are compiled anew."""
    package = Path(kernels.__file__).parents[1]
    shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in (tmp_path / package.name, tmp_path / package.name / "kernels"):
        (folder / "__pycache__").write_text("no directory")
    code = (
        "import numpy as np; from merge_on_load import kernels; o = np.ones((1, 8), np.float32); "
        "kernels.add_signs(o, np.zeros((1, 1), np.uint8), o[:, 0], o); assert not o.any(), o; "
        f"assert kernels.__file__.startswith({str(tmp_path)!r})"
    )
    environment = {**os.environ, "HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null/none"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path)


def test_importing_what_does_not_decode_does_not_import_numba():
    code = (
        "import sys; import merge_on_load.packing, merge_on_load.prepared, merge_on_load.building; "
        "assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
