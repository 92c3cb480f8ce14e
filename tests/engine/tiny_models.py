"""Real but tiny checkpoints: a trained byte-level tokenizer, and random weights on a disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

CONTEXT_TOKEN_COUNT = 256
SPECIAL_TOKENS = ["<|pad|>", "<|end|>", "<|stop|>", "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'system' and not loop.first %}{{ raise_exception('late') }}{% endif %}"
    "<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SAMPLE_TEXT = (
    "the engine reads a prompt and answers it word by word while other answers are running",
    "select name, price from orders where price > 100 order by name",
    "naïve café, größer, 東京の天気は晴れです, привет мир, 🙂🚀🎉",
)
SHAPE = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT_TOKEN_COUNT,
    # Wide weights: answers that vary, and no two tokens nearly as likely.
    "initializer_range": 0.25,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
ROPE_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text has an encoding, and most tokens are single bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SAMPLE_TEXT * 4, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>"
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def architectures(vocab_size: int) -> dict[str, PreTrainedConfig]:
    """One small config per family: grouped heads, tied embeddings, biases, sliding windows."""
    shape = {**SHAPE, "vocab_size": vocab_size}
    mixed = {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1}
    return {
        "llama": LlamaConfig(**shape),
        "llama3-rope": LlamaConfig(**shape, rope_parameters=ROPE_LLAMA3),
        "qwen2-tied": Qwen2Config(**shape, tie_word_embeddings=True),
        "qwen2-mixed-windows": Qwen2Config(**shape, **mixed),
        "mistral-window": MistralConfig(**shape, sliding_window=12),
    }


def write_checkpoint(path: Path, config: PreTrainedConfig, seed: int = 0) -> Path:
    """Random weights with a tokenizer beside them."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    # <|stop|> ends an answer too, as many chat models have a second end token.
    model.generation_config = GenerationConfig(eos_token_id=[1, 2], pad_token_id=0)
    model.save_pretrained(path)
    train_tokenizer().save_pretrained(path)
    return path


def write_variant(base: Path, path: Path, seed: int, scale: float = 0.02) -> Path:
    """A "fine-tune": the base with noise on every matrix."""
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(base / "model.safetensors")
    for name, tensor in tensors.items():
        if tensor.ndim == 2:
            tensors[name] = tensor + scale * torch.randn(tensor.shape, generator=generator)
    path.mkdir()
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    for file in base.iterdir():
        if file.suffix != ".safetensors":
            (path / file.name).write_bytes(file.read_bytes())
    return path


def read_reference(path: Path) -> Any:
    """The same weights as transformers itself loads them."""
    return AutoModelForCausalLM.from_pretrained(path, local_files_only=True).eval()
