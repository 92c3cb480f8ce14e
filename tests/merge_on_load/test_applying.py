"""Base + payload into memory that is there already."""

import pytest
import torch

from merge_on_load import apply_into
from merge_on_load.codecs import CODEC_NAMES, CodecSettings, make_codec
from merge_on_load.errors import CorruptPayload
from merge_on_load.tensors import TORCH_DTYPES, spec_of


def weights(shape: tuple[int, ...], dtype: str, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random).to(TORCH_DTYPES[dtype])


@pytest.mark.parametrize("codec", CODEC_NAMES)
@pytest.mark.parametrize(("shape", "dtype"), [((1100, 1030), "BF16"), ((3, 7, 33), "F16")])
def test_what_is_applied_is_what_is_decoded(codec, shape, dtype):
    made, base, tuned = make_codec(codec, CodecSettings()), *pair(shape, dtype)
    payload, kept = made.encode("w", base, tuned), base.clone()
    expected = made.decode(base, payload, spec_of(tuned))
    out = torch.empty_like(tuned)

    apply_into(out, base, payload, made)
    assert torch.equal(out, expected)
    assert torch.equal(base, kept)

    apply_into(base, base, payload, made)
    assert torch.equal(base, expected)


def pair(shape: tuple[int, ...], dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
    return weights(shape, dtype, 0), weights(shape, dtype, 1)


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_the_result_may_have_another_dtype(codec):
    made, base, tuned = make_codec(codec, CodecSettings()), *pair((40, 70), "BF16")
    payload, out = made.encode("w", base, tuned.float()), torch.empty(40, 70)

    apply_into(out, base, payload, made)

    assert torch.equal(out, made.decode(base, payload, spec_of(out)))


@pytest.mark.parametrize("codec", ["onebit", "sparse", "lossless"])
def test_memory_that_is_shared_in_part_is_refused_unchanged(codec):
    made, memory = make_codec(codec, CodecSettings()), weights((60, 64), "F32", 0)
    base, out = memory[:40], memory[20:]
    payload, before = made.encode("w", base, weights((40, 64), "F32", 1)), memory.clone()

    with pytest.raises(ValueError, match="share a part of their memory"):
        apply_into(out, base, payload, made)
    with pytest.raises(ValueError, match="share a part of their memory"):
        apply_into(memory.view(torch.int32)[:40], base, payload, made)

    assert torch.equal(memory, before)


def test_what_cannot_be_written_to_is_refused():
    made, (base, tuned) = make_codec("int4", CodecSettings()), pair((40, 64), "F32")
    payload = made.encode("w", base, tuned)

    for out in (torch.empty(64, 40).T, torch.empty(40, 63), torch.empty((40, 64), device="meta")):
        with pytest.raises(ValueError, match=r"contiguous|CPU"):
            apply_into(out, base, payload, made)


@pytest.mark.parametrize("codec", [name for name in CODEC_NAMES if name != "lossless"])
def test_a_payload_of_another_tensor_changes_nothing(codec):
    made, (base, tuned) = make_codec(codec, CodecSettings()), pair((40, 64), "F32")
    payload, before = made.encode("w", base, tuned), base[:30].clone()
    other = base[:30].clone()

    with pytest.raises(CorruptPayload):
        apply_into(other, other, payload, made)

    assert torch.equal(other, before)
