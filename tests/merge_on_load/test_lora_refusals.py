"""What opening and merging a LoRA adapter refuses, always by file and name."""

import json
from pathlib import Path

import pytest
import torch
from peft import IA3Config
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from merge_on_load import Checkpoint, Lora, MergeError, inspect, open_delta, stream, unpack
from merge_on_load.errors import (
    CorruptPayload,
    MissingTensor,
    NonFinite,
    NotADelta,
    ShapeMismatch,
    UnsupportedAdapter,
    UnsupportedDtype,
)
from support.adapters import write_adapter

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
MODULE = "base_model.model.model.layers.1.self_attn.q_proj"
A, B = f"{MODULE}.lora_A.weight", f"{MODULE}.lora_B.weight"
TARGET = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


@pytest.fixture
def adapter(tmp_path: Path, llama: Path) -> Path:
    return write_adapter(llama, tmp_path / "a.lora")


# What PEFT itself writes when told so, and a word of the refusal.
WRITTEN = {
    "DoRA": ({"use_dora": True}, "use_dora"),
    "biases": ({"bias": "all"}, "bias"),
    "biases of what is adapted": ({"bias": "lora_only"}, "bias"),
    "biases of its own": ({"lora_bias": True}, "lora_bias"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "an embedding": (
        {"target_modules": ["embed_tokens"], "with_embeddings": False},
        "embeddings.*embed_tokens.lora_embedding_A",
    ),
    "the head's own weight": (
        {"target_modules": ["lm_head"], "with_embeddings": True},
        "save_embedding_layers=False",
    ),
    "new tokens": ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
    "repeated layers": ({"layer_replication": [(0, 2), (1, 2)]}, "layer_replication"),
    "a parameter": (
        {"target_parameters": ["q_proj.weight"], "target_modules": []},
        "target_parameters",
    ),
    "an activated adapter": ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
    "QA-LoRA": ({"use_qalora": True}, "use_qalora"),
    "a changed base": ({"init_lora_weights": "pissa"}, "init_lora_weights"),
    "another changed base": ({"init_lora_weights": "olora"}, "init_lora_weights"),
}


@pytest.mark.parametrize(("settings", "word"), WRITTEN.values(), ids=WRITTEN)
def test_more_than_plain_lora_is_refused_by_name(tmp_path, llama, settings, word):
    path = write_adapter(llama, tmp_path / "a.lora", **settings)

    with pytest.raises(UnsupportedAdapter, match=word) as caught:
        Lora.open(path)
    assert str(path) in caught.value.file


def test_another_method_of_peft_is_refused(adapter):
    IA3Config(target_modules=["q_proj"], feedforward_modules=[]).save_pretrained(adapter)

    with pytest.raises(UnsupportedAdapter, match=r"peft_type.*IA3"):
        Lora.open(adapter)


EDITS = {
    "an unknown key": ({"use_magic": True}, UnsupportedAdapter, "use_magic"),
    "an unknown number": ({"magic_count": 0}, UnsupportedAdapter, "magic_count"),
    "transposed": ({"fan_in_fan_out": True}, UnsupportedAdapter, "fan_in_fan_out"),
    "a quantized base": ({"init_lora_weights": "loftq"}, UnsupportedAdapter, "init_lora_weights"),
    "no method": ({"peft_type": None}, UnsupportedAdapter, "peft_type"),
    "no rank": ({"r": None}, CorruptPayload, CONFIG),
    "rank 0": ({"r": 0}, CorruptPayload, "rank"),
    "half a rank": ({"r": 1.5}, CorruptPayload, "rank"),
    "another rank": ({"r": 5}, ShapeMismatch, r"lora_A.*\[5, in\].*F32\[4, 24\]"),
    "another rank by name": (
        {"rank_pattern": {r"layers\.1\.self_attn\.q_proj": 2}},
        ShapeMismatch,
        A,
    ),
    "no alpha": ({"lora_alpha": None}, CorruptPayload, "alpha"),
    "alpha in words": ({"lora_alpha": "8"}, CorruptPayload, "alpha"),
    "alpha without end": ({"lora_alpha": 10**400}, CorruptPayload, CONFIG),
    "an alpha that is none": ({"alpha_pattern": {"q_proj": True}}, CorruptPayload, "alpha"),
    "an expression that is none": ({"rank_pattern": {"(": 4}}, CorruptPayload, CONFIG),
    "patterns in a list": ({"rank_pattern": ["q_proj"]}, CorruptPayload, CONFIG),
    "rslora in words": ({"use_rslora": "yes"}, CorruptPayload, "use_rslora"),
}


@pytest.mark.parametrize(("change", "kind", "word"), EDITS.values(), ids=EDITS)
def test_a_config_that_cannot_be_followed_is_refused(adapter, change, kind, word):
    file = adapter / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | change))

    with pytest.raises(kind, match=word) as caught:
        open_delta(adapter)
    assert str(adapter) in caught.value.file


def test_keys_of_other_versions_are_taken_while_they_are_off(adapter):
    file = adapter / CONFIG
    off = {"use_magic": False, "magic_config": None, "magics": [], "magic": "", "more": {}}
    file.write_text(json.dumps(json.loads(file.read_text()) | off))

    assert Lora.open(adapter).rank == 4


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"null", b"[" * 100_000])
def test_what_is_no_config_is_refused(adapter, content):
    (adapter / CONFIG).write_bytes(content)

    with pytest.raises(CorruptPayload, match=CONFIG):
        Lora.open(adapter)


def edit(adapter: Path, **changes: torch.Tensor | None) -> None:
    """Replace tensors by key; None takes one away."""
    file = adapter / TENSORS
    tensors = load_file(file) | changes
    save_file({key: one for key, one in tensors.items() if one is not None}, file)


def with_value(value: float) -> torch.Tensor:
    half = torch.ones(4, 16)
    half[3, 7] = value
    return half


TENSOR_EDITS = {
    "no B": ({B: None}, MissingTensor, B),
    "no A": ({A: None}, MissingTensor, A),
    "NaN": ({A: with_value(float("nan"))}, NonFinite, A),
    "infinity": ({A: with_value(float("-inf"))}, NonFinite, A),
    "float64": ({A: torch.ones(4, 16).double()}, UnsupportedDtype, A),
    "integers": ({B: torch.ones(16, 4).char()}, UnsupportedDtype, B),
    "8-bit floats": ({B: torch.ones(16, 4).to(torch.float8_e4m3fn)}, UnsupportedDtype, B),
    "a convolution": ({A: torch.ones(4, 16, 1, 1)}, ShapeMismatch, A),
    "a vector": ({B: torch.ones(16)}, ShapeMismatch, B),
    "turned around": ({B: torch.ones(4, 16)}, ShapeMismatch, B),
    "a magnitude": (
        {f"{MODULE}.lora_magnitude_vector": torch.ones(16)},
        UnsupportedAdapter,
        "lora_magnitude_vector",
    ),
    "another name": ({"q_proj.lora_A.weight": torch.ones(4, 16)}, UnsupportedAdapter, "q_proj"),
}


@pytest.mark.parametrize(("changes", "kind", "word"), TENSOR_EDITS.values(), ids=TENSOR_EDITS)
def test_tensors_that_are_no_pairs_of_numbers_are_refused(adapter, changes, kind, word):
    edit(adapter, **changes)

    with pytest.raises(kind, match=word.replace(".", r"\.")) as caught:
        Lora.open(adapter)
    assert caught.value.file == str(adapter / TENSORS)


def test_an_adapter_without_tensors_is_refused(adapter):
    save_file({}, adapter / TENSORS)

    with pytest.raises(MissingTensor, match=TENSORS):
        Lora.open(adapter)


@pytest.mark.parametrize("damage", ["missing", "truncated", "longer", "empty", "header"])
def test_a_damaged_file_is_refused(adapter, damage):
    file = adapter / TENSORS
    intact = file.read_bytes()
    damaged = {
        "truncated": intact[:-1],
        "longer": intact + b"\0",
        "empty": b"",
        "header": intact[:20] + b"\0" + intact[21:],
    }
    file.unlink() if damage == "missing" else file.write_bytes(damaged[damage])

    with pytest.raises(CorruptPayload, match=TENSORS):
        Lora.open(adapter)


def test_a_pickle_is_refused_unread(adapter):
    (adapter / TENSORS).unlink()
    (adapter / "adapter_model.bin").write_bytes(b"not even a pickle")

    with pytest.raises(UnsupportedAdapter, match=r"pickle.*adapter_model\.bin"):
        Lora.open(adapter)


def test_a_directory_without_adapter_is_refused(llama):
    with pytest.raises(NotADelta, match=CONFIG):
        Lora.open(llama)
    with pytest.raises(NotADelta, match=r"delta\.json"):
        open_delta(llama)


@pytest.mark.parametrize("name", [CONFIG, TENSORS])
def test_a_file_altered_after_opening_is_seen_before_anything_is_merged(adapter, llama, flip, name):
    base, lora = Checkpoint.open(llama), Lora.open(adapter)
    before = dict(stream(base, lora))
    intact = (adapter / name).read_bytes()
    flip(adapter / name, -2)

    with pytest.raises(CorruptPayload, match=name):
        stream(base, lora)

    (adapter / name).write_bytes(intact)
    after = dict(stream(base, lora))
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


def without(weights: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key: one for key, one in weights.items() if key != name}


BASES = {
    "lacks it": (lambda base: without(base, TARGET), MissingTensor),
    "is wider": (lambda base: base | {TARGET: torch.ones(16, 17)}, ShapeMismatch),
    "is higher": (lambda base: base | {TARGET: torch.ones(17, 16)}, ShapeMismatch),
    "is flat": (lambda base: base | {TARGET: torch.ones(256)}, ShapeMismatch),
    "is quantized": (lambda base: base | {TARGET: torch.ones(16, 16).char()}, UnsupportedDtype),
    "is float64": (lambda base: base | {TARGET: torch.ones(16, 16).double()}, UnsupportedDtype),
}


@pytest.mark.parametrize(("change", "kind"), BASES.values(), ids=BASES)
def test_a_base_that_it_does_not_fit_is_refused_by_tensor(
    tmp_path, save, adapter, llama, change, kind
):
    base = save("other", change(load_file(llama / "model.safetensors")))
    checkpoint, lora = Checkpoint.open(base), Lora.open(adapter)

    for refused in (
        lambda: lora.check_belongs(checkpoint),
        lambda: stream(checkpoint, lora),
        lambda: unpack(base, adapter, tmp_path / "out"),
    ):
        with pytest.raises(kind, match=TARGET.replace(".", r"\.")) as caught:
            refused()
        assert caught.value.file == str(adapter)
    assert not (tmp_path / "out").exists()


def test_a_sum_that_overflows_is_refused_before_anything_is_merged(tmp_path, save, adapter, llama):
    weights = {name: one.half() for name, one in load_file(llama / "model.safetensors").items()}
    weights[TARGET] = torch.full((16, 16), 65504.0).half()
    base = save("high", weights)
    stream(Checkpoint.open(base), Lora.open(adapter))  # what cannot reach the next number fits
    edit(adapter, **{A: torch.full((4, 16), 2.0), B: torch.full((16, 4), 2.0)})

    with pytest.raises(NonFinite, match=TARGET.replace(".", r"\.")):
        stream(Checkpoint.open(base), Lora.open(adapter))
    with pytest.raises(NonFinite):
        unpack(base, adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()

    edit(adapter, **{A: torch.full((4, 16), -2.0)})  # as large a change, the other way
    found = dict(stream(Checkpoint.open(base), Lora.open(adapter)))
    assert bool(found[TARGET].isfinite().all())


def test_a_base_that_is_not_finite_keeps_what_it_has(save, adapter, llama):
    weights = load_file(llama / "model.safetensors")
    weights[TARGET][2, 5] = float("inf")
    base = save("infinite", weights)

    found = dict(stream(Checkpoint.open(base), Lora.open(adapter)))[TARGET]

    assert (~found.isfinite()).nonzero().tolist() == [[2, 5]]


def test_inspect_refuses_what_opening_refuses(adapter):
    edit(adapter, **{B: None})

    with pytest.raises(MergeError, match="lora_B"):
        inspect(adapter)
