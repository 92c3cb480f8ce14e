"""What holds for each codec: encode one tensor, decode it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_on_load.codecs import CODEC_NAMES, CodecSettings, Coding, Layout, make_codec
from merge_on_load.errors import CorruptPayload, NonFinite, UnknownCodec, UnsupportedDtype
from merge_on_load.specs import TensorSpec
from merge_on_load.tensors import spec_of
from support.codec_runs import LOSSY, LOSSY_CODECS, SHAPES, round_trip, small_floats


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


@pytest.mark.parametrize("codec", CODEC_NAMES)
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0), (2, 0, 3)])
def test_shapes_without_weights_come_back(codec, shape):
    base, tuned = small_floats(shape, "BF16", 0), small_floats(shape, "BF16", 1)

    assert spec_of(round_trip(codec, base, tuned)) == spec_of(tuned)


@pytest.mark.parametrize("codec", LOSSY_CODECS)
def test_huge_values_of_one_size_come_back_near(codec):
    signs = torch.where(small_floats((64, 256), "F32", 0) >= 0, 1.0, -1.0)
    tuned = signs * 1e30

    rebuilt = round_trip(codec, torch.zeros(64, 256), tuned, keep=1, rank16=64, group_size=256)

    assert (rebuilt - tuned).abs().max() <= 0.51 * tuned.abs().max()
