"""Pack, stream and unpack through the public face, on real files."""

import json
import subprocess
import sys

import pytest
import torch

from merge_on_load import Checkpoint, Delta, MergeError, inspect, pack, stream, unpack
from merge_on_load.checkpoint import open_tensors
from merge_on_load.delta_writer import PayloadWriter
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

CODECS = ["lossless", "int8", "onebit"]


def rebuilt(base, delta):
    return dict(stream(Checkpoint.open(base), Delta.open(delta)))


def relative_error(base, tuned, found, names):
    error = sum(float((found[n].float() - tuned[n].float()).square().sum()) for n in names)
    change = sum(float((base[n].float() - tuned[n].float()).square().sum()) for n in names)
    return (error / change) ** 0.5


def test_lossless_gives_the_tuned_checkpoint_back(tmp_path, base, tuned):
    delta = pack(base, tuned, "lossless", tmp_path / "t.delta")

    unpack(base, delta.path, tmp_path / "again")

    again = Checkpoint.open(tmp_path / "again")
    assert again.fingerprint() == Checkpoint.open(tuned).fingerprint()
    assert again.fingerprint() == delta.lineage["model_fingerprint"]


@pytest.mark.parametrize("codec", CODECS)
def test_stream_and_unpack_agree_and_follow_the_base(tmp_path, base, tuned, codec):
    delta = pack(base, tuned, codec, tmp_path / "t.delta")
    unpack(base, delta.path, tmp_path / "out")
    written = Checkpoint.open(tmp_path / "out")

    pairs = list(stream(Checkpoint.open(base), delta))

    assert [name for name, _ in pairs] == Checkpoint.open(base).names
    for name, tensor in pairs:
        assert torch.equal(tensor, written.read(name))


@pytest.mark.parametrize("codec", CODECS)
def test_measured_errors_are_those_of_the_result(
    tmp_path, base, tuned, base_weights, tuned_weights, codec
):
    delta = pack(base, tuned, codec, tmp_path / "t.delta")

    found = rebuilt(base, delta.path)

    told = delta.measured["relative_error"]
    entries = delta.manifest.tensors
    for used in {"int8", "onebit"} & {entry.codec for entry in entries.values()}:
        names = [name for name, entry in entries.items() if entry.codec == used]
        expected = relative_error(base_weights, tuned_weights, found, names)
        assert told[used] == pytest.approx(expected, rel=1e-4)
    if codec == "lossless":
        assert told == {}
    payload_bytes = sum(stored.size_bytes for stored in delta.manifest.payloads.values())
    parameter_count = sum(weight.numel() for weight in base_weights.values())
    assert delta.measured["bits_per_parameter"] == 8 * payload_bytes / parameter_count


def test_stream_without_a_delta_is_the_base(base, base_weights):
    found = dict(stream(Checkpoint.open(base), None))

    assert found.keys() == base_weights.keys()
    assert all(torch.equal(found[name], base_weights[name]) for name in found)


def test_a_delta_does_not_care_how_its_base_is_sharded(tmp_path, save, base, tuned, base_weights):
    delta = pack(base, tuned, "lossless", tmp_path / "t.delta")

    unpack(save("sharded", base_weights, shard_count=3), delta.path, tmp_path / "out")

    assert Checkpoint.open(tmp_path / "out").fingerprint() == delta.lineage["model_fingerprint"]


def test_unchanged_tensors_cost_nothing(tmp_path, save, base, base_weights):
    copy = save("copy", base_weights, shard_count=2)

    delta = pack(base, copy, "onebit", tmp_path / "t.delta")

    assert {entry.codec for entry in delta.manifest.tensors.values()} == {"same"}
    assert [path.name for path in delta.path.iterdir()] == ["delta.json"]
    assert all(torch.equal(w, base_weights[n]) for n, w in rebuilt(base, delta.path).items())


def test_packing_twice_gives_the_same_delta(tmp_path, base, tuned):
    first = pack(base, tuned, "onebit", tmp_path / "a.delta")
    second = pack(base, tuned, "onebit", tmp_path / "b.delta")
    dated = pack(base, tuned, "onebit", tmp_path / "c.delta", created_at="2025-01-01")

    assert first.digest == second.digest != dated.digest
    assert dated.lineage["created_at"] == "2025-01-01"


def test_settings_are_kept_and_used(tmp_path, base, tuned, base_weights, tuned_weights):
    coarse = pack(base, tuned, "int8", tmp_path / "a.delta", settings={"group_size": 24})
    fine = pack(base, tuned, "int8", tmp_path / "b.delta", settings={"group_size": 3})

    errors = [
        relative_error(base_weights, tuned_weights, rebuilt(base, delta.path), base_weights)
        for delta in (coarse, fine)
    ]

    assert fine.manifest.settings.group_size == 3
    assert errors[1] <= errors[0]


def test_dtypes_may_differ_between_base_and_tuned(tmp_path, save, base, tuned_weights):
    wider = {name: weight.float() * 1.0001 for name, weight in tuned_weights.items()}
    tuned = save("wider", wider)
    for codec in CODECS:
        found = rebuilt(base, pack(base, tuned, codec, tmp_path / f"{codec}.delta").path)
        assert {tensor.dtype for tensor in found.values()} == {torch.float32}
        if codec == "lossless":
            assert all(torch.equal(found[name], wider[name]) for name in wider)


def test_side_files_are_those_of_the_tuned_model(tmp_path, save, base_weights, tuned_weights):
    base, tuned = save("base", base_weights), save("tuned", tuned_weights)
    (base / "tokenizer.json").write_text("shared")
    (tuned / "tokenizer.json").write_text("shared")
    (tuned / "config.json").write_text('{"changed": 1}')
    (tuned / "chat_template.jinja").write_text("new")
    (base / "only_base.json").write_text("not in the tuned model")
    (tuned / "README.md").write_text("prose stays")

    delta = pack(base, tuned, "lossless", tmp_path / "t.delta")
    unpack(base, delta.path, tmp_path / "out")

    assert sorted(delta.side_files) == ["chat_template.jinja", "config.json"]
    found = {
        name: file.read_text()
        for name, file in Checkpoint.open(tmp_path / "out").side_files.items()
    }
    assert found == {
        "tokenizer.json": "shared",
        "config.json": '{"changed": 1}',
        "chat_template.jinja": "new",
    }

    (base / "tokenizer.json").write_text("updated since")
    with pytest.raises(WrongBase, match=r"tokenizer\.json"):
        unpack(base, delta.path, tmp_path / "other")
    assert not (tmp_path / "other").exists()


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
    assert bool(rebuilt(base, delta.path)[name][3, 3].isnan())


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


@pytest.mark.parametrize("codec", CODECS)
def test_inspect_describes_a_delta(tmp_path, base, tuned, codec):
    delta = pack(base, tuned, codec, tmp_path / "t.delta")

    told = json.loads(json.dumps(inspect(delta.path)))

    size_bytes = sum(path.stat().st_size for path in delta.path.rglob("*") if path.is_file())
    assert told["kind"] == "delta"
    assert told["valid"] is True
    assert told["size_bytes"] == size_bytes == delta.size_bytes
    assert told["base"]["fingerprint"] == inspect(base)["fingerprint"]
    assert told["lineage"]["model_fingerprint"] == inspect(tuned)["fingerprint"]


def test_inspect_tells_that_a_payload_was_altered(tmp_path, base, tuned):
    delta = pack(base, tuned, "onebit", tmp_path / "t.delta")
    flip(delta.path / "u8-00001.safetensors", -1)

    told = inspect(delta.path)

    assert told["valid"] is False
    assert "u8-00001.safetensors" in told["problem"]


def flip(file, position):
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def assert_refused(tmp_path, base, delta, kinds=(MergeError,)):
    with pytest.raises(kinds) as caught:
        unpack(base, delta, tmp_path / "out")
    assert not [
        path for path in tmp_path.iterdir() if path.name.endswith("out") or "partial" in path.name
    ]
    return caught.value


@pytest.mark.parametrize("where", range(0, 100, 4))
def test_any_altered_byte_of_any_file_is_refused_by_name(tmp_path, save, base, tuned, where):
    (tuned / "config.json").write_text('{"changed": 1}')
    delta = pack(base, tuned, "onebit", tmp_path / "t.delta").path
    files = [path for path in sorted(delta.rglob("*")) if path.is_file()]
    assert len(files) == 6  # manifest, f32, i64, i8, u8 and a side file
    for file in files:
        intact = file.read_bytes()
        flip(file, where * len(intact) // 100)

        error = assert_refused(tmp_path, base, delta)

        assert file.name in str(error)
        file.write_bytes(intact)
    unpack(base, delta, tmp_path / "out")


def test_every_part_of_the_manifest_counts(tmp_path, base, tuned):
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


def test_damage_between_opening_and_streaming_is_seen(tmp_path, base, tuned):
    checkpoint, delta = Checkpoint.open(base), pack(base, tuned, "onebit", tmp_path / "t.delta")
    dict(stream(checkpoint, delta))
    flip(delta.path / "f32-00001.safetensors", -1)

    with pytest.raises(CorruptPayload, match="f32-00001"):
        stream(checkpoint, delta)


def resealed(delta, change):
    """Alter the manifest and seal it again, as another writer could."""
    file = delta / "delta.json"
    body = json.loads(file.read_bytes())
    del body["digest"]
    change(body)
    file.write_bytes(seal(body)[0])


def rename_codec(body):
    body["tensors"]["model.norm.weight"]["codec"] = "zip"


def rename_dtype(body):
    body["tensors"]["model.norm.weight"]["dtype"] = "F3"


def lead_outside(body):
    body["kept_files"]["../evil"] = {"sha256": "", "size_bytes": 0}


def point_nowhere(body):
    body["tensors"]["model.embed_tokens.weight"]["parts"]["scale"] = "u9-00001.safetensors"


def point_to_the_wrong_file(body):
    body["tensors"]["model.embed_tokens.weight"]["parts"]["scale"] = "u8-00001.safetensors"


def drop_a_tensor(body):
    del body["tensors"]["model.norm.weight"]


def shrink_a_tensor(body):
    body["tensors"]["model.layers.0.mlp.up_proj.weight"]["shape"] = [37, 23]


@pytest.mark.parametrize(
    ("change", "kind", "word"),
    [
        (lambda body: body.update(version=2), UnknownVersion, "version"),
        (lambda body: body.update(format="zip"), NotADelta, "zip"),
        (lambda body: body.update(codec="zip"), UnknownCodec, "zip"),
        (lambda body: body.update(settings={"colour": 1}), UnknownCodec, "colour"),
        (lambda body: body.pop("tensors"), CorruptPayload, "tensors"),
        (lambda body: body.update(tensors=[1]), CorruptPayload, "malformed"),
        (rename_codec, UnknownCodec, "model.norm.weight"),
        (rename_dtype, UnsupportedDtype, "model.norm.weight"),
        (lead_outside, CorruptPayload, "evil"),
        (point_nowhere, CorruptPayload, "u9-00001"),
        (point_to_the_wrong_file, CorruptPayload, "model.embed_tokens.weight"),
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


def test_payload_files_begin_anew_beyond_their_limit(tmp_path):
    with PayloadWriter(tmp_path, ["a", "b", "c"], file_limit_bytes=10) as writer:
        places = {
            name: writer.add(name, {"signs": torch.full((8,), i, dtype=torch.uint8)})["signs"]
            for i, name in enumerate("abc")
        }
        stored = writer.finish()

    assert places == {
        "a": "u8-00001.safetensors",
        "b": "u8-00001.safetensors",
        "c": "u8-00002.safetensors",
    }
    assert sorted(stored) == ["u8-00001.safetensors", "u8-00002.safetensors"]
    for i, name in enumerate("abc"):
        found = open_tensors(tmp_path / places[name]).get_tensor(f"{name}.signs")
        assert torch.equal(found, torch.full((8,), i, dtype=torch.uint8))


def test_importing_the_errors_does_not_import_torch():
    code = "import merge_on_load.errors, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_public_face_is_whole():
    import merge_on_load

    assert all(getattr(merge_on_load, name) for name in merge_on_load.__all__)
    with pytest.raises(AttributeError, match="unheard_of"):
        _ = merge_on_load.unheard_of
