"""The assembled model computes what its parts say: against the dense base and a plain mixture."""

import subprocess
import sys

import pytest
import torch
from torch import nn

IDS = torch.tensor([[3, 4, 5, 6, 7, 8, 9, 10, 3, 7], [1, 9, 3, 10, 8, 2, 6, 6, 5, 4]])


def logits(model):
    with torch.no_grad():
        return model(IDS).logits.float()


class Mixture(nn.Module):
    """The mean of the `top_k` likeliest experts, weighted by their share of the probability."""

    def __init__(self, router, experts, top_k, shared=None):
        """shared: what is added to the mean, a function of the input."""
        super().__init__()
        self.router = router
        self.experts = experts
        self.top_k = top_k
        self.shared = shared

    def forward(self, x):
        likely, chosen = torch.softmax(x @ self.router.T, -1).topk(self.top_k)
        weights = torch.zeros(*x.shape[:-1], len(self.experts)).scatter(-1, chosen, likely)
        weights = weights / weights.sum(-1, keepdim=True)
        found = sum(weights[..., [i]] * one(x) for i, one in enumerate(self.experts))
        return found if self.shared is None else found + self.shared(x)


@pytest.mark.parametrize(
    ("kind", "told", "class_name"),
    [
        ("llama", {}, "MixtralForCausalLM"),
        ("mistral", {"sliding_window": 4}, "MixtralForCausalLM"),
        ("llama", {"tie_word_embeddings": True, "head_dim": 16}, "MixtralForCausalLM"),
        ("qwen2", {}, "Qwen2MoeForCausalLM"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
            "Qwen2MoeForCausalLM",
        ),
        ("qwen3", {}, "Qwen3MoeForCausalLM"),
        ("qwen3", {"attention_bias": True, "head_dim": 16}, "Qwen3MoeForCausalLM"),
    ],
)
def test_experts_that_are_the_base_answer_as_the_base(
    save_dense, document, load, dense, kind, told, class_name
):
    save_dense(kind, "base", **told)

    sparse = load(document("base", "base", "base", "base"))

    assert type(sparse).__name__ == class_name
    assert (logits(sparse) - logits(dense("base"))).abs().max() < 1e-5


@pytest.mark.parametrize("architecture", ["mixtral", "qwen"])
@pytest.mark.parametrize("experts_per_token", [1, 3])
def test_a_llama_fits_both_architectures(
    save_dense, document, load, dense, architecture, experts_per_token
):
    save_dense("llama", "base", rope_theta=500.0, max_position_embeddings=64)
    told = {"architecture": architecture, "experts_per_token": experts_per_token}

    sparse = load(document("base", "base", "base", "base", **told))

    assert sparse.config.max_position_embeddings == 64
    assert (logits(sparse) - logits(dense("base"))).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("kind", "router"),
    [
        ("llama", "block_sparse_moe.gate.weight"),
        ("qwen2", "mlp.gate.weight"),
        ("qwen3", "mlp.gate.weight"),
    ],
)
def test_each_expert_computes_its_own_share(save_dense, document, load, run, dense, kind, router):
    for seed, name in enumerate(["base", "one", "two", "three"]):
        save_dense(kind, name, seed)
    told = document("base", "one", "two", "three")

    sparse = load(told)

    tensors, reference = run(told), dense("base")
    parts = [dense(name) for name in ("one", "two", "three")]
    for i, layer in enumerate(reference.model.layers):
        experts = [one.model.layers[i].mlp for one in parts]
        layer.mlp = Mixture(tensors[f"model.layers.{i}.{router}"], experts, 2)
    assert (logits(sparse) - logits(reference)).abs().max() < 1e-5
    assert (logits(sparse) - logits(dense("base"))).abs().max() > 0.1


def test_the_shared_expert_of_qwen_is_gated_and_scaled(save_dense, document, load, run, dense):
    for seed, name in enumerate(["base", "one", "two", "shared"]):
        save_dense("llama", name, seed)
    told = document(
        "base", "one", "two", shared_experts=[{"source_model": "shared", "residual_scale": 0.25}]
    )

    sparse = load(told)

    assert type(sparse).__name__ == "Qwen2MoeForCausalLM"
    tensors, reference = run(told), dense("base")
    one, two, shared = (dense(name).model.layers for name in ("one", "two", "shared"))
    for i, layer in enumerate(reference.model.layers):
        gate = tensors[f"model.layers.{i}.mlp.shared_expert_gate.weight"]
        layer.mlp = Mixture(
            tensors[f"model.layers.{i}.mlp.gate.weight"],
            [one[i].mlp, two[i].mlp],
            2,
            lambda x, gate=gate, mlp=shared[i].mlp: torch.sigmoid(x @ gate.T) * 0.25 * mlp(x),
        )
    assert (logits(sparse) - logits(reference)).abs().max() < 1e-5


def test_a_deepseek_has_its_names_and_a_shared_expert_without_a_gate(
    save_dense, document, plan_of, run, dense
):
    for seed, name in enumerate(["base", "one", "shared"]):
        save_dense("llama", name, seed)
    told = document(
        "base",
        "one",
        "base",
        architecture="deepseek",
        shared_experts=[{"source_model": "shared", "residual_scale": 0.5}],
    )

    config, tensors = plan_of(told).config, run(told)

    assert config["architectures"] == ["DeepseekForCausalLM"]
    assert (config["n_routed_experts"], config["n_shared_experts"]) == (2, 1)
    one, base, shared = (dense(name).model.layers[1].mlp for name in ("one", "base", "shared"))
    at = "model.layers.1.mlp."
    assert torch.equal(tensors[at + "experts.0.up_proj.weight"], one.up_proj.weight)
    assert torch.equal(tensors[at + "experts.1.gate_proj.weight"], base.gate_proj.weight)
    assert torch.equal(tensors[at + "shared_experts.gate_proj.weight"], shared.gate_proj.weight)
    scaled = shared.down_proj.weight * 0.5
    assert torch.equal(tensors[at + "shared_experts.down_proj.weight"], scaled)
    assert tensors[at + "gate.weight"].shape == (2, 32)
    assert not any("shared_expert_gate" in name for name in tensors)


@pytest.mark.parametrize(
    ("mode", "prompts", "class_name"),
    [
        ("hidden", ["sum"], "Qwen2MoeForCausalLM"),
        ("hidden", [], "DeepseekForCausalLM"),
        ("cheap_embed", [], "DeepseekForCausalLM"),
        ("random", ["sum"], "Qwen2MoeForCausalLM"),
        ("random", [], "Qwen2MoeForCausalLM"),
    ],
)
def test_a_shared_expert_without_the_prompts_of_a_gate_makes_a_deepseek(
    save_dense, document, plan_of, mode, prompts, class_name
):
    save_dense("llama", "base")
    told = {
        "experts": [{"source_model": "base", "positive_prompts": ["sum"]}] * 2,
        "shared_experts": [{"source_model": "base", "positive_prompts": prompts}],
    }

    plan = plan_of(document("base", gate_mode=mode) | told)

    assert plan.config["architectures"] == [class_name]


def test_the_result_has_the_dtype_that_the_recipe_tells(save_dense, document, load, dense):
    save_dense("llama", "base", dtype="bfloat16")
    save_dense("mistral", "one", 1)

    sparse = load(document("base", "base", "one", dtype="float16"))

    assert {one.dtype for one in sparse.parameters()} == {torch.float16}
    down = dense("one").model.layers[0].mlp.down_proj.weight.half()
    assert torch.equal(sparse.model.layers[0].mlp.experts.down_proj[1], down)


def test_without_a_dtype_the_base_decides(save_dense, document, run):
    save_dense("llama", "base", dtype="bfloat16")
    save_dense("llama", "one", 1)

    tensors = run(document("base", "base", "one"))

    assert {one.dtype for one in tensors.values()} == {torch.bfloat16}


def test_importing_needs_neither_torch_nor_transformers():
    told = (
        "import sys, merge_on_load.moe; print({'torch', 'numba', 'transformers'} & {*sys.modules})"
    )

    found = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "set()"
