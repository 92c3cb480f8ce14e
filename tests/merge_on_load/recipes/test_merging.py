"""Whole recipes on real checkpoints, compared with the same arithmetic done plainly."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from merge_on_load import pack
from merge_on_load.recipes import Merged, merge
from support.adapters import read_merged, write_adapter
from support.many_architectures import ARCHITECTURES, digest, load, tensors, write


@pytest.fixture
def run(tmp_path):
    """run(document, ..., **options) writes the recipe beside the models and merges it."""

    def write_and_merge(*documents, **options):
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump_all(documents))
        out = tmp_path / f"merged-{len(list(tmp_path.glob('merged-*')))}"
        merge(file, out, **options)
        return out

    return write_and_merge


@pytest.fixture
def models(tmp_path):
    """Three Llamas, `a`, `b` and `c`."""
    for seed, name in enumerate("abc"):
        write(tmp_path / name, seed=seed)
    return tmp_path


def linear(**weights):
    models = [{"model": name, "parameters": {"weight": w}} for name, w in weights.items()]
    return {"merge_method": "linear", "models": models, "parameters": {"normalize": False}}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_merges_and_loads(tmp_path, run, architecture):
    a, b = (tensors(write(tmp_path / name, architecture, i)) for i, name in enumerate("ab"))

    out = run(linear(a=0.75, b=0.25))

    assert_equal(tensors(out), {name: 0.75 * a[name] + 0.25 * b[name] for name in a})
    load(out, ARCHITECTURES[architecture][0])


def test_the_result_is_a_checkpoint_with_the_first_models_side_files(models, run):
    (models / "a" / "tokenizer.json").write_text('{"of": "a"}')
    (models / "b" / "tokenizer.json").write_text('{"of": "b"}')

    out = run({**linear(a=1, b=1), "dtype": "bfloat16"})

    assert (out / "tokenizer.json").read_text() == '{"of": "a"}'
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert {tensor.dtype for tensor in tensors(out).values()} == {torch.bfloat16}
    load(out)


def test_out_dtype_is_what_is_written(models, run):
    out = run({**linear(a=1, b=1), "dtype": "float32", "out_dtype": "float16"})

    a, b = tensors(models / "a"), tensors(models / "b")
    for name, found in tensors(out).items():
        assert torch.equal(found, (a[name] + b[name]).half())


def test_shards_and_single_files_merge(tmp_path, run):
    a = tensors(write(tmp_path / "a", seed=1, max_shard_size="40KB"))
    b = tensors(write(tmp_path / "b", seed=2))
    assert len(list((tmp_path / "a").glob("*.safetensors"))) > 1

    out = run(linear(a=1, b=1))

    assert_equal(tensors(out), {name: a[name] + b[name] for name in a})


def test_gradients_follow_the_layers_and_filters_the_names(models, run):
    document = linear(a=1, b=0)
    document["models"][1]["parameters"]["weight"] = [
        {"filter": "self_attn", "value": [0, 1]},
        {"filter": "embed", "value": [5, 6]},
        {"filter": "lm_head", "value": [5, 6]},
        {"value": 0.5},
    ]

    found = tensors(run(document))

    a, b = tensors(models / "a"), tensors(models / "b")

    def weight(name):
        if "self_attn" in name:
            return int(name.split(".")[2]) / 3
        return {"model.embed_tokens.weight": 5, "lm_head.weight": 5}.get(name, 0.5)

    assert_equal(found, {name: a[name] + weight(name) * b[name] for name in a})


def test_stacked_layers(models, run):
    document = {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": "a", "layer_range": [0, 3]}]},
            {"sources": [{"model": "b", "layer_range": [1, 4]}]},
        ],
    }

    out = run(document)

    a, b, found = tensors(models / "a"), tensors(models / "b"), tensors(out)
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 6
    for layer, (model, number) in enumerate([(a, 0), (a, 1), (a, 2), (b, 1), (b, 2), (b, 3)]):
        for name in model:
            if f"layers.{number}." in name:
                moved = name.replace(f"layers.{number}.", f"layers.{layer}.")
                assert torch.equal(found[moved], model[name])
    assert torch.equal(found["model.embed_tokens.weight"], a["model.embed_tokens.weight"])
    assert torch.equal(found["lm_head.weight"], b["lm_head.weight"])
    load(out)


def test_slices_merge_layer_by_layer_with_parameters_at_every_level(models, run):
    document = {
        "merge_method": "task_arithmetic",
        "base_model": "c",
        "parameters": {"weight": 1.0},
        "slices": [
            {
                "sources": [
                    {"model": "a", "layer_range": [0, 2], "parameters": {"weight": 0.5}},
                    {"model": "b", "layer_range": [0, 2]},
                ],
                "parameters": {"weight": 0.25},
            },
            {"sources": [{"model": "a", "layer_range": [2, 4]}]},
        ],
    }

    found = tensors(run(document))

    a, b, c = (tensors(models / name) for name in "abc")
    for name in c:
        in_first = any(f"layers.{i}." in name for i in (0, 1)) or "embed" in name
        first = c[name] + 0.5 * (a[name] - c[name]) + 0.25 * (b[name] - c[name])
        torch.testing.assert_close(
            found[name], first if in_first else a[name], rtol=1e-5, atol=1e-6
        )


def test_a_tied_head_meets_one_of_its_own(tmp_path, run):
    tied = tensors(write(tmp_path / "a", "llama", 1, tie_word_embeddings=True))
    own = tensors(write(tmp_path / "b", "llama", 2))
    assert "lm_head.weight" not in tied

    out = run(linear(a=0.5, b=0.5))

    found = tensors(out)
    expected = 0.5 * tied["model.embed_tokens.weight"] + 0.5 * own["lm_head.weight"]
    torch.testing.assert_close(found["lm_head.weight"], expected)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    load(out)


def test_a_lora_adapter_is_merged_as_peft_does(models, run):
    write_adapter(models / "a", models / "a.lora")

    found = tensors(run(linear(**{"a+a.lora": 1.0})))

    expected = read_merged(models / "a", models / "a.lora").state_dict()
    assert_equal(found, {name: expected[name] for name in found})


@pytest.mark.parametrize("named", ["{}.delta", "c+{}.delta"])
def test_deltas_are_models(models, run, named):
    for name in "ab":
        pack(models / "c", models / name, "lossless", models / f"{name}.delta")
    document = {"merge_method": "ties", "base_model": "c", "parameters": {"density": 0.5}}

    def of(names):
        listed = [{"model": name, "parameters": {"weight": 1}} for name in names]
        return run({**document, "models": listed})

    assert_equal(tensors(of([named.format(n) for n in "ab"])), tensors(of("ab")))


def test_a_later_document_uses_an_earlier_one_by_name(models, run):
    first = {**linear(a=0.5, b=0.5), "name": "half"}
    second = {
        "merge_method": "task_arithmetic",
        "base_model": "half",
        "models": [{"model": "c", "parameters": {"weight": 0.5}}],
    }

    found = tensors(run(second, first))

    a, b, c = (tensors(models / name) for name in "abc")
    expected = {}
    for name in a:
        half = 0.5 * a[name] + 0.5 * b[name]
        expected[name] = half + 0.5 * (c[name] - half)
    assert_equal(found, expected)


@pytest.mark.parametrize("method", ["dare_ties", "della", "ties", "slerp", "linear"])
def test_the_number_of_threads_does_not_show(models, run, method):
    own = {"weight": 0.5, "density": 0.5} if method != "linear" else {"weight": 0.5}
    names = "ab" if method != "slerp" else "a"
    document = {
        "merge_method": method,
        "base_model": "c",
        "models": [
            {"model": name, "parameters": own if method != "slerp" else {}} for name in names
        ],
        "parameters": {"t": 0.3} if method == "slerp" else {},
    }

    first, second = run(document, threads=1), run(document, threads=4)

    assert digest(first) == digest(second)


def test_seeds_change_what_is_drawn(models, run):
    document = {
        "merge_method": "dare_linear",
        "base_model": "c",
        "models": [{"model": "a", "parameters": {"weight": 1, "density": 0.5}}],
    }

    first, same, other = run(document, seed=1), run(document, seed=1), run(document, seed=2)

    assert digest(first) == digest(same)
    assert digest(first)["model.safetensors"] != digest(other)["model.safetensors"]


def test_whole_numbers_are_copied_where_all_agree(tmp_path, save, run):
    weights = {"w.weight": torch.ones(3), "ids": torch.arange(5)}
    save("a", weights)
    save("b", {**weights, "w.weight": torch.zeros(3)})

    found = tensors(run(linear(a=0.5, b=0.5)))

    assert torch.equal(found["ids"], torch.arange(5))
    assert torch.equal(found["w.weight"], torch.full((3,), 0.5))


def test_progress_counts_up_to_the_whole(models, run):
    told = []

    out = run(linear(a=1, b=1), progress=lambda *pair: told.append(pair))

    total = sum(tensor.nbytes for tensor in tensors(out).values())
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_merged_model_is_a_source_of_tensors(models, run):
    out = run(linear(a=0.5, b=0.5))
    merged = Merged.open(models / "recipe.yaml")

    assert merged.names == list(tensors(out))
    for name, tensor in tensors(out).items():
        assert bytes(merged.raw(name)) == tensor.numpy().tobytes()


def test_models_lie_beside_the_recipe_or_below_the_working_directory(models, run, monkeypatch):
    elsewhere = models / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "recipe.yaml").write_text(yaml.safe_dump(linear(a=1, b=1)))
    monkeypatch.chdir(models)

    merge(elsewhere / "recipe.yaml", Path("out"))

    assert_equal(tensors(models / "out"), tensors(run(linear(a=1, b=1))))
