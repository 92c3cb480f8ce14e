"""Routers: by chance, from embeddings, from hidden states."""

import pytest
import torch
from tokenizers import Tokenizer

MATH, MEDICINE = "sum root prime", "pulse fever nurse"
ROUTERS = {"llama": "block_sparse_moe.gate.weight", "qwen2": "mlp.gate.weight"}
PROMPTED = {
    "experts": [
        {"source_model": "base", "positive_prompts": [MATH]},
        {"source_model": "base", "positive_prompts": [MEDICINE]},
    ],
    "experts_per_token": 1,
}


def let_embeddings_decide(model):
    """Words of one subject share a direction, and no layer changes what the embeddings say."""
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        embedding[1] = 0
        embedding[3:6, :16] = 0
        embedding[6:9, 16:] = 0
        embedding[3:6, 16:] = embedding[3:6, 16:].abs()
        embedding[6:9, :16] = embedding[6:9, :16].abs()
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
            layer.post_attention_layernorm.weight.fill_(1)


def unit(vector):
    return vector / vector.norm()


def chosen(model, ids):
    """The expert of each layer and token."""
    with torch.no_grad():
        found = model(torch.tensor([ids]), output_router_logits=True).router_logits
    return torch.stack([one.reshape(len(ids), -1).argmax(-1) for one in found])


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("mode", ["cheap_embed", "hidden"])
def test_a_prompt_goes_to_the_expert_of_its_subject(save_dense, document, load, kind, mode):
    save_dense(kind, "base", change=let_embeddings_decide)

    sparse = load(document("base", gate_mode=mode) | PROMPTED)

    assert (chosen(sparse, [4, 3, 5]) == 0).all()
    assert (chosen(sparse, [8, 6, 7]) == 1).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_cheap_embed_takes_directions_of_mean_embeddings(save_dense, document, run, dense, dtype):
    save_dense("llama", "base", dtype=dtype)
    experts = [
        {
            "source_model": "base",
            "positive_prompts": ["sum root", "prime"],
            "negative_prompts": ["the pulse a"],
        },
        {"source_model": "base", "positive_prompts": ["fever"]},
    ]
    shared = [{"source_model": "base", "positive_prompts": ["nurse"]}]

    tensors = run(
        document("base", gate_mode="cheap_embed", dtype="float32")
        | {"experts": experts, "shared_experts": shared}
    )

    rows = dense("base").model.embed_tokens.weight.detach().float()
    first = unit(2 * rows[1] + rows[3] + rows[4] + rows[5])
    first = unit(first - unit(rows[1] + rows[9] + rows[6] + rows[10]))
    expected = torch.stack([first, unit(rows[1] + rows[7])])
    for i in range(2):
        at = f"model.layers.{i}.mlp."
        torch.testing.assert_close(tensors[at + "gate.weight"], expected)
        torch.testing.assert_close(
            tensors[at + "shared_expert_gate.weight"], unit(rows[1] + rows[8])[None]
        )


def test_hidden_takes_what_each_layers_mlp_gets(save_dense, document, run, dense, tmp_path):
    save_dense("qwen2", "base")
    experts = [
        {"source_model": "base", "positive_prompts": [MATH, "sum a"], "negative_prompts": ["the"]},
        {"source_model": "base", "positive_prompts": [MEDICINE]},
    ]
    shared = [{"source_model": "base", "positive_prompts": ["a the"]}]

    tensors = run(
        document("base", gate_mode="hidden") | {"experts": experts, "shared_experts": shared}
    )

    model, tokenizer = dense("base"), Tokenizer.from_file(str(tmp_path / "base/tokenizer.json"))
    for i, layer in enumerate(model.model.layers):
        got = []
        hook = layer.post_attention_layernorm.register_forward_hook(
            lambda _, __, given, got=got: got.append(given[0].sum(0))
        )
        with torch.no_grad():
            for text in (MATH, "sum a", "the", MEDICINE, "a the"):
                model(torch.tensor([tokenizer.encode(text).ids]))
        hook.remove()
        first = unit(unit(got[0] + got[1]) - unit(got[2]))
        expected = torch.stack([first, unit(got[3]), unit(got[4])])
        at = f"model.layers.{i}.mlp."
        torch.testing.assert_close(tensors[at + "gate.weight"], expected[:2])
        torch.testing.assert_close(tensors[at + "shared_expert_gate.weight"], expected[2:])


def test_random_gates_are_those_of_the_seed(save_dense, document, run):
    save_dense("llama", "base")
    told = document("base", *["base"] * 64)
    name = "model.layers.0.block_sparse_moe.gate.weight"

    first, again, other = (run(told, seed)[name] for seed in (7, 7, 8))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert abs(first.mean()) < 0.03  # of 2048 numbers, as config.json's initializer_range says
    assert abs(first.std() - 0.3) < 0.02


def test_random_gates_differ_from_layer_to_layer(save_dense, document, run):
    save_dense("llama", "base")

    tensors = run(document("base", "base", "base"))

    first, second = (tensors[f"model.layers.{i}.block_sparse_moe.gate.weight"] for i in (0, 1))
    assert not torch.equal(first, second)


def test_uniform_gates_are_those_of_a_linear_layer(save_dense, document, run):
    save_dense("llama", "base")
    told = document("base", *["base"] * 64, gate_mode="uniform_random")

    found = run(told)["model.layers.0.block_sparse_moe.gate.weight"]

    bound = 32**-0.5
    assert found.abs().max() <= bound
    assert abs(found.std() - bound / 3**0.5) < 0.01


def test_planning_reads_no_prompt(save_dense, document, plan_of):
    save_dense("llama", "base")
    plan = plan_of(document("base", gate_mode="hidden") | PROMPTED)

    gates = [job for job in plan.jobs if job.tensor.endswith("gate.weight")]

    checkpoint_bytes = plan.primary.checkpoint.size_bytes
    assert all(job.held_bytes > checkpoint_bytes for job in gates)  # the base, while it runs
