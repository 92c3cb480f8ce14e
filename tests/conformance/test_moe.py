"""Assemblies of experts: what we write against what mergekit-moe writes.

Everything is copied or computed in float32; what both write is equal, but for the gates of a mode
that the two define otherwise, and for what is told beside each test.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conformance import tokenized
from conformance.peer import failure, run_mergekit
from conformance.tokenized import bpe

from merge_on_load.errors import BadRecipe
from merge_on_load.recipes import merge
from support.many_architectures import load, tensors

Document = dict[str, Any]
Tensors = dict[str, torch.Tensor]

LAYERS, HIDDEN = 2, 32
WORDS = ("sum", "root", "prime", "pulse", "fever", "the")
DENSE = ("llama", "mistral", "qwen2", "qwen3")
ONE_EACH = (["sumrootprime"], ["pulsefever"])
SEVERAL = (["sumroot", "prime"], ["pulse", "thefever"])

# (architecture of the models, gate_mode, what else the document tells)
CASES: dict[str, tuple[str, str, Document]] = {
    f"{dense}-{mode}": (dense, mode, {})
    for dense in ("llama", "mistral", "qwen3")
    for mode in ("random", "uniform_random", "cheap_embed", "hidden")
}
CASES |= {
    "llama-several": ("llama", "cheap_embed", {"prompts": SEVERAL}),
    "llama-several-hidden": ("llama", "hidden", {"prompts": SEVERAL}),
    "llama-negative": ("llama", "cheap_embed", {"negative": ["the"]}),
    "llama-one-of-two": ("llama", "cheap_embed", {"experts_per_token": 1}),
    "llama-to-qwen": ("llama", "cheap_embed", {"architecture": "qwen", "shared": "the"}),
    "qwen2-random": ("qwen2", "random", {"shared": "the"}),
    "qwen2-cheap_embed": ("qwen2", "cheap_embed", {"shared": "the"}),
    "qwen2-hidden": ("qwen2", "hidden", {"shared": "the"}),
    "llama-to-deepseek": ("llama", "cheap_embed", {"architecture": "deepseek"}),
    "llama-to-deepseek-shared": ("llama", "random", {"architecture": "deepseek", "shared": ""}),
}
# mergekit has no Qwen MoE without a shared expert.
REFUSED = {
    "qwen2-not-shared": ("qwen2", "random", {}),
    "llama-to-qwen-not-shared": ("llama", "random", {"architecture": "qwen"}),
}
# Written by mergekit alone: zeros, where our config says that there are none.
ONLY_THEIRS = tuple(f".self_attn.{part}_proj.bias" for part in "qkv")


def document(dense: str, mode: str, told: Document) -> Document:
    """told: mergekit's keys; and `prompts` of the experts, `negative` ones of the first, `shared`:
    the prompt of a shared expert, which may be none.
    """
    told = dict(told)
    prompts, negative = told.pop("prompts", ONE_EACH), told.pop("negative", None)
    experts: list[Document] = [
        {"source_model": f"{dense}-{name}", "positive_prompts": listed}
        for name, listed in zip("xy", prompts, strict=True)
    ]
    if negative:
        experts[0]["negative_prompts"] = negative
    if (prompt := told.pop("shared", None)) is not None:
        shared: Document = {"source_model": f"{dense}-y", "residual_scale": 0.25}
        told["shared_experts"] = [shared | ({"positive_prompts": [prompt]} if prompt else {})]
    return {
        "base_model": f"{dense}-base",
        "gate_mode": mode,
        "dtype": "float32",
        "experts": experts,
        **told,
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the models, every recipe and what mergekit made of it."""
    home = tmp_path_factory.mktemp("moe")
    for dense in DENSE:
        for seed, name in enumerate(("base", "x", "y")):
            config: Document = {"num_hidden_layers": LAYERS}
            if dense.startswith("qwen"):
                config |= {"layer_types": ["full_attention"] * LAYERS}
            architecture = "qwen2-tied" if dense == "qwen2" else dense
            if dense == "qwen2":
                config |= {"tie_word_embeddings": False}
            tokenized.save(home / f"{dense}-{name}", architecture, bpe(*WORDS), seed, **config)
    for name, (dense, mode, told) in {**CASES, **REFUSED}.items():
        (home / f"{name}.yaml").write_text(yaml.safe_dump(document(dense, mode, told)))
    run_mergekit(home)
    return home


def read(path: Path, like: Tensors) -> Tensors:
    """mergekit's result under the names that checkpoints of the family have, which are ours.

    For Mixtral and Qwen3-MoE it writes those that transformers 5 has in memory, where the experts
    of a layer are one tensor, gate_proj above up_proj.
    """
    is_mixtral = any(".block_sparse_moe." in name for name in like)
    gate, up, down = ("w1", "w3", "w2") if is_mixtral else ("gate_proj", "up_proj", "down_proj")
    found: Tensors = {}
    for told, tensor in tensors(path).items():
        name = told.replace(".mlp.", ".block_sparse_moe.") if is_mixtral else told
        at, _, fused = name.rpartition(".")
        if fused not in ("gate_up_proj", "down_proj"):
            found[name] = tensor
            continue
        for i, one in enumerate(tensor):
            parts = {gate: one.chunk(2)[0], up: one.chunk(2)[1]}
            parts = parts if fused == "gate_up_proj" else {down: one}
            found |= {f"{at}.{i}.{part}.weight": rows for part, rows in parts.items()}
    return found


def is_gate(name: str) -> bool:
    """Whether this is a router, or the gate of a shared expert."""
    return name.endswith((".gate.weight", ".shared_expert_gate.weight"))


@pytest.mark.parametrize("name", CASES)
def test_an_assembly_is_mergekit_s(home: Path, name: str, tmp_path: Path) -> None:
    assert not failure(home, name)
    merge(home / f"{name}.yaml", tmp_path / "ours")

    found = tensors(tmp_path / "ours")
    expected = read(home / name, found)
    for only in expected.keys() - found.keys():
        assert only.endswith(ONLY_THEIRS)
        assert not expected.pop(only).any()
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in expected.items()}
    is_defined_alike = CASES[name][1] == "cheap_embed"
    for tensor in found:
        if is_defined_alike or not is_gate(tensor):
            torch.testing.assert_close(found[tensor], expected[tensor], rtol=1e-5, atol=1e-6)


# Where the two differ: merge_on_load/DIFFERENCES.md.


@pytest.mark.parametrize("dense", ["llama", "mistral", "qwen3"])
def test_random_gates_have_the_config_s_deviation_here_and_1_there(
    home: Path, dense: str, tmp_path: Path
) -> None:
    ours, theirs = gates(home, f"{dense}-random", tmp_path)
    assert float(ours.std()) == pytest.approx(0.02, rel=0.3)  # initializer_range
    assert float(theirs.std()) == pytest.approx(1, rel=0.3)


def test_uniform_gates_have_the_same_distribution(home: Path, tmp_path: Path) -> None:
    for one in gates(home, "llama-uniform_random", tmp_path):
        assert one.abs().max() <= HIDDEN**-0.5
        assert float(one.std()) == pytest.approx((3 * HIDDEN) ** -0.5, rel=0.3)


@pytest.mark.parametrize("name", ["llama-hidden", "llama-several-hidden", "qwen3-hidden"])
def test_hidden_gates_there_are_of_the_last_token_at_each_layer_s_input(
    home: Path, name: str, tmp_path: Path
) -> None:
    dense, _, told = CASES[name]
    model = load(home / f"{dense}-base")
    tokenizer = tokenized.read_tokenizer(home / f"{dense}-base")
    expected = []
    for prompts in told.get("prompts", ONE_EACH):
        states = torch.zeros(LAYERS, HIDDEN)
        for prompt in prompts:
            ids = torch.tensor([tokenizer.encode(prompt).ids])
            with torch.no_grad():
                found = model(ids, output_hidden_states=True).hidden_states
            states += torch.stack([one[0, -1] for one in found[:LAYERS]])
        expected.append(torch.nn.functional.normalize(states, dim=-1))

    ours, theirs = gates(home, name, tmp_path)
    # mergekit runs the model in less than float32
    torch.testing.assert_close(theirs, torch.stack(expected, 1), rtol=0, atol=0.01)
    torch.testing.assert_close(ours.norm(dim=-1), torch.ones(LAYERS, 2))
    assert (ours - theirs).abs().max() > 0.1


def gates(home: Path, name: str, tmp_path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Ours and mergekit's: [layer, expert, hidden]."""
    merge(home / f"{name}.yaml", tmp_path / "ours")
    ours = tensors(tmp_path / "ours")
    routers = sorted(one for one in ours if one.endswith(".gate.weight"))
    theirs = read(home / name, ours)
    return torch.stack([ours[one] for one in routers]), torch.stack(
        [theirs[one] for one in routers]
    )


@pytest.mark.parametrize("name", REFUSED)
def test_a_qwen_without_a_shared_expert_is_made_here_alone(
    home: Path, name: str, tmp_path: Path
) -> None:
    assert failure(home, name).startswith("SystemExit")
    merge(home / f"{name}.yaml", tmp_path / "ours")

    load(tmp_path / "ours")  # complains of what is missing or too much


def test_a_sliding_window_is_kept_here_alone(home: Path, tmp_path: Path) -> None:
    merge(home / "mistral-random.yaml", tmp_path / "ours")

    found = [told(one)["sliding_window"] for one in (tmp_path / "ours", home / "mistral-random")]
    assert found == [told(home / "mistral-base")["sliding_window"], None]
    assert found[0]


def test_noise_is_refused_here(home: Path) -> None:
    document = yaml.safe_load((home / "llama-random.yaml").read_text())
    document["experts"][0]["noise_scale"] = 0.1
    recipe = home / "noise.yaml"
    recipe.write_text(yaml.safe_dump(document))
    with pytest.raises(BadRecipe, match="noise_scale"):
        merge(recipe, home / "noise")


def told(path: Path) -> Document:
    """config.json."""
    found: Document = json.loads((path / "config.json").read_text())
    return found
