"""LoRA adapters that PEFT wrote, merged: against PEFT's own merging, and against a naive sum."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from merge_on_load import Checkpoint, Delta, Lora, inspect, open_delta, pack, stream, unpack
from merge_on_load.lora_config import LoraConfig
from support.adapters import read_adapted, read_merged, write_adapter

LAYER = "model.layers.0.self_attn"
PATTERNS = {
    "rank_pattern": {"down_proj": 2, rf"^{LAYER}.q_proj": 3, r"layers\.\d\.self_attn\.q_proj": 6},
    "alpha_pattern": {"self_attn.q_proj": 5, "proj": 100, r"(k|v)_proj": 1.5},
}
SETTINGS = {
    "plain": {},
    "every linear weight": {"target_modules": "all-linear"},
    "the head": {"target_modules": ["lm_head", "gate_proj"]},
    "one layer": {"layers_to_transform": [1]},
    "rank-stabilized": {"use_rslora": True},
    "patterns": PATTERNS,
    "patterns, rank-stabilized": {**PATTERNS, "use_rslora": True},
    "negative": {"lora_alpha": -3},
}


def write_llama(path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A model whose random weights give varied answers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=88,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.25,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(path)
    return path


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "llama")


def merged(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    return dict(stream(Checkpoint.open(base), Lora.open(adapter)))


def greedy(model, prompts: torch.Tensor) -> list[list[int]]:
    """prompts: int64[prompt, token]."""
    mask = torch.ones_like(prompts)
    return model.generate(
        prompts, attention_mask=mask, do_sample=False, max_new_tokens=12, pad_token_id=0
    ).tolist()


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_merged_weights_are_those_that_peft_merges(tmp_path, llama, settings):
    adapter = write_adapter(llama, tmp_path / "a.lora", **settings)

    found = merged(llama, adapter)

    expected = read_merged(llama, adapter).state_dict()
    assert list(found) == Checkpoint.open(llama).names
    changed = {n for n, one in merged_base(llama).items() if not torch.equal(one, found[n])}
    assert changed == set(Lora.open(adapter).target_names)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-6)


def merged_base(base: Path) -> dict[str, torch.Tensor]:
    return dict(stream(Checkpoint.open(base), None))


@pytest.mark.parametrize("name", ["plain", "every linear weight", "patterns, rank-stabilized"])
def test_an_unpacked_model_answers_as_peft_does_with_the_adapter_beside(tmp_path, llama, name):
    adapter = write_adapter(llama, tmp_path / "a.lora", **SETTINGS[name])
    unpack(llama, adapter, tmp_path / "out")
    prompts = torch.randint(128, (16, 6), generator=torch.Generator().manual_seed(1))

    rebuilt = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()

    answers = greedy(rebuilt, prompts)
    assert answers == greedy(read_adapted(llama, adapter), prompts)
    assert answers == greedy(read_merged(llama, adapter), prompts)
    assert answers != greedy(AutoModelForCausalLM.from_pretrained(llama).eval(), prompts)
    assert (tmp_path / "out" / "config.json").read_bytes() == (llama / "config.json").read_bytes()


@pytest.mark.parametrize("adapter_dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("base_dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_sum_is_rounded_once_to_the_dtype_of_the_base(tmp_path, base_dtype, adapter_dtype):
    base = write_llama(tmp_path / "base", base_dtype)
    adapter = write_adapter(base, tmp_path / "a.lora", dtype=adapter_dtype, use_rslora=True)
    halves = load_file(adapter / "adapter_model.safetensors")
    before = load_file(base / "model.safetensors")
    assert {half.dtype for half in halves.values()} == {adapter_dtype}

    found = merged(base, adapter)

    for name in Lora.open(adapter).target_names:
        module = f"base_model.model.{name.removesuffix('.weight')}"
        a, b = (halves[f"{module}.lora_{half}.weight"].float() for half in "AB")
        expected = (before[name].float() + (b @ a) * (8 / math.sqrt(4))).to(base_dtype)
        assert torch.equal(found[name], expected)


def test_rows_in_blocks_give_the_sum_of_the_whole(tmp_path):
    weight = torch.randn(600, 1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    base, adapter = write_one_weight(tmp_path, weight, rank=3)
    halves = load_file(adapter / "adapter_model.safetensors")

    found = merged(base, adapter)["w.weight"]

    a, b = (halves[f"base_model.model.w.lora_{half}.weight"].double() for half in "AB")
    exact = weight.double() + 2 * (b @ a)
    assert ((found.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all()
    assert not torch.equal(found, weight)


def write_one_weight(directory: Path, weight: torch.Tensor, rank: int) -> tuple[Path, Path]:
    """A base of one matrix and its adapter of scale 2, in the layout that PEFT documents."""
    base, adapter = directory / "base", directory / "a.lora"
    base.mkdir()
    adapter.mkdir()
    save_file({"w.weight": weight}, base / "model.safetensors")
    random = torch.Generator().manual_seed(1)
    out, width = weight.shape
    halves = {
        "base_model.model.w.lora_A.weight": torch.randn(rank, width, generator=random),
        "base_model.model.w.lora_B.weight": torch.randn(out, rank, generator=random),
    }
    save_file(halves, adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    return base, adapter


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("zero", ["B", "A", "alpha"])
def test_an_adapter_of_zeros_gives_the_base_bit_for_bit(tmp_path, dtype, zero):
    base = write_llama(tmp_path / "base", dtype)
    weights = load_file(base / "model.safetensors")
    weights[f"{LAYER}.q_proj.weight"][:4] = -0.0
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    alpha = 0 if zero == "alpha" else 8
    adapter = write_adapter(
        base, tmp_path / "a.lora", target_modules="all-linear", lora_alpha=alpha
    )
    file = adapter / "adapter_model.safetensors"
    halves = load_file(file)
    save_file({n: one * (f"lora_{zero}" not in n) for n, one in halves.items()}, file)

    found = merged(base, adapter)

    for name, tensor in weights.items():
        assert torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8)), name


def test_what_peft_has_just_begun_changes_nothing(tmp_path, llama):
    for beginning in (True, "gaussian", "orthogonal"):
        adapter = write_adapter(llama, tmp_path / f"{beginning}", init_lora_weights=beginning)

        found = merged(llama, adapter)

        for name, tensor in merged_base(llama).items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)


def test_a_base_is_not_changed_by_merging(tmp_path, llama):
    base, adapter = Checkpoint.open(llama), write_adapter(llama, tmp_path / "a.lora")
    before = {name: tensor.clone() for name, tensor in stream(base, None)}

    dict(stream(base, Lora.open(adapter)))

    assert all(torch.equal(tensor, before[name]) for name, tensor in stream(base, None))


names = st.lists(st.sampled_from(["model", "layers", "0", "1", "q_proj", "proj", "x"]), min_size=1)
patterns = st.sampled_from(
    [
        *(
            "q_proj",
            "proj",
            ".*proj",
            r"layers\.0\..*",
            "layers.0.q_proj",
            "^model.q_proj",
            "x|proj",
        ),
        *("model", "q_proj$", r"\d", "0.q_proj", "", "model.x", "(layers|model).x"),
    ]
)


@given(names, st.lists(patterns, unique=True))
def test_patterns_match_as_pefts_do(parts, listed):
    module, ranks = ".".join(parts), {pattern: i + 1 for i, pattern in enumerate(listed)}
    config = LoraConfig(99, 1.0, ranks, {}, is_rank_stabilized=False, lineage={})

    assert config.rank_of(module) == ranks.get(get_pattern_key(ranks.keys(), module), 99)


def test_an_adapter_tells_what_it_is(tmp_path, llama):
    path = write_adapter(llama, tmp_path / "a.lora", **PATTERNS)

    lora = open_delta(path)

    assert isinstance(lora, Lora)
    files = [path / "adapter_config.json", path / "adapter_model.safetensors"]
    assert lora.path == path
    assert lora.size_bytes == sum(file.stat().st_size for file in files)
    assert lora.rank == 6
    # v_proj, q_proj of layer 1 and of layer 0, down_proj; "proj" is the end of none after a dot.
    assert lora.scales == [1.5 / 4, 5 / 6, 5 / 3, 8 / 2]
    assert lora.lineage["base_model_name_or_path"] == str(llama)
    assert lora.target_names == sorted(
        f"model.layers.{layer}.{module}.weight"
        for layer in (0, 1)
        for module in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
    )
    told = json.loads(json.dumps(inspect(path)))
    assert told["kind"] == "lora"
    assert told["rank"] == 6
    assert told["target_count"] == len(told["targets"]) == 6
    assert told["scales"] == lora.scales
    assert told["size_bytes"] == lora.size_bytes
    assert told["digest"] == lora.digest


def test_the_digest_names_config_and_tensors(tmp_path, llama):
    adapters = {
        "first": {},
        "again": {},
        "other tensors": {"seed": 1},
        "other config": {"lora_alpha": 9},
    }
    digests = {
        name: Lora.open(write_adapter(llama, tmp_path / name, **settings)).digest
        for name, settings in adapters.items()
    }

    assert all(len(digest) == 64 and int(digest, 16) for digest in digests.values())
    assert len({digests[name] for name in ("first", "other tensors", "other config")}) == 3


def test_a_delta_is_opened_as_a_delta(tmp_path, base, tuned):
    delta = pack(base, tuned, "lossless", tmp_path / "t.delta")

    opened = open_delta(delta.path)

    assert isinstance(opened, Delta)
    assert opened.digest == delta.digest
