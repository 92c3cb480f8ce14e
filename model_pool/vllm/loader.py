"""Merge on load inside vLLM: base + delta go straight into a new model, never to the disk.

Runs in vLLM's workers. Read from vLLM 0.32.0: `BaseModelLoader`, `AutoWeightsLoader`, and, for the
CPU backend, `UnquantizedLinearMethod` and `UnquantizedEmbeddingMethod`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.model_loader.base_loader import BaseModelLoader

from merge_on_load import Checkpoint, open_delta, stream
from merge_on_load.errors import MissingTensor


class MergedLoader(BaseModelLoader):  # type: ignore[misc] # vLLM publishes no types
    """The load format "deltafleet". `model` is the base; only headers, config and tokenizer of it
    are needed beside the weights that are streamed.

    model_loader_extra_config: {"delta": path} for a specialist, {} for the base.
    """

    def __init__(self, load_config: Any) -> None:
        """Raises ValueError for an unknown key."""
        super().__init__(load_config)
        extra = dict(load_config.model_loader_extra_config or {})
        delta = extra.pop("delta", None)
        self._delta = None if delta is None else Path(delta)
        if extra:
            raise ValueError(f"model_loader_extra_config: unknown {sorted(extra)[0]!r}")

    def download_model(self, model_config: Any) -> None:
        """Nothing to do: the base is a directory."""

    def load_weights(self, model: Any, model_config: Any) -> None:
        """Stream the weights in. Raises MergeError; MissingTensor where a parameter gets none."""
        keep_linears_live(model)
        base = Checkpoint.open(Path(model_config.model))
        delta = None if self._delta is None else open_delta(self._delta)
        loaded = model.load_weights(stream(base, delta))
        for name, _ in model.named_parameters():
            if loaded is not None and name not in loaded:
                raise MissingTensor("the model needs this tensor", file=base.path, tensor=name)

    def load_model(self, vllm_config: Any, model_config: Any, prefix: str = "") -> Any:
        """The model, ready to compute."""
        model = super().load_model(vllm_config, model_config, prefix)
        keep_heads_live(model)
        return model


def keep_linears_live(model: Any) -> None:
    """Before loading: have the CPU backend compute linear layers from their parameters.

    Otherwise it repacks them after loading into copies that nothing written later reaches. vLLM
    has this switch for its own MLA layers. Other backends do not look at it.
    """
    for module in model.modules():
        if isinstance(module, LinearBase):
            module._cpu_skip_gemm_dispatch = True


def keep_heads_live(model: Any) -> None:
    """After loading: the same for embeddings and output heads, which have no such switch."""
    for module in model.modules():
        if "cpu_linear" in vars(module) and getattr(module, "weight", None) is not None:
            module.cpu_linear = torch.nn.functional.linear
