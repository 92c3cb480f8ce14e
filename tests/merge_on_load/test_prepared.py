"""Prepared deltas: the same bits as `stream`, every refusal before the first write."""

import os
from pathlib import Path

import pytest
import torch

from merge_on_load import Checkpoint, Prepared, pack, prepare, prepared_size_bytes, stream
from merge_on_load.codecs import CODEC_NAMES
from merge_on_load.errors import CorruptPayload, MissingTensor, WrongBase
from merge_on_load.specs import row_count_and_width

CODECS = CODEC_NAMES


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


def prepared_from(base: Checkpoint, delta, file: Path) -> Prepared:
    prepare(base, delta, file)
    return Prepared.open(file)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_writing_gives_the_bits_that_streaming_gives(
    tmp_path, save, base_weights, tuned_weights, codec, dtype
):
    base = save("base", {name: one.to(torch.bfloat16) for name, one in base_weights.items()})
    tuned = save("tuned", {name: one.to(dtype) for name, one in tuned_weights.items()})
    checkpoint, delta = Checkpoint.open(base), pack(base, tuned, codec, tmp_path / "t.delta")

    prepared = prepared_from(checkpoint, delta, tmp_path / "prepared")

    assert prepared.names == checkpoint.names
    assert prepared.size_bytes == prepared_size_bytes(delta)
    assert prepared.size_bytes == (tmp_path / "prepared").stat().st_size
    for name, expected in stream(checkpoint, delta):
        out = torch.full(expected.shape, 7, dtype=expected.dtype)
        prepared.write(name, checkpoint.read(name), out)
        assert torch.equal(bits(out), bits(expected)), name


@pytest.mark.parametrize("codec", CODECS)
def test_rows_are_written_alone_and_nothing_beside_them(tmp_path, base, tuned, codec):
    checkpoint, delta = Checkpoint.open(base), pack(base, tuned, codec, tmp_path / "t.delta")
    prepared = prepared_from(checkpoint, delta, tmp_path / "prepared")
    for name, expected in stream(checkpoint, delta):
        row_count, width = row_count_and_width(tuple(expected.shape))
        live = torch.full((row_count + 2, width), 7, dtype=expected.dtype)
        for rows in (slice(0, row_count // 2), slice(row_count // 2, row_count)):
            prepared.write(name, checkpoint.read(name), live[1:-1][rows], rows)

        assert torch.equal(bits(live[1:-1]), bits(expected)), name
        assert bool((live[0] == 7).all()) and bool((live[-1] == 7).all())


def test_it_lives_in_memory_without_a_name(tmp_path, base, tuned):
    checkpoint, delta = Checkpoint.open(base), pack(base, tuned, "onebit", tmp_path / "t.delta")
    descriptor = os.memfd_create("prepared")
    prepared = prepared_from(checkpoint, delta, Path(f"/proc/self/fd/{descriptor}"))
    os.close(descriptor)

    for name, expected in stream(checkpoint, delta):
        out = torch.empty_like(expected)
        prepared.write(name, checkpoint.read(name), out)
        assert torch.equal(out, expected)


def test_onebit_takes_a_fraction_and_an_unchanged_tensor_nothing(tmp_path, save):
    weights = {"a.weight": torch.randn(64, 512).bfloat16(), "b.weight": torch.randn(900, 900)}
    base = save("base", weights)
    tuned = save("tuned", weights | {"a.weight": weights["a.weight"] * 1.01})

    delta = pack(base, tuned, "onebit", tmp_path / "t.delta")

    payload_bytes = 64 * 512 // 8 + 4 * 64
    assert payload_bytes < prepared_size_bytes(delta) < payload_bytes + 1000


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_wrong_is_found_while_preparing(
    tmp_path, save, base, tuned, base_weights, flip, codec
):
    delta = pack(base, tuned, codec, tmp_path / "t.delta")
    file = tmp_path / "prepared"
    other = base_weights | {"model.norm.weight": torch.zeros(24).bfloat16()}
    with pytest.raises(WrongBase):
        prepare(Checkpoint.open(save("other", other)), delta, file)
    flip(delta.path / "payload-00001.safetensors", -1)
    with pytest.raises(CorruptPayload, match="payload-00001"):
        prepare(Checkpoint.open(base), delta, file)

    assert not file.exists()


def test_a_half_written_file_is_not_opened(tmp_path, base, tuned, monkeypatch):
    checkpoint, delta = Checkpoint.open(base), pack(base, tuned, "onebit", tmp_path / "t.delta")
    payload = type(delta).payload

    def broken(self, name):
        if name == "model.layers.0.mlp.up_proj.weight":
            raise CorruptPayload("broken on purpose")
        return payload(self, name)

    monkeypatch.setattr(type(delta), "payload", broken)
    with pytest.raises(CorruptPayload, match=r"on purpose.*t\.delta.*up_proj"):
        prepare(checkpoint, delta, tmp_path / "prepared")

    with pytest.raises(CorruptPayload):
        Prepared.open(tmp_path / "prepared")


def test_files_of_another_kind_are_not_opened(tmp_path, base):
    with pytest.raises(CorruptPayload, match="not a prepared delta"):
        Prepared.open(base / "model.safetensors")


def test_a_place_that_does_not_fit_is_left_alone(tmp_path, base, tuned):
    checkpoint, delta = Checkpoint.open(base), pack(base, tuned, "int8", tmp_path / "t.delta")
    prepared = prepared_from(checkpoint, delta, tmp_path / "prepared")
    name = "model.layers.0.mlp.up_proj.weight"
    weight = checkpoint.read(name)
    places = {
        "dtype": torch.ones(37, 24),
        "size": torch.ones(36, 24).bfloat16(),
        "contiguous": torch.ones(24, 37).bfloat16().T,
    }
    for out in places.values():
        with pytest.raises(ValueError, match="up_proj"):
            prepared.write(name, weight, out)
        assert bool((out == 1).all())
    with pytest.raises(MissingTensor, match=r"no\.such"):
        prepared.write("no.such", weight, weight.clone())
