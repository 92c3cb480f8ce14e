"""Payloads as strings of bytes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_on_load.blobs import from_blob, to_blob
from merge_on_load.errors import CorruptPayload
from merge_on_load.specs import TensorSpec
from merge_on_load.tensors import TORCH_DTYPES, raw_bytes, spec_of

PARTS = st.dictionaries(
    st.text(min_size=1, max_size=9),
    st.tuples(st.sampled_from(sorted(TORCH_DTYPES)), st.lists(st.integers(0, 5), max_size=3)),
    max_size=5,
)


def some_part(dtype: str, shape: list[int], seed: int) -> torch.Tensor:
    spec = TensorSpec(dtype, tuple(shape))
    tensor = torch.zeros(spec.shape, dtype=spec.torch_dtype)
    data = np.random.default_rng(seed).integers(0, 2, spec.size_bytes, np.uint8)
    raw_bytes(tensor)[:] = data
    return tensor


@settings(deadline=None)
@given(PARTS)
def test_parts_come_back(parts):
    payload = {name: some_part(*part, number) for number, (name, part) in enumerate(parts.items())}

    blob = to_blob(payload)
    found = from_blob(blob)

    assert blob.numel() % 8 == 0
    assert list(found) == list(payload)
    for name, tensor in payload.items():
        assert spec_of(found[name]) == spec_of(tensor)
        assert np.array_equal(raw_bytes(found[name]), raw_bytes(tensor))


@pytest.mark.parametrize(
    "change",
    [
        lambda blob: blob[:-8],
        lambda blob: torch.cat([blob, blob[:8]]),
        lambda blob: blob[:3],
        lambda blob: blob[:0],
        lambda blob: blob.view(torch.int16),
        lambda blob: torch.cat([torch.full((4,), 255, dtype=torch.uint8), blob[4:]]),
        lambda blob: torch.cat([blob[:5], torch.tensor([0], dtype=torch.uint8), blob[6:]]),
    ],
)
def test_what_is_no_blob_is_refused(change):
    blob = to_blob({"signs": torch.ones(20, dtype=torch.uint8), "scale": torch.ones(5)})

    with pytest.raises(CorruptPayload, match="malformed payload"):
        from_blob(change(blob))


@pytest.mark.parametrize(
    "told", [b"{}  ", b"[1] ", b'[["a","U9",[1]]]    ', b'[["a","U8",[-1]]]   ', b'[["a","U8",9]] ']
)
def test_a_head_that_makes_no_sense_is_refused(told):
    text = told.ljust(-(-(len(told) + 4) // 8) * 8 - 4)
    head = len(text).to_bytes(4, "little") + text
    blob = torch.tensor(list(head + bytes(8)), dtype=torch.uint8)

    with pytest.raises(CorruptPayload, match="malformed payload"):
        from_blob(blob)
