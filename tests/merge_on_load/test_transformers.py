"""A real Llama, saved by transformers, rebuilt from its delta and loaded again."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from merge_on_load import Checkpoint, Delta, pack, stream, unpack


def save_tiny_llamas(path, tie):
    """A base and a tuned model under `path`."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=88,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tie,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    model.save_pretrained(path / "base")
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.002)
    model.generation_config.max_new_tokens = 7
    model.save_pretrained(path / "tuned", max_shard_size="20KB")


def load(path):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()


def logits(model):
    with torch.no_grad():
        return model(torch.arange(16).reshape(2, 8)).logits.float()


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize(("codec", "allowed"), [("lossless", 0), ("int8", 0.05), ("onebit", 0.8)])
def test_a_rebuilt_llama_answers_as_the_tuned_one(tmp_path, tie, codec, allowed):
    save_tiny_llamas(tmp_path, tie)
    pack(tmp_path / "base", tmp_path / "tuned", codec, tmp_path / "t.delta")
    unpack(tmp_path / "base", tmp_path / "t.delta", tmp_path / "out")

    rebuilt = load(tmp_path / "out")

    expected = logits(load(tmp_path / "tuned"))
    change = (logits(load(tmp_path / "base")) - expected).norm()
    distance = (logits(rebuilt) - expected).norm() / change
    assert distance <= allowed
    assert rebuilt.generation_config.max_new_tokens == 7


def test_a_live_model_takes_the_stream_in_place(tmp_path):
    save_tiny_llamas(tmp_path, tie=True)
    live = load(tmp_path / "base")
    delta = pack(tmp_path / "base", tmp_path / "tuned", "lossless", tmp_path / "t.delta")
    base = Checkpoint.open(tmp_path / "base")
    before = logits(live)

    def switch(to: Delta | None) -> None:
        parameters = dict(live.named_parameters())
        with torch.no_grad():
            for name, tensor in stream(base, to):
                parameters[name].copy_(tensor)

    switch(delta)
    assert torch.equal(logits(live), logits(load(tmp_path / "tuned")))
    switch(None)
    assert torch.equal(logits(live), before)
