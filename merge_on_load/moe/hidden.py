"""What a model's MLPs get, for given tokens. Needs torch and transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from merge_on_load.errors import BadRecipe
from merge_on_load.rounding import Float32


def summed_hidden_states(
    directory: Path, texts: Sequence[Sequence[int]], layer_count: int
) -> Float32:
    """float32[len(texts), layer_count, hidden_size]: normed, the sum over the tokens.

    The model is loaded in its own dtype and let go at the end: its bytes, and the activations of
    one text. texts: token ids of each, at least one. Raises BadRecipe.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype="auto").eval()
    states: list[torch.Tensor] = []
    for layer in model.base_model.layers:
        layer.mlp.register_forward_pre_hook(
            lambda _, given: states.append(given[0].float().sum(dim=(0, 1)))
        )
    found = []
    for ids in texts:
        states.clear()
        with torch.inference_mode():
            model.base_model(input_ids=torch.tensor([ids]), use_cache=False)  # without the head
        if len(states) != layer_count:
            raise BadRecipe(
                "the model has other layers than its checkpoint",
                file=directory,
                expected=layer_count,
                found=len(states),
            )
        found.append(torch.stack(states).numpy())
    return np.stack(found)
