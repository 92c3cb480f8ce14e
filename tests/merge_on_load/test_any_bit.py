"""A flipped bit anywhere in a delta is found and named, by whatever reads it."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merge_on_load import Checkpoint, Delta, load, pack, stream, verify
from merge_on_load.codecs import CODEC_NAMES
from merge_on_load.errors import MergeError


def streamed(base, delta):
    list(stream(Checkpoint.open(base), Delta.open(delta)))


def loaded(base, delta):
    opened = Checkpoint.open(base)
    targets = {name: torch.empty_like(opened.read(name)) for name in opened.names}
    load(opened, Delta.open(delta), targets)


@pytest.mark.parametrize("read", [streamed, verify])
@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_a_flipped_bit_is_found_and_its_file_named(tmp_path, base, tuned, codec, read):
    delta = pack(base, tuned, codec, tmp_path / "t.delta").path
    read(base, delta)
    files = sorted(path for path in delta.rglob("*") if path.is_file())

    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def flipped(data):
        file = data.draw(st.sampled_from(files))
        intact = file.read_bytes()
        bit = data.draw(st.integers(0, 8 * len(intact) - 1))
        altered = bytearray(intact)
        altered[bit // 8] ^= 1 << bit % 8
        file.write_bytes(altered)
        try:
            with pytest.raises(MergeError) as caught:
                read(base, delta)
        finally:
            file.write_bytes(intact)
        assert file.name in str(caught.value)

    flipped()


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_loading_finds_it_in_whatever_it_reads(tmp_path, base, tuned, codec):
    """It reads tensors alone, each with a digest of its own, and not what lies between them."""
    delta = pack(base, tuned, codec, tmp_path / "t.delta")
    payload = next(delta.path.glob("*.safetensors"))
    intact = payload.read_bytes()
    begin = 8 + int.from_bytes(intact[:8], "little")

    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(8 * begin, 8 * len(intact) - 1))
    def flipped(bit):
        altered = bytearray(intact)
        altered[bit // 8] ^= 1 << bit % 8
        payload.write_bytes(altered)
        with pytest.raises(MergeError, match=payload.name):
            loaded(base, delta.path)

    flipped()
