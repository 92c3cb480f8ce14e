"""What packing and opening refuse: inputs that do not fit, and deltas that were altered."""

import json

import pytest
import torch

from merge_on_load import Checkpoint, Delta, MergeError, pack, stream, unpack, verify
from merge_on_load.errors import (
    CorruptPayload,
    MissingTensor,
    NonFinite,
    NotACheckpoint,
    NotADelta,
    OutputExists,
    ShapeMismatch,
    UnknownCodec,
    UnknownVersion,
    UnsupportedDtype,
    WrongBase,
)
from merge_on_load.manifest import seal


def test_another_base_is_refused_and_both_are_named(tmp_path, save, base, tuned, base_weights):
    delta = pack(base, tuned, "lossless", tmp_path / "t.delta")
    changed = {name: weight.clone() for name, weight in base_weights.items()}
    changed["model.norm.weight"].view(torch.int16)[3] ^= 1
    other = save("other", changed)

    with pytest.raises(WrongBase, match=r"other.*expected.*found") as caught:
        stream(Checkpoint.open(other), delta)
    assert caught.value.expected == delta.base_fingerprint
    with pytest.raises(WrongBase):
        unpack(other, delta.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tensors_must_be_the_same_set(tmp_path, save, base, base_weights):
    fewer = {name: w for name, w in base_weights.items() if name != "model.norm.weight"}
    more = base_weights | {"lm_head.weight": torch.ones(2, 2)}

    with pytest.raises(MissingTensor, match=r"fewer.*model\.norm\.weight"):
        pack(base, save("fewer", fewer), "lossless", tmp_path / "t.delta")
    with pytest.raises(MissingTensor, match=r"lm_head\.weight"):
        pack(base, save("more", more), "lossless", tmp_path / "t.delta")
    assert not (tmp_path / "t.delta").exists()


@pytest.mark.parametrize("other", [torch.ones(25).bfloat16(), torch.ones(24).to(torch.int16)])
def test_shapes_and_kinds_must_agree(tmp_path, save, base, base_weights, other):
    tuned = save("tuned", base_weights | {"model.norm.weight": other})

    with pytest.raises(ShapeMismatch, match=r"model\.norm\.weight.*BF16\[24\]"):
        pack(base, tuned, "lossless", tmp_path / "t.delta")


@pytest.mark.parametrize("codec", ["int8", "onebit"])
def test_non_finite_weights_are_refused_by_name(tmp_path, save, base, tuned_weights, codec):
    name = "model.layers.0.mlp.up_proj.weight"
    poisoned = tuned_weights | {name: tuned_weights[name].clone()}
    poisoned[name][3, 3] = float("nan")
    tuned = save("poisoned", poisoned)

    with pytest.raises(NonFinite, match="up_proj"):
        pack(base, tuned, codec, tmp_path / "t.delta")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "poisoned"]

    delta = pack(base, tuned, "lossless", tmp_path / "t.delta")
    assert bool(dict(stream(Checkpoint.open(base), delta))[name][3, 3].isnan())


def test_a_result_that_overflows_is_refused(tmp_path, save):
    base = save("base", {"a.weight": torch.full((1, 2), 60000.0).half()})
    tuned = save("tuned", {"a.weight": torch.tensor([[65504.0, -65504.0]]).half()})

    with pytest.raises(NonFinite, match=r"a\.weight"):
        pack(base, tuned, "onebit", tmp_path / "t.delta")


def test_outputs_are_not_replaced_by_accident(tmp_path, base, tuned):
    delta = pack(base, tuned, "lossless", tmp_path / "t.delta")

    with pytest.raises(OutputExists):
        pack(base, tuned, "int8", tmp_path / "t.delta")
    assert Delta.open(tmp_path / "t.delta").digest == delta.digest
    assert pack(base, tuned, "int8", tmp_path / "t.delta", overwrite=True).codec == "int8"
    for path in (base, tuned):
        with pytest.raises(OutputExists, match="own input"):
            pack(base, tuned, "int8", path, overwrite=True)
    with pytest.raises(OutputExists, match="own input"):
        unpack(base, tmp_path / "t.delta", base, overwrite=True)


def test_inputs_of_the_wrong_kind_are_refused(tmp_path, base, tuned):
    with pytest.raises(NotACheckpoint):
        pack(tmp_path, tuned, "lossless", tmp_path / "t.delta")
    with pytest.raises(NotADelta, match="base"):
        Delta.open(base)
    with pytest.raises(UnknownCodec, match="zip"):
        pack(base, tuned, "zip", tmp_path / "t.delta")
    with pytest.raises(UnknownCodec, match="colour"):
        pack(base, tuned, "int8", tmp_path / "t.delta", settings={"colour": 1})


def assert_refused(tmp_path, base, delta, kinds=(MergeError,)):
    with pytest.raises(kinds) as caught:
        unpack(base, delta, tmp_path / "out")
    assert not [
        path for path in tmp_path.iterdir() if path.name.endswith("out") or "partial" in path.name
    ]
    return caught.value


@pytest.mark.parametrize("where", range(0, 100, 4))
def test_any_altered_byte_of_any_file_is_refused_by_name(tmp_path, save, base, tuned, flip, where):
    (tuned / "config.json").write_text('{"changed": 1}')
    delta = pack(base, tuned, "onebit", tmp_path / "t.delta").path
    files = [path for path in sorted(delta.rglob("*")) if path.is_file()]
    assert len(files) == 3  # manifest, payload and a side file
    for file in files:
        intact = file.read_bytes()
        flip(file, where * len(intact) // 100)

        error = assert_refused(tmp_path, base, delta)

        assert file.name in str(error)
        file.write_bytes(intact)
    unpack(base, delta, tmp_path / "out")


def test_every_part_of_the_manifest_counts(tmp_path, base, tuned, flip):
    delta = pack(base, tuned, "onebit", tmp_path / "t.delta").path
    file = delta / "delta.json"
    intact = file.read_bytes()
    for position in range(0, len(intact), 7):
        flip(file, position)
        with pytest.raises(MergeError, match=r"delta\.json"):
            Delta.open(delta)
        file.write_bytes(intact)


@pytest.mark.parametrize("damage", ["missing", "truncated", "longer", "empty"])
def test_files_of_another_size_are_refused_on_opening(tmp_path, base, tuned, damage):
    delta = pack(base, tuned, "onebit", tmp_path / "t.delta").path
    for file in sorted(delta.glob("*.safetensors")):
        intact = file.read_bytes()
        damaged = {"truncated": intact[:-1], "longer": intact + b"\0", "empty": b""}
        file.unlink() if damage == "missing" else file.write_bytes(damaged[damage])

        with pytest.raises(CorruptPayload, match=file.name):
            Delta.open(delta)
        assert_refused(tmp_path, base, delta, (CorruptPayload,))
        file.write_bytes(intact)


def test_damage_between_opening_and_streaming_is_seen(tmp_path, base, tuned, flip):
    checkpoint, delta = Checkpoint.open(base), pack(base, tuned, "onebit", tmp_path / "t.delta")
    dict(stream(checkpoint, delta))
    flip(delta.path / "payload-00001.safetensors", -1)

    with pytest.raises(CorruptPayload, match="payload-00001"):
        stream(checkpoint, delta)


def resealed(delta, change):
    """Alter the manifest and seal it again, as another writer could."""
    file = delta / "delta.json"
    body = json.loads(file.read_bytes())
    del body["digest"]
    change(body)
    file.write_bytes(seal(body)[0])


def rename_codec(body):
    body["codings"][0] = "zip"


def rename_dtype(body):
    body["tensors"]["model.norm.weight"][1] = "F3"


def lead_outside(body):
    body["kept_files"]["../evil"] = {"blake3": "", "size_bytes": 0}


def point_nowhere(body):
    body["tensors"]["model.embed_tokens.weight"][3] = 7


def use_another_codec(body):
    tensors = body["tensors"]
    tensors["model.embed_tokens.weight"][0] = tensors["model.layers.0.mlp.up_proj.weight"][0]


def drop_a_tensor(body):
    del body["tensors"]["model.norm.weight"]


def shrink_a_tensor(body):
    body["tensors"]["model.layers.0.mlp.up_proj.weight"][2] = [37, 23]


@pytest.mark.parametrize(
    ("change", "kind", "word"),
    [
        (lambda body: body.update(version=99), UnknownVersion, "version"),
        (lambda body: body.update(format="zip"), NotADelta, "zip"),
        (lambda body: body.update(codec="zip"), UnknownCodec, "zip"),
        (lambda body: body.update(codings=["int8:colour=1"]), UnknownCodec, "colour"),
        (lambda body: body.update(codings=[]), CorruptPayload, "number 0 of 0"),
        (lambda body: body.pop("tensors"), CorruptPayload, "tensors"),
        (lambda body: body.update(tensors=[1]), CorruptPayload, "malformed"),
        (rename_codec, UnknownCodec, "zip"),
        (rename_dtype, UnsupportedDtype, "model.norm.weight"),
        (lead_outside, CorruptPayload, "evil"),
        (point_nowhere, CorruptPayload, "number 7 of 1"),
        (use_another_codec, CorruptPayload, "model.embed_tokens.weight"),
        (drop_a_tensor, MissingTensor, "model.norm.weight"),
        (shrink_a_tensor, MergeError, "up_proj"),
    ],
)
def test_a_well_sealed_but_wrong_manifest_is_refused(tmp_path, base, tuned, change, kind, word):
    delta = pack(base, tuned, "onebit", tmp_path / "t.delta").path
    resealed(delta, change)

    error = assert_refused(tmp_path, base, delta, (kind,))

    assert word in str(error)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b"null", b'{"format":'])
def test_what_is_no_manifest_is_refused(tmp_path, content):
    (tmp_path / "delta.json").write_bytes(content)

    with pytest.raises((NotADelta, CorruptPayload), match=r"delta\.json"):
        Delta.open(tmp_path)


def test_a_tensor_that_is_rebuilt_otherwise_is_named(tmp_path, base, tuned):
    delta = pack(base, tuned, "int8", tmp_path / "t.delta").path

    def forget(body):
        body["tensors"]["model.layers.0.mlp.up_proj.weight"][4] = "0" * 16

    resealed(delta, forget)

    with pytest.raises(CorruptPayload, match=r"up_proj"):
        verify(base, delta)


@pytest.mark.parametrize("codec", ["lossless", "int8", "onebit", "sparse"])
def test_damage_while_a_delta_is_read_is_seen(tmp_path, base, tuned, flip, codec):
    """After it was verified, before a tensor is built: it is mapped, and changes with the file."""
    checkpoint, delta = Checkpoint.open(base), pack(base, tuned, codec, tmp_path / "t.delta")
    pairs = stream(checkpoint, delta)
    flip(delta.path / "payload-00001.safetensors", -9)

    with pytest.raises(CorruptPayload, match="payload-00001"):
        dict(pairs)
