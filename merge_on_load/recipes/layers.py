"""Which tensors of a model belong to which layer. By names alone: no list of architectures.

A layer's tensors bear its number: `model.layers.7.mlp.up_proj.weight`. The first number in a name
is the layer's; later ones (experts) are part of what the layer has.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# What config.json calls the number of layers, by architecture.
_COUNT_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_NUMBER = re.compile(r"(?:^|(?<=\.))\d+(?=\.)")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output_projection|output)\.weight$")
_EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|embed_in|wte|word_embeddings|tok_embeddings|embeddings)\.weight$"
)
_BEFORE = re.compile(r"(^|[._])(embed\w*|emb|wte|wpe|\w+_embeddings?|embeddings?_norm)(\.|$)")


@dataclass(frozen=True, slots=True)
class Layout:
    """A model's tensors by layer.

    stack: what stands before the layer's number, None for a model without layers. layers: for each
    layer what follows the number -> the tensor's name. loose: tensors that belong to none. depths:
    tensor -> 0 (first layer) to 1 (last layer); 0 for what belongs to none, as in mergekit.
    """

    stack: str | None
    layers: tuple[Mapping[str, str], ...]
    loose: tuple[str, ...]
    depths: Mapping[str, float]

    @property
    def layer_count(self) -> int:
        """Layers of the stack; 0 without one."""
        return len(self.layers)


def layout_of(names: Iterable[str], config: Mapping[str, Any]) -> Layout:
    """The layout of a model with these tensors. config: config.json, {} without one.

    Of several stacks (an encoder and a decoder) the one with as many layers as config.json says,
    and then the one with most tensors, is `stack`; tensors of others are loose.
    """
    listed = list(names)
    stacks = _stacks(listed)
    stack = _main_stack(stacks, listed, layer_count(config))
    depths = {name: _depth(name, stacks) for name in listed}
    if stack is None:
        return Layout(None, (), tuple(listed), depths)
    layers: list[dict[str, str]] = [{} for _ in range(stacks[stack])]
    loose = []
    for name in listed:
        place = _place(name)
        if place is not None and place[0] == stack:
            layers[place[1]][place[2]] = name
        else:
            loose.append(name)
    return Layout(stack, tuple(layers), tuple(loose), depths)


def layer_count(config: Mapping[str, Any]) -> int | None:
    """The number of layers that a config.json tells, its `text_config` included."""
    for told in (config, config.get("text_config") or {}):
        for key in _COUNT_KEYS:
            if isinstance(told.get(key), int):
                return int(told[key])
    return None


def with_layers(
    config: Mapping[str, Any], kept: Iterable[tuple[Mapping[str, Any], int]]
) -> dict[str, Any]:
    """config for a model whose layers are these, each given as its source's config and its number.

    The count changes, and with it every list that has an entry for each layer (`layer_types`).
    """
    layers = list(kept)
    text = config.get("text_config")
    changed = dict(config)
    if isinstance(text, dict) and layer_count({**config, "text_config": None}) is None:
        inner = [(one.get("text_config") or one, number) for one, number in layers]
        return {**changed, "text_config": with_layers(text, inner)}
    count = layer_count(config)
    for key, value in config.items():
        if key in _COUNT_KEYS and value == count:
            changed[key] = len(layers)
        elif isinstance(value, list) and len(value) == count and _is_per_layer(key, layers):
            changed[key] = [one[key][number] for one, number in layers]
    return changed


def is_before_layers(name: str) -> bool:
    """Whether a tensor outside the layers comes before them: embeddings and their like."""
    return bool(_BEFORE.search(name)) and not is_head(name)


def is_head(name: str) -> bool:
    """Whether this is the matrix from the last hidden state to the vocabulary."""
    return bool(_HEAD.search(name))


def embedding_of(names: Iterable[str]) -> str | None:
    """The name of the token embeddings among these."""
    return next((name for name in names if _EMBEDDING.search(name)), None)


def _is_per_layer(key: str, layers: list[tuple[Mapping[str, Any], int]]) -> bool:
    return all(
        isinstance(one.get(key), list) and len(one[key]) == layer_count(one) for one, _ in layers
    )


def _place(name: str) -> tuple[str, int, str] | None:
    """What stands before the first number, the number, what follows it."""
    found = _NUMBER.search(name)
    return found and (name[: found.start()], int(found.group()), name[found.end() :])


def _stacks(names: list[str]) -> dict[str, int]:
    """Prefix -> number of layers, where the numbers have no gap."""
    numbers: dict[str, set[int]] = {}
    for name in names:
        if (place := _place(name)) is not None:
            numbers.setdefault(place[0], set()).add(place[1])
    return {prefix: len(found) for prefix, found in numbers.items() if max(found) + 1 == len(found)}


def _main_stack(stacks: Mapping[str, int], names: list[str], told: int | None) -> str | None:
    sizes = Counter(place[0] for name in names if (place := _place(name)) is not None)
    order = sorted(stacks, key=lambda one: (stacks[one] != told, -sizes[one]))
    return order[0] if order else None


def _depth(name: str, stacks: Mapping[str, int]) -> float:
    place = _place(name)
    if place is not None and place[0] in stacks:
        last = stacks[place[0]] - 1
        return place[1] / last if last else 1.0
    return 0.0
