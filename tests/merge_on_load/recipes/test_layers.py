"""Layers are found by names alone, in every architecture."""

import json

import pytest

from merge_on_load import Checkpoint
from merge_on_load.recipes.layers import (
    embedding_of,
    is_before_layers,
    is_head,
    layer_count,
    layout_of,
    with_layers,
)
from support.many_architectures import ARCHITECTURES, write


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_has_its_layers(tmp_path, architecture):
    path = write(tmp_path / "model", architecture)
    config = json.loads((path / "config.json").read_text())

    layout = layout_of(Checkpoint.open(path).names, config)

    assert layout.layer_count == layer_count(config) == 4
    assert len({frozenset(layer) for layer in layout.layers}) == 1  # all layers have the same
    assert layout.stack is not None
    assert not any(layout.stack in name for name in layout.loose)
    assert {layout.depths[name] for name in layout.loose} == {0.0}
    assert sorted({round(depth, 3) for depth in layout.depths.values()}) == [0, 0.333, 0.667, 1]
    assert embedding_of(layout.loose)


def test_what_comes_before_the_layers_and_what_after():
    before = ["model.embed_tokens.weight", "gpt_neox.embed_in.weight", "transformer.wte.weight"]
    before += ["bert.embeddings.LayerNorm.weight", "bert.embeddings.word_embeddings.weight"]
    after = ["model.norm.weight", "lm_head.weight", "embed_out.weight", "transformer.norm_f.weight"]
    after += ["cls.predictions.bias", "gpt_neox.final_layer_norm.weight", "transformer.ln_f.bias"]

    assert all(is_before_layers(name) for name in before)
    assert not any(is_before_layers(name) for name in after)
    assert [name for name in before + after if is_head(name)] == [
        "lm_head.weight",
        "embed_out.weight",
    ]


def test_experts_belong_to_their_layer():
    names = [
        f"model.layers.{layer}.mlp.experts.{expert}.w1.weight"
        for layer in range(2)
        for expert in range(8)
    ]

    layout = layout_of(names, {"num_hidden_layers": 2})

    assert layout.stack == "model.layers."
    assert [len(layer) for layer in layout.layers] == [8, 8]


def test_of_two_stacks_the_config_tells_the_main_one():
    names = [f"vision.blocks.{i}.w" for i in range(3)] + [f"model.layers.{i}.w" for i in range(2)]

    assert layout_of(names, {"num_hidden_layers": 2}).stack == "model.layers."
    assert layout_of(names, {"num_hidden_layers": 3}).stack == "vision.blocks."


def test_a_model_without_layers_has_loose_tensors_only():
    layout = layout_of(["weight", "0.bias.x"], {})

    assert layout_of(["weight"], {}).stack is None
    assert "weight" in layout.loose


def test_lists_by_layer_follow_the_layers():
    first = {"num_hidden_layers": 3, "layer_types": ["a", "b", "c"], "other": [1, 2, 3, 4]}
    second = {"num_hidden_layers": 2, "layer_types": ["x", "y"]}

    changed = with_layers(first, [(first, 0), (second, 1), (first, 2), (first, 2)])

    assert changed == {
        "num_hidden_layers": 4,
        "layer_types": ["a", "y", "c", "c"],
        "other": [1, 2, 3, 4],
    }


def test_a_text_model_inside_a_config_is_changed_there():
    config = {"vision": 1, "text_config": {"num_hidden_layers": 2, "layer_types": ["a", "b"]}}

    changed = with_layers(config, [(config, 1)])

    assert changed == {"vision": 1, "text_config": {"num_hidden_layers": 1, "layer_types": ["b"]}}
