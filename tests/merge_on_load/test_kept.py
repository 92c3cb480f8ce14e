"""Weights that stay of each row: short rows share words and scales, and come back row by row."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge_on_load.codecs import make_codec, steps
from merge_on_load.codecs.codec import CodecSettings
from merge_on_load.codecs.kept import Kept
from merge_on_load.errors import CorruptPayload
from merge_on_load.tensors import spec_of


@given(
    rows=st.integers(0, 40),
    count=st.integers(1, 300),
    bits=st.integers(1, 4),
    group_size=st.sampled_from((128, 256)),
)
def test_rows_come_back_as_they_were_quantised(rows, count, bits, group_size):
    kept = Kept(rows, count, group_size, bits)
    values = torch.randn(rows, count, generator=torch.Generator().manual_seed(rows * 301 + count))

    payload = kept.encode(values.numpy())
    parts = kept.expand(payload)

    assert {name: spec_of(part) for name, part in parts.items()} == kept.parts()
    stored = steps.dequantise_rows(
        steps.unpack(payload["packed"].numpy(), kept.gathered(values).shape[1], bits),
        payload["scale"].float().numpy(),
        kept.group_size,
        bits,
    )
    read = steps.dequantise_rows(
        steps.unpack(parts["packed"].numpy(), count, bits), parts["scale"].numpy(), group_size, bits
    )
    assert torch.equal(torch.from_numpy(read), kept.scattered(torch.from_numpy(stored)))


@pytest.mark.parametrize("codec", ["sparse", "topk"])
def test_short_rows_take_few_bytes_each(codec):
    """Eight weights of two bits of each row, which would not fill a word."""
    base, tuned = torch.zeros(512, 256), torch.randn(512, 256)

    payload = make_codec(codec, CodecSettings(group_size=256, keep=32)).encode("a", base, tuned)

    assert payload["packed"].nbytes + payload["scale"].nbytes < 512 * 2 * 1.2


def test_a_payload_of_another_shape_is_refused():
    payload = Kept(10, 8, 256, 2).encode(torch.zeros(10, 8).numpy())

    with pytest.raises(CorruptPayload):
        Kept(400, 8, 256, 2).expand(payload)
