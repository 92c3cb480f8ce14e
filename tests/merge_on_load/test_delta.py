"""Pack, stream and unpack through the public face, on real files."""

import json
import subprocess
import sys

import pytest
import torch

from merge_on_load import Checkpoint, Delta, inspect, pack, repack, stream, unpack, verify
from merge_on_load.blobs import from_blob
from merge_on_load.checkpoint import open_tensors
from merge_on_load.codecs import CODEC_NAMES
from merge_on_load.delta_writer import PayloadWriter
from merge_on_load.errors import WrongBase

CODECS = CODEC_NAMES


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
    for used in {entry.codec for entry in entries.values()} - {"lossless", "same"}:
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

    assert fine.codings == {"int8:group_size=3": 3, "lossless": 1, "same": 1}
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


def test_inspect_tells_that_a_payload_was_altered(tmp_path, base, tuned, flip):
    delta = pack(base, tuned, "onebit", tmp_path / "t.delta")
    flip(delta.path / "payload-00001.safetensors", -1)

    told = inspect(delta.path)

    assert told["valid"] is False
    assert "payload-00001.safetensors" in told["problem"]


def test_payload_files_begin_anew_beyond_their_limit(tmp_path):
    with PayloadWriter(tmp_path, ["a", "b", "c"], file_limit_bytes=60) as writer:
        places = {
            name: writer.add(name, {"signs": torch.full((8,), i, dtype=torch.uint8)})[0]
            for i, name in enumerate("abc")
        }
        stored = writer.finish()

    assert places == {
        "a": "payload-00001.safetensors",
        "b": "payload-00001.safetensors",
        "c": "payload-00002.safetensors",
    }
    assert sorted(stored) == ["payload-00001.safetensors", "payload-00002.safetensors"]
    for i, name in enumerate("abc"):
        found = from_blob(open_tensors(tmp_path / places[name]).get_tensor(name))
        assert torch.equal(found["signs"], torch.full((8,), i, dtype=torch.uint8))


def test_importing_the_errors_does_not_import_torch():
    code = "import merge_on_load.errors, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_public_face_is_whole():
    import merge_on_load

    assert all(getattr(merge_on_load, name) for name in merge_on_load.__all__)
    with pytest.raises(AttributeError, match="unheard_of"):
        _ = merge_on_load.unheard_of


@pytest.mark.parametrize("codec", CODECS)
def test_a_delta_is_verified_to_the_last_bit_of_what_it_makes(tmp_path, base, tuned, codec):
    delta = pack(base, tuned, codec, tmp_path / "t.delta")
    unpack(base, delta.path, tmp_path / "out")

    found = verify(base, delta.path)

    assert found.fingerprint == Checkpoint.open(tmp_path / "out").fingerprint()
    assert found.tensor_count == len(Checkpoint.open(base).names)


def test_a_delta_is_moved_to_another_codec(tmp_path, base, tuned):
    first = pack(base, tuned, "lossless", tmp_path / "first.delta")

    again = repack(base, first.path, "int4:group_size=32", tmp_path / "again.delta")
    direct = pack(base, tuned, "int4:group_size=32", tmp_path / "direct.delta")

    told = again.lineage
    assert told["repacked_from"] == {"codec": "lossless", "digest": first.digest}
    assert told["model_fingerprint"] == direct.lineage["model_fingerprint"]
    assert again.measured == direct.measured
    assert again.side_files.keys() == direct.side_files.keys()
    expected = rebuilt(base, direct.path)
    assert all(torch.equal(w, expected[n]) for n, w in rebuilt(base, again.path).items())


def test_what_a_lossy_codec_lost_stays_lost(tmp_path, base, tuned):
    coarse = pack(base, tuned, "onebit", tmp_path / "coarse.delta")

    exact = repack(base, coarse.path, "lossless", tmp_path / "exact.delta")

    expected = rebuilt(base, coarse.path)
    assert all(torch.equal(w, expected[n]) for n, w in rebuilt(base, exact.path).items())
