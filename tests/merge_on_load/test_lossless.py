"""Bit-exact coding: its symbols, its tables, and what is altered."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_on_load import kernels
from merge_on_load.codecs import CodecSettings, make_codec, symbols
from merge_on_load.codecs.symbols import Tables
from merge_on_load.errors import CorruptPayload
from merge_on_load.tensors import TORCH_DTYPES, raw_bytes, spec_of
from support.codec_runs import LOSSY, SHAPES, random_bits, round_trip, small_floats

CODEC = make_codec("lossless", CodecSettings())


def moved(
    shape: tuple[int, ...], dtype: str = "BF16", size: float = 1e-3
) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    base = (torch.randn(shape, generator=random) * 0.02).to(TORCH_DTYPES[dtype])
    change = torch.randn(shape, generator=random) * size
    return base, (base.float() + change).to(TORCH_DTYPES[dtype])


def stored_bytes(base: torch.Tensor, tuned: torch.Tensor) -> int:
    return sum(part.nbytes for part in CODEC.encode("w", base, tuned).values())


@pytest.mark.parametrize("word_bits", [8, 16, 32])
@pytest.mark.parametrize("fine", [0, 1, 2])
def test_every_difference_is_in_the_range_of_its_symbol(word_bits, fine):
    letters = symbols.alphabet(word_bits, fine)
    edges = [
        sign * (1 << k) + beside for k in range(33) for sign in (1, -1) for beside in (-1, 0, 1)
    ]
    differences = {
        one % 2**word_bits for one in (*range(-300, 300), *range(0, 2**32, 7**8), *edges)
    }
    zero = np.zeros(1, f"<u{word_bits // 8}")
    for difference in differences:
        counts = np.zeros((2, letters.size), np.int64)
        tuned = np.array([difference], zero.dtype)
        kernels.count_symbols(zero, tuned, word_bits - 1, fine, counts)
        symbol = int(counts[0].argmax())

        within = (difference - int(letters.lowest[symbol])) % 2**word_bits
        assert 0 <= within < 1 << int(letters.extra[symbol]), difference


def test_coarser_counts_are_those_of_the_coarser_alphabet():
    base, tuned = (raw_bytes(one).view(np.uint16) for one in moved((300, 300), size=0.02))
    found = []
    for fine in (0, 1, 2):
        counts = np.zeros((512, symbols.alphabet(16, fine).size), np.int64)
        kernels.count_symbols(base, tuned, 7, fine, counts)
        found.append(counts)

    for fine in (1, 2):
        assert np.array_equal(symbols._coarser(found[fine], 16, fine), found[fine - 1])


@pytest.mark.parametrize("word_bits", [8, 16, 32])
def test_a_symbol_fits_a_byte(word_bits):
    assert symbols.alphabet(word_bits, symbols.finest(word_bits)).size <= 256


@pytest.mark.parametrize("dtype", ["I8", "I16", "I32", "I64", "BF16", "F64"])
def test_the_largest_differences_come_back(dtype):
    spec = TORCH_DTYPES[dtype]
    edges = torch.tensor([0, 1, -1, 2, 127, -128, 128, 2**15, -(2**15), 2**31, -(2**31), 2**63 - 1])
    every = edges.view(torch.uint8).view(spec)
    base, tuned = every.repeat(every.numel()), every.repeat_interleave(every.numel())

    rebuilt = CODEC.decode(base, CODEC.encode("w", base, tuned), spec_of(tuned))

    assert np.array_equal(raw_bytes(rebuilt), raw_bytes(tuned))


@settings(max_examples=50)
@given(st.integers(0, 2000), st.integers(1, 300), st.floats(0, 20), st.integers(0, 2**32))
def test_all_slots_are_given_away(most, size, steepness, seed):
    random = np.random.default_rng(seed)
    falling = np.exp(-steepness * np.arange(size) / size)
    counts = (random.integers(0, most + 1, size) * falling).astype(np.int64)

    shares = symbols.to_shares(counts)

    assert shares.sum() == kernels.SLOTS
    if counts.any():
        assert ((shares > 0) == (counts > 0)).all()


def test_tables_come_back():
    random = np.random.default_rng(0)
    size = symbols.alphabet(16, 2).size
    shares = np.stack([symbols.to_shares(random.integers(0, 9, size)) for _ in range(3)])
    tables = Tables(2, random.integers(0, 3, 256).astype(np.uint8), shares)

    found = symbols.from_bytes(symbols.to_bytes(tables), 256, 16)

    assert found.fine == 2
    assert np.array_equal(found.of_context, tables.of_context)
    assert np.array_equal(found.shares, shares)


def test_tables_of_another_kind_of_tensor_are_refused():
    of_bytes = CODEC.encode("w", *[torch.zeros(9, dtype=torch.int8)] * 2)
    base, tuned = moved((40, 300))
    payload = {**CODEC.encode("w", base, tuned), "tables": of_bytes["tables"]}

    with pytest.raises(CorruptPayload, match="tables"):
        CODEC.decode(base, payload, spec_of(tuned))


@settings(max_examples=300)
@given(st.data())
def test_what_is_altered_is_refused_or_decodes_to_something(data):
    """Digests find every altered byte before this does; here nothing may read or write beyond."""
    base, tuned = moved((40, 100))
    payload = dict(CODEC.encode("w", base, tuned))
    part = data.draw(st.sampled_from(sorted(payload)))
    altered = payload[part].clone()
    raw = raw_bytes(altered)
    raw[data.draw(st.integers(0, raw.size - 1))] ^= data.draw(st.integers(1, 255))
    payload[part] = altered

    try:
        found = CODEC.decode(base, payload, spec_of(tuned))
    except CorruptPayload:
        return
    assert spec_of(found) == spec_of(tuned)


@pytest.mark.parametrize("kept", [0, 10, 39, 40, 200])
def test_a_block_that_ends_early_is_refused(kept):
    base, tuned = moved((40, 100))
    payload = dict(CODEC.encode("w", base, tuned))
    payload["frames"] = payload["frames"][:kept].clone()
    payload["lengths"] = torch.tensor([kept])

    with pytest.raises(CorruptPayload, match="does not end"):
        CODEC.decode(base, payload, spec_of(tuned))


def test_a_base_of_other_bits_is_refused():
    base, tuned = moved((40, 100))
    payload = CODEC.encode("w", base, tuned)

    with pytest.raises(CorruptPayload, match="not for this base"):
        CODEC.decode(base.view(torch.int16).int(), payload, spec_of(tuned))


def test_it_needs_hardly_more_than_the_entropy_given_the_bases_exponent():
    base, tuned = moved((1000, 1000))
    words, new_words = (raw_bytes(one).view(np.uint16) for one in (base, tuned))
    exponents, differences = words >> 7 & 255, new_words - words
    expected_bits = 0.0
    for exponent in np.unique(exponents):
        counts = np.unique(differences[exponents == exponent], return_counts=True)[1]
        expected_bits -= float((counts * np.log2(counts / counts.sum())).sum())

    assert 8 * stored_bytes(base, tuned) < 1.03 * expected_bits


def test_what_hardly_moved_takes_next_to_nothing():
    base, tuned = moved((1000, 1000), size=2e-6)

    assert (base != tuned).float().mean() > 0.001
    assert stored_bytes(base, tuned) < 0.06 * tuned.nbytes
    assert stored_bytes(base, base) < 500


def test_noise_takes_hardly_more_than_itself():
    random = torch.Generator().manual_seed(0)
    base, tuned = (
        torch.randint(-(2**31), 2**31, (100_000,), generator=random).int() for _ in range(2)
    )

    assert stored_bytes(base, tuned) < 1.005 * tuned.nbytes


@settings(deadline=None)
@given(SHAPES, st.sampled_from(sorted(TORCH_DTYPES)), st.integers(0, 2**32))
def test_lossless_gives_every_bit_back(shape, dtype, seed):
    base, tuned = random_bits(shape, dtype, seed), random_bits(shape, dtype, seed + 1)

    rebuilt = round_trip("lossless", base, tuned)

    assert spec_of(rebuilt) == spec_of(tuned)
    assert np.array_equal(raw_bytes(rebuilt), raw_bytes(tuned))


@pytest.mark.parametrize("dtype", LOSSY)
def test_lossless_gives_every_bit_back_across_blocks(dtype):
    base = small_floats((1_100_003,), dtype, 0)
    tuned = base + small_floats((1_100_003,), dtype, 1, 1e-3)

    assert torch.equal(round_trip("lossless", base, tuned), tuned)


@settings(deadline=None)
@given(SHAPES, st.sampled_from(LOSSY), st.sampled_from(LOSSY), st.integers(0, 2**32))
def test_lossless_reconciles_float_dtypes(shape, base_dtype, dtype, seed):
    base, tuned = small_floats(shape, base_dtype, seed), small_floats(shape, dtype, seed + 1)

    rebuilt = round_trip("lossless", base, tuned)

    assert np.array_equal(raw_bytes(rebuilt), raw_bytes(tuned))


def test_lossless_makes_a_small_change_small():
    base = small_floats((1000, 1000), "BF16", 0)
    tuned = base + small_floats((1000, 1000), "BF16", 1, 1e-3)

    payload = make_codec("lossless", CodecSettings()).encode("w", base, tuned)

    assert sum(part.nbytes for part in payload.values()) < 0.4 * tuned.nbytes
