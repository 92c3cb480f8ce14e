"""Reading and writing Hugging Face directories."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from merge_on_load import Checkpoint, CheckpointWriter, TensorSpec
from merge_on_load.errors import (
    CorruptPayload,
    MissingTensor,
    NotACheckpoint,
    OutputExists,
    ShapeMismatch,
)
from merge_on_load.tensors import spec_of


def write(out, tensors, **options):
    specs = {name: spec_of(tensor) for name, tensor in tensors.items()}
    with CheckpointWriter.open(out, specs, **options) as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor)


def odd_tensors():
    return {
        "a": torch.arange(7, dtype=torch.uint8),
        "b": torch.randn(3, 5, dtype=torch.float32),
        "c": torch.randn(3, 1).to(torch.bfloat16),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.empty(0, 4),
        "flags": torch.tensor([True, False, True]),
        "turned": torch.randn(4, 6).T,
    }


def test_a_checkpoint_tells_names_specs_and_side_files(base, base_weights):
    checkpoint = Checkpoint.open(base)

    assert sorted(checkpoint.names) == sorted(base_weights)
    assert checkpoint.spec("model.norm.weight") == TensorSpec("BF16", (24,))
    assert checkpoint.size_bytes == sum(weight.nbytes for weight in base_weights.values())
    assert list(checkpoint.side_files) == ["config.json"]
    for name, weight in base_weights.items():
        assert torch.equal(checkpoint.read(name), weight)
    with pytest.raises(MissingTensor, match="nowhere"):
        checkpoint.read("nowhere")


def test_tensors_lie_where_their_raw_bytes_do(base, base_weights):
    checkpoint = Checkpoint.open(base)
    name = max(base_weights, key=lambda one: base_weights[one].numel())
    raw, tensor = checkpoint.raw(name), checkpoint.read(name)

    assert tensor.data_ptr() == raw.ctypes.data
    assert not raw.flags.writeable


def test_a_tensor_that_is_changed_changes_no_file(base, base_weights):
    name = next(iter(base_weights))

    Checkpoint.open(base).read(name).zero_()

    assert torch.equal(Checkpoint.open(base).read(name), base_weights[name])
    assert bool(base_weights[name].any())


def test_tensors_of_a_file_that_is_not_aligned_are_read(base, base_weights, misalign):
    misalign(base / "model.safetensors")

    checkpoint = Checkpoint.open(base)

    for name, tensor in base_weights.items():
        assert torch.equal(checkpoint.read(name), tensor), name


def test_the_fingerprint_does_not_depend_on_sharding_or_order(save, base_weights):
    backwards = dict(reversed(base_weights.items()))
    prints = {
        Checkpoint.open(save(f"s{count}", tensors, shard_count=count)).fingerprint()
        for count, tensors in [(1, base_weights), (2, base_weights), (3, backwards)]
    }

    assert len(prints) == 1


@pytest.mark.parametrize("change", ["value", "name", "dtype", "shape"])
def test_the_fingerprint_depends_on_all_else(save, base_weights, change):
    changed = dict(base_weights)
    weight = changed.pop("model.norm.weight")
    if change == "value":
        weight = weight.clone()
        weight.view(torch.int16)[0] ^= 1
    dtype = torch.int16 if change == "dtype" else weight.dtype
    shape = (4, 6) if change == "shape" else (24,)
    name = "model.other.weight" if change == "name" else "model.norm.weight"
    changed[name] = weight.view(dtype).reshape(shape)

    prints = [
        Checkpoint.open(save(n, w)).fingerprint() for n, w in (("a", base_weights), ("b", changed))
    ]

    assert prints[0] != prints[1]


@pytest.mark.parametrize("limit_bytes", [1, 40, 100, 10**9])
def test_what_is_written_reads_back_for_any_shard_limit(tmp_path, limit_bytes):
    tensors = odd_tensors()

    write(tmp_path / "out", tensors, shard_limit_bytes=limit_bytes)

    checkpoint = Checkpoint.open(tmp_path / "out")
    for name, tensor in tensors.items():
        assert torch.equal(checkpoint.read(name), tensor)
        assert checkpoint.spec(name) == spec_of(tensor)
    assert not list(tmp_path.glob(".*"))


def test_a_single_file_is_what_the_reference_reader_reads(tmp_path):
    tensors = odd_tensors()

    write(tmp_path / "out", tensors)

    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_shards_are_named_and_indexed_as_hugging_face_does(tmp_path):
    tensors = {f"w{i}": torch.full((10,), float(i)) for i in range(5)}

    write(tmp_path / "out", tensors, shard_limit_bytes=80)

    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 200}
    assert index["weight_map"] == {
        "w0": "model-00001-of-00003.safetensors",
        "w1": "model-00001-of-00003.safetensors",
        "w2": "model-00002-of-00003.safetensors",
        "w3": "model-00002-of-00003.safetensors",
        "w4": "model-00003-of-00003.safetensors",
    }


def test_an_error_while_writing_leaves_nothing(tmp_path):
    specs = {"a": TensorSpec("F32", (4,)), "b": TensorSpec("F32", (4,))}

    with pytest.raises(ZeroDivisionError), CheckpointWriter.open(tmp_path / "out", specs) as writer:
        writer.add("a", torch.ones(4))
        1 / 0  # noqa: B018 - the error under test
    with (
        pytest.raises(MissingTensor, match="tensor: b"),
        CheckpointWriter.open(tmp_path / "out", specs) as writer,
    ):
        writer.add("a", torch.ones(4))

    assert list(tmp_path.iterdir()) == []


def test_a_writer_takes_each_planned_tensor_once(tmp_path):
    specs = {"a": TensorSpec("F32", (4,))}

    with CheckpointWriter.open(tmp_path / "out", specs) as writer:
        with pytest.raises(ShapeMismatch, match=r"F32\[4\].*F32\[5\]"):
            writer.add("a", torch.ones(5))
        with pytest.raises(MissingTensor, match="tensor: b"):
            writer.add("b", torch.ones(4))
        writer.add("a", torch.ones(4))
        with pytest.raises(MissingTensor, match="tensor: a"):
            writer.add("a", torch.ones(4))


def test_an_existing_output_is_kept_unless_told_otherwise(tmp_path):
    write(tmp_path / "out", {"a": torch.ones(4)})

    with pytest.raises(OutputExists, match="out"):
        write(tmp_path / "out", {"a": torch.zeros(4)})
    assert torch.equal(Checkpoint.open(tmp_path / "out").read("a"), torch.ones(4))

    write(tmp_path / "out", {"a": torch.zeros(4)}, overwrite=True)
    assert torch.equal(Checkpoint.open(tmp_path / "out").read("a"), torch.zeros(4))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_overwriting_spares_what_is_not_ours(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")

    with pytest.raises(OutputExists, match="neither"):
        write(tmp_path / "out", {"a": torch.zeros(4)}, overwrite=True)

    assert (tmp_path / "out" / "thesis.tex").read_text() == "precious"


def test_what_is_no_checkpoint_is_refused_by_name(tmp_path, save, base_weights):
    with pytest.raises(NotACheckpoint, match="nowhere"):
        Checkpoint.open(tmp_path / "nowhere")
    with pytest.raises(NotACheckpoint, match=tmp_path.name):
        Checkpoint.open(tmp_path)

    path = save("sharded", base_weights, shard_count=2)
    (path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(NotACheckpoint, match="model-00002-of-00002"):
        Checkpoint.open(path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 3}', "{", "\xff"])
def test_a_malformed_index_is_refused(save, base_weights, content):
    path = save("sharded", base_weights, shard_count=2)
    (path / "model.safetensors.index.json").write_text(content, encoding="latin-1")

    with pytest.raises(NotACheckpoint, match=r"index\.json"):
        Checkpoint.open(path)


def test_an_index_and_its_shards_must_agree(save, base_weights):
    path = save("sharded", base_weights, shard_count=2)
    file = path / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    lost = index["weight_map"].pop("model.norm.weight")
    file.write_text(json.dumps(index))
    with pytest.raises(NotACheckpoint, match=r"model\.norm\.weight"):
        Checkpoint.open(path)

    index["weight_map"] |= {"model.norm.weight": lost, "ghost": lost}
    file.write_text(json.dumps(index))
    with pytest.raises(MissingTensor, match="ghost"):
        Checkpoint.open(path)

    index["weight_map"]["ghost"] = "../elsewhere.safetensors"
    file.write_text(json.dumps(index))
    with pytest.raises(NotACheckpoint, match="elsewhere"):
        Checkpoint.open(path)


@pytest.mark.parametrize("kept_bytes", [0, 5, 20, 300, -1])
def test_a_truncated_file_is_refused_by_name(base, kept_bytes):
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept_bytes])

    with pytest.raises(CorruptPayload, match=r"model\.safetensors"):
        Checkpoint.open(base)


def test_a_malformed_header_is_refused_by_name(base):
    file = base / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[9] ^= 0xFF
    file.write_bytes(content)

    with pytest.raises(CorruptPayload, match=r"model\.safetensors"):
        Checkpoint.open(base)
