"""The base checkpoint: its architecture, its tokenizer, and modules built from it and a delta."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from merge_on_load import Checkpoint, load, open_delta
from merge_on_load.errors import MissingTensor, ShapeMismatch
from model_pool.engine import Message, Weights
from model_pool.errors import InvalidParameter

# Rotary frequencies follow from the config; old checkpoints carry a copy for every layer.
DERIVED = re.compile(r"rotary_emb\.inv_freq$")
# What the padding-mask layout of the cache computes exactly.
KNOWN_ATTENTION = {"full_attention", "sliding_attention"}


class BaseModel:
    """What all models of one engine share. Opening reads headers, config and tokenizer only."""

    def __init__(self, path: Path, dtype: torch.dtype, device: torch.device) -> None:
        """Raises MergeError (weights that do not fit the config) and ValueError (no chat
        template, or an architecture that is not plain attention).
        """
        self._dtype = dtype
        self._device = device
        self._checkpoint = Checkpoint.open(path)
        self.config = AutoConfig.from_pretrained(path, local_files_only=True)
        self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        _check_supported(path, self.config, self._tokenizer)
        skeleton = self._skeleton()
        self._match(_parameters(skeleton))
        self.size_bytes: int = sum(tensor.nbytes for tensor in skeleton.parameters())
        self.eos_ids = frozenset(_eos_ids(path, self.config, self._tokenizer))

    @property
    def context_token_count(self) -> int:
        """The longest text that the architecture was made for."""
        return int(self.config.max_position_embeddings)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The token ids of a conversation, up to where the answer begins.

        Raises InvalidParameter for a conversation that the chat template does not take.
        """
        turns = [{"role": turn.role.value, "content": turn.content} for turn in messages]
        try:
            token_ids: list[int] = self._tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except TemplateError as error:
            raise InvalidParameter(
                f"the model's chat template refuses these messages: {error}", field="messages"
            ) from error
        return token_ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of these tokens, without special ones."""
        text: str = self._tokenizer.decode(
            token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def build(self, weights: Weights) -> Any:
        """A module in evaluation mode, its tensors decoded straight into it.

        Raises MergeError; then nothing is left of it.
        """
        path = weights.delta or weights.lora
        delta = None if path is None else open_delta(path)
        module = self._skeleton()
        module.to_empty(device=self._device)
        module.tie_weights()
        _compute_derived_buffers(module)
        targets = _parameters(module)
        filled, tied = self._match(targets)
        load(self._checkpoint, delta, {name: targets[name] for name in filled.values()})
        for name, first_name in tied.items():
            again = torch.empty_like(targets[name], requires_grad=False)
            load(self._checkpoint, delta, {name: again})
            if not torch.equal(again, targets[name]):
                raise ShapeMismatch(
                    "the config ties two tensors that differ", tensor=name, expected=first_name
                )
        return module.requires_grad_(False).eval()

    def _skeleton(self) -> Any:
        """The architecture without memory: every tensor on the meta device."""
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(copy.deepcopy(self.config), dtype=self._dtype)

    def _match(self, targets: dict[str, torch.Tensor]) -> tuple[dict[int, str], dict[str, str]]:
        """Which tensor of the checkpoint fills each target, by its id; and those that the config
        ties to one before: name -> that one. Raises MissingTensor, ShapeMismatch for a base whose
        tensors are not those of its own config.
        """
        filled: dict[int, str] = {}
        tied: dict[str, str] = {}
        for name in self._checkpoint.names:
            if DERIVED.search(name):
                continue
            target = _target(targets, name, self._checkpoint.spec(name).shape)
            first_name = filled.setdefault(id(target), name)
            if first_name != name:
                tied[name] = first_name
        for name, target in targets.items():
            if id(target) not in filled:
                raise MissingTensor("the architecture needs this tensor", tensor=name)
        return filled, tied


def _check_supported(path: Path, config: Any, tokenizer: Any) -> None:
    kinds = set(getattr(config, "layer_types", None) or KNOWN_ATTENTION)
    if unknown := sorted(kinds - KNOWN_ATTENTION):
        raise ValueError(f"{path}: layers of type {unknown[0]} are not supported by this engine")
    if not tokenizer.chat_template:
        raise ValueError(f"{path}: the tokenizer has no chat template")


def _eos_ids(path: Path, config: Any, tokenizer: Any) -> set[int]:
    """Every token that ends an answer. Raises ValueError if there is none."""
    generation = config
    if (path / "generation_config.json").is_file():
        generation = GenerationConfig.from_pretrained(path, local_files_only=True)
    found: set[int] = set()
    for source in (generation, tokenizer):
        value = getattr(source, "eos_token_id", None)
        found.update(value if isinstance(value, list) else [] if value is None else [value])
    if not found:
        raise ValueError(f"{path}: no end-of-sequence token is named")
    return found


def _parameters(module: Any) -> dict[str, torch.Tensor]:
    """Tensors of the state dict by name. Tied ones have several names and are one object."""
    tensors: dict[str, torch.Tensor] = module.state_dict(keep_vars=True)
    return tensors


def _target(targets: dict[str, torch.Tensor], name: str, shape: Sequence[int]) -> torch.Tensor:
    if name not in targets:
        raise MissingTensor("the architecture has no such tensor", tensor=name)
    target = targets[name]
    if tuple(target.shape) != tuple(shape):
        raise ShapeMismatch(
            "tensor and architecture differ",
            tensor=name,
            expected=tuple(target.shape),
            found=tuple(shape),
        )
    return target


def _compute_derived_buffers(module: Any) -> None:
    """Compute the buffers that no checkpoint holds, such as rotary frequencies.

    `to_empty` left them undefined. `initialize_weights` of transformers computes them, and leaves
    alone what is marked as initialized, as its own loading does. NaN shows a buffer it missed.
    """
    buffers = dict(module.named_non_persistent_buffers())
    for buffer in buffers.values():
        if buffer.is_floating_point():
            buffer.fill_(torch.nan)
    for tensor in module.state_dict(keep_vars=True).values():
        tensor._is_hf_initialized = True
    for part in module.modules():
        part._is_hf_initialized = False
    module.initialize_weights()
    for name, _ in buffers.items():
        buffer = module.get_buffer(name)
        if buffer.is_floating_point() and bool(buffer.isnan().any()):
            raise MissingTensor("no rule computes this buffer", tensor=name)
