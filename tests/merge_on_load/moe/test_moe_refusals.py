"""What cannot be assembled is refused before anything is read, with the file and tensor named."""

import json

import pytest
import torch
from pydantic import ValidationError

from merge_on_load.errors import (
    BadRecipe,
    MissingTensor,
    NonFinite,
    ShapeMismatch,
    UnsupportedDtype,
)
from merge_on_load.moe import MoeRecipe

UP = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        ({"experts_per_token": 3}, "experts_per_token is 3 of 2"),
        ({"experts": []}, "experts"),
        ({"experts": [{"source_model": "base"}]}, "experts_per_token is 2 of 1"),
        ({"gate_mode": "hidden"}, "needs positive_prompts"),
        ({"gate_mode": "cheap_embed"}, "needs positive_prompts"),
        ({"gate_mode": "learned"}, "gate_mode"),
        ({"architecture": "gpt"}, "architecture"),
        ({"shared_experts": [{"source_model": "base"}] * 2}, "at most one"),
        ({"shared_experts": [{"source_model": "base", "residual_scale": "inf"}]}, "finite"),
        ({"experts": [{"source_model": "base", "prompts": ["a"]}] * 2}, "Extra inputs"),
        ({"gate": "random"}, "Extra inputs"),
    ],
)
def test_a_document_that_contradicts_itself(document, told, complaint):
    with pytest.raises(ValidationError, match=complaint):
        MoeRecipe.model_validate(document("base", "base", "base") | told)


def test_the_hidden_mode_is_the_default(document):
    told = document("base", "base", "base")
    del told["gate_mode"]

    with pytest.raises(ValidationError, match="gate_mode hidden needs positive_prompts"):
        MoeRecipe.model_validate(told)


def test_the_digest_is_of_the_meaning(document):
    told = document("base", "base", "base")

    assert MoeRecipe.model_validate(told).digest() == (
        MoeRecipe.model_validate(told | {"experts_per_token": 2}).digest()
    )
    assert MoeRecipe.model_validate(told).digest() != (
        MoeRecipe.model_validate(told | {"experts_per_token": 1}).digest()
    )


def test_an_expert_of_another_width(save_dense, document, plan_of, tmp_path):
    save_dense("llama", "base")
    save_dense("llama", "wide", intermediate_size=64)

    with pytest.raises(ShapeMismatch) as refused:
        plan_of(document("base", "base", "wide"))

    assert refused.value.file == str(tmp_path / "wide")
    assert refused.value.tensor == "model.layers.0.mlp.gate_proj.weight"
    assert (refused.value.expected, refused.value.found) == ([48, 32], [64, 32])


@pytest.mark.parametrize(
    ("kind", "told", "complaint"),
    [
        ("qwen2", {}, "another architecture"),
        ("llama", {"num_hidden_layers": 3}, "another number of layers"),
        ("llama", {"hidden_act": "gelu"}, "another hidden_act"),
        ("llama", {"mlp_bias": True}, "no place for it"),
    ],
)
def test_an_expert_that_computes_something_else(
    save_dense, document, plan_of, kind, told, complaint
):
    save_dense("llama", "base")
    save_dense(kind, "other", **told)

    with pytest.raises(BadRecipe, match=complaint):
        plan_of(document("base", "base", "other"))


def test_an_expert_with_more_rows_and_no_tokenizer_to_tell_why(save_dense, document, plan_of):
    save_dense("llama", "base")
    save_dense("llama", "larger", vocab_size=18, words=None)

    with pytest.raises(ShapeMismatch, match="another vocabulary"):
        plan_of(document("base", "base", "larger"))


def test_an_expert_whose_token_ids_mean_other_tokens(save_dense, document, plan_of):
    save_dense("llama", "base")
    save_dense("llama", "other", words=["<unk>", "<s>", "</s>", "root", "sum"])

    with pytest.raises(BadRecipe, match="mean other tokens"):
        plan_of(document("base", "base", "other"))


def test_tokens_added_behind_the_same_vocabulary_are_no_other_vocabulary(
    save_dense, document, plan_of, tmp_path
):
    save_dense("llama", "base")
    save_dense("llama", "larger", vocab_size=18)
    file = tmp_path / "larger" / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"added_tokens": []}))

    plan = plan_of(document("base", "base", "larger"))

    assert plan.config["vocab_size"] == 16


@pytest.mark.parametrize("mode", ["hidden", "cheap_embed"])
def test_prompts_without_a_tokenizer(save_dense, document, plan_of, mode):
    save_dense("llama", "base", words=None)
    experts = [{"source_model": "base", "positive_prompts": ["sum"]}] * 2

    with pytest.raises(BadRecipe, match="tokenizer"):
        plan_of(document("base", gate_mode=mode) | {"experts": experts})


def test_biases_that_mixtral_has_not(save_dense, document, plan_of):
    save_dense("qwen2", "base")

    with pytest.raises(BadRecipe, match="no place") as refused:
        plan_of(document("base", "base", "base", architecture="mixtral"))

    assert refused.value.tensor == "model.layers.0.self_attn.k_proj.bias"


def test_norms_that_mixtral_has_not(save_dense, document, plan_of):
    save_dense("qwen3", "base")

    with pytest.raises(BadRecipe, match=r"no place.*k_norm"):
        plan_of(document("base", "base", "base", architecture="mixtral"))


@pytest.mark.parametrize(("kind", "told"), [("llama", {"architecture": "mixtral"}), ("qwen3", {})])
def test_a_shared_expert_where_none_can_be(save_dense, document, plan_of, kind, told):
    save_dense(kind, "base")

    with pytest.raises(BadRecipe, match="no shared expert"):
        plan_of(document("base", "base", "base", shared_experts=[{"source_model": "base"}], **told))


@pytest.mark.parametrize(
    ("kind", "architecture", "mode", "prompts", "complaint"),
    [
        ("qwen2", None, "hidden", [], "needs positive_prompts"),
        ("qwen2", None, "cheap_embed", [], "needs positive_prompts"),
        ("llama", "qwen", "hidden", [], "needs positive_prompts"),
        ("llama", "deepseek", "hidden", ["sum"], "no use"),
    ],
)
def test_prompts_of_a_shared_expert_stand_where_they_are_used(
    save_dense, document, plan_of, kind, architecture, mode, prompts, complaint
):
    save_dense(kind, "base")
    told = {
        "experts": [{"source_model": "base", "positive_prompts": ["sum"]}] * 2,
        "shared_experts": [{"source_model": "base", "positive_prompts": prompts}],
        "architecture": architecture,
    }

    with pytest.raises(BadRecipe, match=complaint):
        plan_of(document("base", gate_mode=mode) | told)


def test_windows_that_the_architecture_has_not(save_dense, document, plan_of):
    save_dense("mistral", "windowed", sliding_window=4)
    with pytest.raises(BadRecipe, match="no sliding window"):
        plan_of(document("windowed", "windowed", "windowed", architecture="deepseek"))

    save_dense("qwen3", "mixed", use_sliding_window=True, sliding_window=4, max_window_layers=1)
    with pytest.raises(BadRecipe, match="1 of 2"):
        plan_of(document("mixed", "mixed", "mixed"))


def test_a_base_of_an_unknown_architecture(save_dense, document, plan_of, tmp_path):
    save_dense("llama", "base")
    file = tmp_path / "base" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "gpt2"}))

    with pytest.raises(BadRecipe, match="gpt2"):
        plan_of(document("base", "base", "base"))


def test_a_head_that_is_neither_there_nor_tied(save_dense, document, plan_of, tmp_path):
    save_dense("llama", "base", tie_word_embeddings=True)
    file = tmp_path / "base" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tie_word_embeddings": False}))

    with pytest.raises(MissingTensor, match=r"lm_head\.weight"):
        plan_of(document("base", "base", "base"))


def test_numbers_of_64_bits(save_dense, document, plan_of):
    save_dense("llama", "base", change=lambda model: model.double())

    with pytest.raises(UnsupportedDtype, match="F64"):
        plan_of(document("base", "base", "base"))


@pytest.mark.parametrize("mode", ["hidden", "cheap_embed"])
def test_a_tokenizer_with_more_tokens_than_embeddings(save_dense, document, run, mode):
    save_dense("llama", "base", vocab_size=8)
    experts = [{"source_model": "base", "positive_prompts": ["sum the"]}] * 2

    with pytest.raises(BadRecipe, match=r"without an embedding.*'sum the'"):
        run(document("base", gate_mode=mode) | {"experts": experts})


def test_a_prompt_without_tokens(save_dense, document, run, tmp_path):
    save_dense("llama", "base")
    file = tmp_path / "base" / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"post_processor": None}))
    experts = [{"source_model": "base", "positive_prompts": [" "]}] * 2

    with pytest.raises(BadRecipe, match="without tokens"):
        run(document("base", gate_mode="cheap_embed") | {"experts": experts})


def test_prompts_that_cancel_out(save_dense, document, run):
    save_dense("llama", "base")
    experts = [
        {"source_model": "base", "positive_prompts": ["sum"], "negative_prompts": ["sum"]}
    ] * 2

    with pytest.raises(BadRecipe, match="no direction"):
        run(document("base", gate_mode="cheap_embed") | {"experts": experts})


def test_an_expert_with_nan(save_dense, document, run, tmp_path):
    def spoil(model):
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan

    save_dense("llama", "base")
    save_dense("llama", "spoilt", change=spoil)

    with pytest.raises(NonFinite) as refused:
        run(document("base", "base", "spoilt"))

    assert refused.value.file == str(tmp_path / "spoilt")
