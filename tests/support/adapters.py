"""LoRA adapters on a disk, written by PEFT itself, and what PEFT makes of them."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM


def write_adapter(
    base: Path,
    path: Path,
    *,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    with_embeddings: bool = False,
    **settings: Any,
) -> Path:
    """An adapter of `base` with random A and B, so that it changes the answers.

    dtype: of A and B, None leaves PEFT's choice. with_embeddings: save adapted embeddings and heads
    themselves too, as PEFT does unless told. settings: of PEFT's `LoraConfig`.
    """
    defaults = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}
    config = {**defaults, "task_type": "CAUSAL_LM", "init_lora_weights": False, **settings}
    model = AutoModelForCausalLM.from_pretrained(base, local_files_only=True)
    torch.manual_seed(seed)
    with _peft_warnings_ignored():
        adapted = get_peft_model(model, LoraConfig(**config))
        if dtype is not None:
            for name, weight in adapted.named_parameters():
                if "lora_" in name:
                    weight.data = weight.data.to(dtype)
        adapted.save_pretrained(path, save_embedding_layers=with_embeddings)
    return path


def read_adapted(base: Path, path: Path) -> Any:
    """The base in float32 with the adapter beside its weights, as PEFT loads it."""
    model = AutoModelForCausalLM.from_pretrained(base, local_files_only=True, dtype=torch.float32)
    with _peft_warnings_ignored():
        return PeftModel.from_pretrained(model, path).eval()


def read_merged(base: Path, path: Path) -> Any:
    """The same with the adapter merged by PEFT: a plain transformers model."""
    return read_adapted(base, path).merge_and_unload()


@contextlib.contextmanager
def _peft_warnings_ignored() -> Iterator[None]:
    """PEFT 0.21.2 asks transformers for what that calls deprecated, and warns of features that the
    refusals need.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
