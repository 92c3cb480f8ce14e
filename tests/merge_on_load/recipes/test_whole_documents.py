"""Vocabularies, chat templates and experts as parts of a recipe's file."""

import json
import shutil

import pytest
import torch
import yaml
from engine.tiny_models import architectures, train_tokenizer, write_checkpoint
from transformers import AutoTokenizer

from merge_on_load.errors import BadRecipe
from merge_on_load.recipes import merge
from support.many_architectures import load, tensors

CONFIG = architectures(len(train_tokenizer()))["llama"]


@pytest.fixture
def models(tmp_path):
    """Llamas `a` and `b` of one vocabulary, and `c` with a token more."""
    for seed, name in enumerate("ab"):
        write_checkpoint(tmp_path / name, CONFIG, seed)
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "c")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|tool|>"]})
    tokenizer.save_pretrained(tmp_path / "c")
    model = load(tmp_path / "c")
    torch.manual_seed(9)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(tmp_path / "c")
    return tmp_path


def run(models, *documents, **options):
    file, out = models / "recipe.yaml", models / "out"
    shutil.rmtree(out, ignore_errors=True)
    file.write_text(yaml.safe_dump_all(documents))
    merge(file, out, **options)
    return out


def linear(*names, **more):
    listed = [{"model": name, "parameters": {"weight": 0.5}} for name in names]
    return {"merge_method": "linear", "models": listed, **more}


def test_a_union_of_vocabularies(models):
    out = run(models, linear("a", "c", tokenizer={"source": "union"}))

    a, c, found = tensors(models / "a"), tensors(models / "c"), tensors(out)
    name, count = "model.embed_tokens.weight", len(a["model.embed_tokens.weight"])
    torch.testing.assert_close(found[name][:count], 0.5 * a[name] + 0.5 * c[name][:count])
    torch.testing.assert_close(found[name][count:], c[name][count:])  # only c has it
    assert json.loads((out / "config.json").read_text())["vocab_size"] == count + 1
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.convert_tokens_to_ids("<|tool|>") == count
    load(out)


def test_the_base_s_vocabulary_for_all(models):
    out = run(models, linear("a", "c", base_model="a", tokenizer_source="base"))

    assert tensors(out)["lm_head.weight"].shape == tensors(models / "a")["lm_head.weight"].shape
    assert (out / "tokenizer.json").read_text() == (models / "a" / "tokenizer.json").read_text()


def test_a_chat_template_of_the_recipe(models):
    out = run(models, linear("a", "b", chat_template="chatml"))

    tokenizer = AutoTokenizer.from_pretrained(out)
    told = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert told.startswith("<|im_start|>user\nhi<|im_end|>")


def test_experts_of_merged_models(models):
    experts = [{"source_model": name} for name in ("half", "b")]
    document = {"base_model": "a", "gate_mode": "random", "experts": experts}

    out = run(models, {"name": "half", **linear("a", "b")}, document)

    a, b, found = tensors(models / "a"), tensors(models / "b"), tensors(out)
    up = "model.layers.1.mlp.up_proj.weight"
    place = "model.layers.1.block_sparse_moe.experts.{}.w3.weight"
    torch.testing.assert_close(found[place.format(0)], 0.5 * a[up] + 0.5 * b[up])
    assert torch.equal(found[place.format(1)], b[up])
    query = "model.layers.1.self_attn.q_proj.weight"
    assert torch.equal(found[query], a[query])
    load(out)


def test_experts_are_reproducible_by_seed(models):
    experts = [{"source_model": name} for name in "ab"]
    document = {"base_model": "a", "gate_mode": "random", "experts": experts}
    gate = "model.layers.0.block_sparse_moe.gate.weight"

    first, same, other = (tensors(run(models, document, seed=seed))[gate] for seed in (1, 1, 2))

    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_an_unknown_key_of_an_assembly_is_refused(models):
    document = {"base_model": "a", "experts": [{"source_model": "a", "prompt": "x"}]}

    with pytest.raises(BadRecipe, match=r"experts\.0\.prompt"):
        run(models, document)


def test_a_later_document_sees_the_vocabulary_of_an_earlier_one(models):
    first = {"name": "wide", **linear("a", "c", tokenizer_source="union")}
    second = linear("b", "wide", tokenizer_source="union")

    out = run(models, first, second)

    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.convert_tokens_to_ids("<|tool|>") == len(tensors(out)["lm_head.weight"]) - 1
    load(out)


def stack(*parts, **more):
    """parts: (model, [first, last))."""
    slices = [{"sources": [{"model": model, "layer_range": part}]} for model, part in parts]
    return {"merge_method": "passthrough", "slices": slices, **more}


def test_a_stack_of_a_model_with_a_text_config_has_all_its_layers(models):
    for name in "ac":
        file = models / name / "config.json"
        told = json.loads(file.read_text())
        file.write_text(json.dumps({"architectures": told["architectures"], "text_config": told}))
    count = json.loads((models / "a" / "config.json").read_text())["text_config"]

    out = run(models, stack(("a", [0, 2]), ("c", [0, 2]), tokenizer_source="union"))

    told = json.loads((out / "config.json").read_text())["text_config"]
    assert told["num_hidden_layers"] == 4
    assert told["vocab_size"] == count["vocab_size"] + 1
