"""Deltas of thin products as adapters: the same weights by our loader and by PEFT's."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from merge_on_load import Checkpoint, Delta, Lora, export_lora, pack, stream
from merge_on_load.codecs import Coding
from merge_on_load.errors import (
    CorruptPayload,
    MissingTensor,
    OutputExists,
    UnsupportedAdapter,
    WrongBase,
)
from support.adapters import read_merged

HEAD, NORM, EMBEDDING = "lm_head.weight", "model.norm.weight", "model.embed_tokens.weight"


class ByName:
    """A coding of its own for some tensors."""

    codec = "lowrank"

    def __init__(self, usual, others):
        self._usual, self._others = usual, others

    def coding(self, name, base, tuned):
        if len(tuned.shape) < 2:
            return Coding("lossless")
        found = [text for word, text in self._others.items() if word in name]
        return Coding.parse(found[0] if found else self._usual)


@pytest.fixture
def llama(tmp_path):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.25,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


@pytest.fixture
def write_tuned(llama, tmp_path):
    """write(*names) changes every linear layer's weight, and these tensors, at random."""

    def write(*names, dtype=torch.float32):
        random = torch.Generator().manual_seed(1)
        weights = load_file(llama / "model.safetensors")
        for name, weight in weights.items():
            if "proj" in name or name in names:
                weights[name] = weight + 0.05 * torch.randn(weight.shape, generator=random)
        path = tmp_path / "-".join(["tuned", *names])
        path.mkdir()
        save_file({n: one.to(dtype) for n, one in weights.items()}, path / "model.safetensors")
        (path / "config.json").write_bytes((llama / "config.json").read_bytes())
        return path

    return write


def weights_of(base, opened):
    return dict(stream(Checkpoint.open(base), opened))


def check_alike(llama, delta, adapter, besides=()):
    """By our loader and by PEFT's, all but some tensors; these are the base's.

    A delta rounds its factors once more where it is decoded, which an adapter does not.
    """
    expected, plain = weights_of(llama, Delta.open(delta)), weights_of(llama, None)
    expected |= {name: plain[name] for name in besides}
    ours, theirs = weights_of(llama, Lora.open(adapter)), read_merged(llama, adapter).state_dict()
    for name, weight in expected.items():
        torch.testing.assert_close(theirs[name], ours[name], rtol=1e-5, atol=1e-5)
        assert (ours[name] - weight).norm() <= 0.01 * (weight - plain[name]).norm()
    assert any(not torch.equal(ours[name], plain[name]) for name in ours)


@pytest.mark.parametrize(
    "coding", ["lowrank", "lowrank:rank16=3", "lowrank:rank8=2,rank3=7,group_size=32"]
)
def test_the_adapter_makes_what_the_delta_makes(tmp_path, llama, write_tuned, coding):
    delta = pack(llama, write_tuned(HEAD), coding, tmp_path / "t.delta")

    found = export_lora(llama, delta.path, tmp_path / "t.lora")

    assert found.dropped == []
    assert found.adapter.scales == [1.0]
    assert set(found.adapter.target_names) == {
        name for name in delta.manifest.tensors if "proj" in name or name == HEAD
    }
    check_alike(llama, delta.path, tmp_path / "t.lora")


def test_each_module_has_its_own_rank(tmp_path, llama, write_tuned):
    layout = ByName(
        "lowrank:rank16=4", {"layers.1.mlp.up": "lowrank:rank16=9", "q_proj": "lowrank:rank2=5"}
    )
    delta = pack(llama, write_tuned(), "", tmp_path / "t.delta", layout=layout)

    export_lora(llama, delta.path, tmp_path / "t.lora")

    config = json.loads((tmp_path / "t.lora" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 9
    assert len(config["rank_pattern"]) == 13
    assert config["rank_pattern"] == config["alpha_pattern"]
    check_alike(llama, delta.path, tmp_path / "t.lora")
    halves = load_file(tmp_path / "t.lora" / "adapter_model.safetensors")
    assert {half.dtype for name, half in halves.items() if "up_proj" in name} == {torch.bfloat16}
    assert {half.dtype for name, half in halves.items() if "q_proj" in name} == {torch.float32}


@pytest.mark.parametrize("name", [EMBEDDING, NORM, "model.layers.1.input_layernorm.weight"])
def test_what_no_adapter_holds_is_refused_or_dropped_by_name(tmp_path, llama, write_tuned, name):
    delta = pack(llama, write_tuned(name), "lowrank", tmp_path / "t.delta")

    with pytest.raises(UnsupportedAdapter, match=name.replace(".", r"\.")):
        export_lora(llama, delta.path, tmp_path / "t.lora")
    assert not (tmp_path / "t.lora").exists()

    found = export_lora(llama, delta.path, tmp_path / "t.lora", drop=True)
    assert found.dropped == [name]
    check_alike(llama, delta.path, tmp_path / "t.lora", besides=[name])


def test_tensors_of_other_codecs_and_signs_are_dropped(tmp_path, llama, write_tuned):
    layout = ByName("lowrank:rank16=4,residual=1", {"o_proj": "onebit", "gate": "lowrank:rank16=4"})
    delta = pack(llama, write_tuned(), "", tmp_path / "t.delta", layout=layout)

    with pytest.raises(UnsupportedAdapter, match="12 changed tensors"):
        export_lora(llama, delta.path, tmp_path / "t.lora")
    found = export_lora(llama, delta.path, tmp_path / "t.lora", drop=True)

    assert set(found.dropped) == {
        name for name in delta.manifest.tensors if "proj" in name and "gate" not in name
    }
    assert len(found.adapter.target_names) == 12
    assert not any("o_proj" in name for name in found.adapter.target_names)


def test_a_tensor_of_another_dtype_and_the_same_values_is_no_change(tmp_path, save, llama):
    base = {name: weight.bfloat16() for name, weight in weights_of(llama, None).items()}
    tuned = {name: weight.float() for name, weight in base.items()}
    tuned |= {name: weight * 1.01 for name, weight in tuned.items() if "q_proj" in name}
    base, tuned = save("base", base), save("wider", tuned)
    delta = pack(base, tuned, "lowrank", tmp_path / "t.delta", embeddings="lossless")
    assert delta.manifest.tensors[NORM].codec == "lossless"

    found = export_lora(base, delta.path, tmp_path / "t.lora", drop=True)

    assert NORM not in found.dropped
    assert EMBEDDING not in found.dropped


def test_a_delta_without_a_thin_product_is_refused(tmp_path, llama, write_tuned):
    delta = pack(llama, write_tuned(), "int4", tmp_path / "t.delta")

    with pytest.raises(MissingTensor, match="thin product"):
        export_lora(llama, delta.path, tmp_path / "t.lora", drop=True)
    assert not (tmp_path / "t.lora").exists()


def test_chains_other_bases_and_altered_deltas_are_refused(tmp_path, llama, write_tuned, flip):
    tuned = write_tuned()
    delta = pack(llama, tuned, "lowrank", tmp_path / "t.delta")
    further = pack(llama, write_tuned(NORM), "lowrank", tmp_path / "c.delta", parent=delta.path)
    with pytest.raises(UnsupportedAdapter, match="--flatten"):
        export_lora(llama, further.path, tmp_path / "c.lora")
    with pytest.raises(WrongBase):
        export_lora(tuned, delta.path, tmp_path / "t.lora")
    export_lora(llama, delta.path, tmp_path / "t.lora")
    with pytest.raises(OutputExists):
        export_lora(llama, delta.path, tmp_path / "t.lora")
    flip(delta.path / "payload-00001.safetensors", -1)
    with pytest.raises(CorruptPayload):
        export_lora(llama, delta.path, tmp_path / "u.lora")


def test_layers_that_are_transposed_are_refused(tmp_path, llama, write_tuned):
    delta = pack(llama, write_tuned(), "lowrank", tmp_path / "t.delta")
    (llama / "config.json").write_text('{"model_type": "gpt2"}')

    with pytest.raises(UnsupportedAdapter, match="transposed"):
        export_lora(llama, delta.path, tmp_path / "t.lora")
