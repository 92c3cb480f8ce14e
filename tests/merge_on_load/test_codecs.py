"""Each codec by itself: encode one tensor, decode it, compare with a naive reference."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_on_load.codecs import (
    CODEC_NAMES,
    CodecSettings,
    Coding,
    Layout,
    frames,
    make_codec,
    steps,
)
from merge_on_load.errors import CorruptPayload, NonFinite, UnknownCodec, UnsupportedDtype
from merge_on_load.specs import TensorSpec
from merge_on_load.tensors import TORCH_DTYPES, raw_bytes, spec_of

SHAPES = st.lists(st.integers(0, 9), max_size=4).map(tuple)
LOSSY = ("BF16", "F16", "F32")
LOSSY_CODECS = tuple(name for name in CODEC_NAMES if name != "lossless")


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
    kept = CodecSettings().keep if codec == "sparse" else 1  # what stays is as much larger
    assert (rebuilt - tuned).abs().max() <= kept * tuned.abs().max()


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


@pytest.mark.parametrize("codec", LOSSY_CODECS)
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


@pytest.mark.parametrize("codec", LOSSY_CODECS)
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
        made.decode(base[:30, :100], payload, TensorSpec("F32", (30, 100)))
    for lost in payload:
        rest = {part: tensor for part, tensor in payload.items() if part != lost}
        with pytest.raises(CorruptPayload):
            made.decode(base, rest, TensorSpec("F32", (40, 300)))


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
    assert Layout.parse("onebit").coding(name, spec, spec).codec == expected


def test_embeddings_have_settings_of_their_own():
    spec = TensorSpec("BF16", (8, 8))
    layout = Layout.parse("sparse:keep=32,bits=1", "lowrank:rank4=8")

    head, matrix = (
        layout.coding(name, spec, spec) for name in ("lm_head.weight", "mlp.up_proj.weight")
    )

    assert head == Coding("lowrank", CodecSettings(rank4=8))
    assert matrix == Coding("sparse", CodecSettings(keep=32, bits=1))
    assert str(matrix) == "sparse:keep=32,bits=1"
    assert Coding.parse(str(head)) == head


@pytest.mark.parametrize(
    "text", ["zip", "sparse:keep", "sparse:keep=x", "sparse:keys=3", "int4:group_size=7"]
)
def test_a_coding_that_cannot_be_is_refused(text):
    with pytest.raises(UnknownCodec):
        Coding.parse(text)


def test_unknown_codecs_and_settings_are_refused():
    with pytest.raises(UnknownCodec, match="zip"):
        make_codec("zip", CodecSettings())
    wrong = ({"groups": 3}, {"group_size": 0}, {"group_size": "8"}, {"zstd_level": 99})
    for one in (*wrong, {"keep": 0}, {"bits": 8}, {"seed": -1}, {"rank4": -1}, {"residual": 2}):
        with pytest.raises(UnknownCodec):
            CodecSettings.from_dict(one)
    for codec in ("int2", "int3", "int4", "sparse"):
        with pytest.raises(UnknownCodec, match="multiple of 32"):
            make_codec(codec, CodecSettings(group_size=48))


@settings(deadline=None)
@given(SHAPES, st.sampled_from(LOSSY), st.sampled_from(LOSSY), st.sampled_from(LOSSY_CODECS))
def test_any_shape_and_dtype_comes_back_as_it_was(shape, base_dtype, dtype, codec):
    base, tuned = small_floats(shape, base_dtype, 0), small_floats(shape, dtype, 1)

    rebuilt = round_trip(codec, base, tuned)

    assert spec_of(rebuilt) == spec_of(tuned)
    assert bool(torch.isfinite(rebuilt).all())


@pytest.mark.parametrize("codec", LOSSY_CODECS)
def test_huge_values_of_one_size_come_back_near(codec):
    signs = torch.where(small_floats((64, 256), "F32", 0) >= 0, 1.0, -1.0)
    tuned = signs * 1e30

    rebuilt = round_trip(codec, torch.zeros(64, 256), tuned, keep=1, rank16=64, group_size=256)

    assert (rebuilt - tuned).abs().max() <= 0.51 * tuned.abs().max()


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


def test_sparse_keeps_one_of_each_block_scaled_up():
    base, tuned = torch.zeros(50, 203), torch.full((50, 203), 0.5)

    rebuilt = round_trip("sparse", base, tuned, keep=10, bits=1)

    for begin in range(0, 203, 10):
        assert (rebuilt[:, begin : begin + 10] != 0).sum(dim=1).eq(1).all()
    assert torch.allclose(rebuilt[rebuilt != 0], torch.tensor(5.0))
    places = (rebuilt[:, :200].reshape(50, 20, 10) != 0).sum(dim=(0, 1))
    assert places.min() > 60  # of 100: every column of a block has its turn


def test_sparse_takes_other_places_for_another_seed():
    base, tuned = torch.zeros(50, 200), torch.ones(50, 200)

    first, second = (round_trip("sparse", base, tuned, seed=seed) for seed in (0, 1))

    assert ((first != 0) & (second != 0)).sum() < 0.2 * (first != 0).sum()


def test_lowrank_finds_what_is_of_low_rank():
    random = torch.Generator().manual_seed(0)
    base = torch.zeros(300, 200)
    tuned = torch.randn(300, 4, generator=random) @ torch.randn(4, 200, generator=random)

    error = (round_trip("lowrank", base, tuned, rank16=4) - tuned).norm() / tuned.norm()

    assert error < 0.01


@pytest.mark.parametrize("shape", [(300, 200), (20, 30), (1, 7), (7, 1)])
def test_lowrank_is_the_nearest_of_its_rank(shape):
    """Eckart and Young: what is left are the singular values beyond."""
    tuned = small_floats(shape, "F32", 0)
    beyond = torch.linalg.svdvals(tuned)[16:].norm()

    error = (round_trip("lowrank", torch.zeros(shape), tuned, rank16=16) - tuned).norm()

    assert error <= 1.1 * beyond + 0.01 * tuned.norm()


def test_bits_of_lowrank_go_to_the_first_vectors():
    random = torch.Generator().manual_seed(0)
    sizes = 2.0 ** -torch.arange(40.0)
    tuned = torch.randn(256, 40, generator=random) * sizes @ torch.randn(40, 256, generator=random)
    base = torch.zeros(256, 256)

    mixed = round_trip("lowrank", base, tuned, rank8=4, rank2=8, group_size=256)
    even = round_trip("lowrank", base, tuned, rank2=24, group_size=256)

    assert (mixed - tuned).norm() < 0.5 * (even - tuned).norm()


def test_a_sign_beside_a_product_is_nearer():
    base, tuned = small_floats((128, 256), "BF16", 0), small_floats((128, 256), "F32", 1)

    alone = round_trip("lowrank", base, tuned, rank16=8)
    beside = round_trip("lowrank", base, tuned, rank16=8, residual=1)

    assert (beside - tuned).norm() < 0.65 * (alone - tuned).norm()


def test_topk_keeps_the_largest_of_each_row():
    base, tuned = torch.zeros(30, 1000), small_floats((30, 1000), "F32", 0)

    rebuilt = round_trip("topk", base, tuned, keep=20, bits=4)

    kept = rebuilt != 0
    assert kept.sum(dim=1).eq(50).all()
    smallest = torch.where(kept, tuned.abs(), math.inf).amin(dim=1)
    largest_left = torch.where(kept, 0, tuned.abs()).amax(dim=1)
    assert bool((smallest >= largest_left).all())
    assert ((rebuilt - tuned)[kept].norm() / tuned[kept].norm()) < 0.12


@pytest.mark.parametrize("places", [[0, 999], [254, 510], [255, 511], [600], [], list(range(1000))])
def test_far_places_are_found_again(places):
    tuned = torch.zeros(2, 1000)
    tuned[:, places] = 1.0
    keep = max(1, 1000 // max(1, len(places)))

    rebuilt = round_trip("topk", torch.zeros(2, 1000), tuned, keep=keep, bits=1)

    assert torch.equal(rebuilt[:, places], tuned[:, places])


def test_altered_places_are_refused():
    made = make_codec("topk", CodecSettings(keep=10))
    base, tuned = small_floats((40, 300), "F32", 0), small_floats((40, 300), "F32", 1)
    payload = dict(made.encode("w", base, tuned))
    payload |= frames.join([frames.compress(np.full(40 * 30, 20, np.uint8), 1)])

    with pytest.raises(CorruptPayload, match="do not fit their rows"):
        made.decode(base, payload, spec_of(tuned))
    payload |= frames.join([frames.compress(np.zeros(7, np.uint8), 1)])
    with pytest.raises(CorruptPayload, match="do not fit their rows"):
        made.decode(base, payload, spec_of(tuned))


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
