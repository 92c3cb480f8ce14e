"""Loading into memory that is there already gives what `stream` gives."""

import pytest
import torch

from merge_on_load import Checkpoint, Delta, load, pack, stream
from merge_on_load.codecs import CODEC_NAMES
from merge_on_load.errors import CorruptPayload, MissingTensor, ShapeMismatch, WrongBase


def empty(expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.full_like(tensor, 7) for name, tensor in expected.items()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.fixture
def packed(tmp_path, base, tuned):
    return pack(base, tuned, "onebit", tmp_path / "t.delta").path


@pytest.mark.parametrize("codec", [*CODEC_NAMES, None])
def test_it_gives_what_stream_gives(tmp_path, base, tuned, codec):
    delta = codec and pack(base, tuned, codec, tmp_path / "t.delta")
    expected = dict(stream(Checkpoint.open(base), delta or None))
    found = empty(expected)

    load(Checkpoint.open(base), delta and Delta.open(delta.path), found)

    assert_same(found, expected)


def test_one_large_tensor_beside_small_ones(tmp_path, save):
    random = torch.Generator().manual_seed(0)
    before = {"big.weight": torch.randn(900, 700, generator=random).bfloat16()}
    before |= {f"{k}.weight": torch.randn(8, 8, generator=random).bfloat16() for k in range(5)}
    after = {name: one + torch.randn(one.shape, generator=random) for name, one in before.items()}
    base = save("base", before)
    tuned = save("tuned", {name: one.bfloat16() for name, one in after.items()})
    for codec in ("lossless", "int4"):
        delta = pack(base, tuned, codec, tmp_path / f"{codec}.delta")
        expected = dict(stream(Checkpoint.open(base), delta))
        found = empty(expected)

        load(Checkpoint.open(base), delta, found)

        assert_same(found, expected)


def test_targets_may_be_of_another_dtype_and_lie_apart(base, packed):
    delta = Delta.open(packed)
    expected = dict(stream(Checkpoint.open(base), delta))
    found = {
        name: torch.zeros(2 * one.numel())[::2].view(one.shape) for name, one in expected.items()
    }

    load(Checkpoint.open(base), delta, found)

    assert_same(found, {name: one.float() for name, one in expected.items()})


def test_parameters_are_filled(base, packed):
    expected = dict(stream(Checkpoint.open(base), Delta.open(packed)))
    found = {name: torch.nn.Parameter(one.float()) for name, one in empty(expected).items()}

    load(Checkpoint.open(base), Delta.open(packed), found)

    assert_same(found, {name: one.float() for name, one in expected.items()})


@pytest.mark.parametrize("where", [0.3, 0.6, 0.99])
def test_an_altered_payload_is_refused(base, packed, flip, where):
    targets = empty(dict(stream(Checkpoint.open(base), None)))
    file = packed / "payload-00001.safetensors"
    flip(file, int(file.stat().st_size * where))

    with pytest.raises(CorruptPayload):
        load(Checkpoint.open(base), Delta.open(packed), targets)


def test_another_base_is_refused(tuned, packed):
    targets = empty(dict(stream(Checkpoint.open(tuned), None)))

    with pytest.raises(WrongBase):
        load(Checkpoint.open(tuned), Delta.open(packed), targets)


def test_targets_that_do_not_fit_are_refused(base, packed):
    opened = Checkpoint.open(base), Delta.open(packed)

    with pytest.raises(ShapeMismatch, match=r"model\.norm\.weight"):
        load(*opened, {"model.norm.weight": torch.zeros(25)})
    with pytest.raises(MissingTensor, match=r"no\.such"):
        load(*opened, {"no.such": torch.zeros(25)})


def test_a_chain_is_loaded_as_it_is_streamed(tmp_path, base, tuned, packed):
    parts = dict(stream(Checkpoint.open(base), Delta.open(packed)))
    last = pack(base, tuned, "int4", tmp_path / "last.delta", parent=packed)
    expected = dict(stream(Checkpoint.open(base), last))
    found = empty(expected)

    load(Checkpoint.open(base), Delta.open(last.path), found)

    assert_same(found, expected)
    assert any(not torch.equal(expected[name], parts[name]) for name in parts)


def test_a_base_that_is_not_aligned_gives_the_same(base, packed, misalign):
    built = stream(Checkpoint.open(base), Delta.open(packed))
    expected = {name: one.clone() for name, one in built}  # some are mapped from the file
    misalign(base / "model.safetensors")
    found = empty(expected)

    load(Checkpoint.open(base), Delta.open(packed), found)

    assert_same(found, expected)
