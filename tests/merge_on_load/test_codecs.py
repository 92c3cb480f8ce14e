"""Each codec by itself: encode one tensor, decode it, compare with a naive reference."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_on_load.codecs import CODEC_NAMES, CodecSettings, codec_for, make_codec
from merge_on_load.errors import CorruptPayload, NonFinite, UnknownCodec, UnsupportedDtype
from merge_on_load.specs import TensorSpec
from merge_on_load.tensors import TORCH_DTYPES, raw_bytes, spec_of

SHAPES = st.lists(st.integers(0, 9), max_size=4).map(tuple)
LOSSY = ("BF16", "F16", "F32")


def random_bits(shape: tuple[int, ...], dtype: str, seed: int) -> torch.Tensor:
    """Any bit pattern: NaNs with payloads, denormals, -0.0, infinities."""
    spec = TensorSpec(dtype, shape)
    data = np.random.default_rng(seed).integers(0, 256, spec.size_bytes, dtype=np.uint8)
    if dtype == "BOOL":
        data &= 1
    tensor = torch.empty(shape, dtype=spec.torch_dtype)
    raw_bytes(tensor)[:] = data
    return tensor


def small_floats(shape: tuple[int, ...], dtype: str, seed: int, size: float = 1) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=random) * size).to(TORCH_DTYPES[dtype])


def round_trip(codec: str, base: torch.Tensor, tuned: torch.Tensor, **given: int) -> torch.Tensor:
    made = make_codec(codec, CodecSettings(**given))
    return made.decode(base, made.encode("w", base, tuned), spec_of(tuned))


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


@pytest.mark.parametrize("codec", CODEC_NAMES)
@pytest.mark.parametrize("size", [2.0**-149, 2.0**-140, 2.0**-126, 1e-20])
def test_denormal_changes_neither_fail_nor_grow(codec, size):
    base = torch.zeros(4, 300)
    tuned = small_floats((4, 300), "F32", 0) * size

    rebuilt = round_trip(codec, base, tuned)

    assert bool(torch.isfinite(rebuilt).all())
    assert (rebuilt - tuned).abs().max() <= tuned.abs().max()


@pytest.mark.parametrize("codec", CODEC_NAMES)
@pytest.mark.parametrize("dtype", LOSSY)
def test_no_change_gives_the_base_back(codec, dtype):
    base = small_floats((5, 130), dtype, 0)

    assert torch.equal(round_trip(codec, base, base.clone()), base)


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_encoding_twice_gives_the_same_bytes(codec):
    base, tuned = small_floats((900, 700), "BF16", 0), small_floats((900, 700), "BF16", 1)
    made = make_codec(codec, CodecSettings())

    first, second = made.encode("w", base, tuned), made.encode("w", base, tuned)

    assert first.keys() == second.keys()
    assert all(torch.equal(first[part], second[part]) for part in first)


@pytest.mark.parametrize("codec", ["int8", "onebit"])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["base", "tuned", "both"])
def test_lossy_codecs_refuse_what_is_not_finite(codec, poison, where):
    base, tuned = torch.zeros(3, 5), torch.ones(3, 5)
    if where in ("base", "both"):
        base[1, 2] = poison
    if where in ("tuned", "both"):
        tuned[1, 2] = poison

    with pytest.raises(NonFinite, match=r"layers\.3\.weight"):
        make_codec(codec, CodecSettings()).encode("layers.3.weight", base, tuned)


@pytest.mark.parametrize("codec", ["int8", "onebit"])
def test_lossy_codecs_refuse_integers(codec):
    whole = torch.ones(3, 5, dtype=torch.int64)

    with pytest.raises(UnsupportedDtype, match="I64"):
        make_codec(codec, CodecSettings()).encode("w", whole, whole)


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_a_payload_of_another_tensor_is_refused(codec):
    made = make_codec(codec, CodecSettings())
    base, tuned = small_floats((40, 300), "F32", 0), small_floats((40, 300), "F32", 1)
    payload = made.encode("w", base, tuned)

    with pytest.raises(CorruptPayload):
        made.decode(base[:, :100], payload, TensorSpec("F32", (40, 100)))
    for lost in payload:
        rest = {part: tensor for part, tensor in payload.items() if part != lost}
        with pytest.raises(CorruptPayload):
            made.decode(base, rest, TensorSpec("F32", (40, 300)))


def test_altered_frames_are_refused():
    made = make_codec("lossless", CodecSettings())
    base, tuned = small_floats((40, 300), "F32", 0), small_floats((40, 300), "F32", 1)
    payload = dict(made.encode("w", base, tuned))
    payload["frames"] = payload["frames"].clone()
    payload["frames"][0] ^= 0xFF

    with pytest.raises(CorruptPayload, match="zstd"):
        made.decode(base, payload, spec_of(tuned))


@pytest.mark.parametrize(
    ("name", "spec", "expected"),
    [
        ("model.layers.0.mlp.up_proj.weight", TensorSpec("BF16", (8, 8)), "onebit"),
        ("model.experts.gate_up_proj", TensorSpec("BF16", (2, 8, 8)), "onebit"),
        ("model.embed_tokens.weight", TensorSpec("BF16", (8, 8)), "int8"),
        ("transformer.wte.weight", TensorSpec("F32", (8, 8)), "int8"),
        ("lm_head.weight", TensorSpec("F16", (8, 8)), "int8"),
        ("embed_out.weight", TensorSpec("F16", (8, 8)), "int8"),
        ("model.norm.weight", TensorSpec("BF16", (8,)), "lossless"),
        ("some.scalar", TensorSpec("F32", ()), "lossless"),
        ("attn.mask", TensorSpec("BOOL", (8, 8)), "lossless"),
        ("double.weight", TensorSpec("F64", (8, 8)), "lossless"),
    ],
)
def test_onebit_spends_bits_where_they_matter(name, spec, expected):
    assert codec_for("onebit", name, spec, spec) == expected


def test_unknown_codecs_and_settings_are_refused():
    with pytest.raises(UnknownCodec, match="zip"):
        make_codec("zip", CodecSettings())
    for wrong in ({"groups": 3}, {"group_size": 0}, {"group_size": "8"}, {"zstd_level": 99}):
        with pytest.raises(UnknownCodec):
            CodecSettings.from_dict(wrong)
