"""A dense model as an assembly sees it: layers of attention and a gated MLP, checked by name."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from merge_on_load.errors import BadRecipe, MissingTensor, ShapeMismatch
from merge_on_load.moe.families import MLP_PARTS, Family
from merge_on_load.recipes.layers import layer_count
from merge_on_load.recipes.sources import Source

EMBEDDING = "model.embed_tokens.weight"
NORM = "model.norm.weight"
HEAD = "lm_head.weight"

# model_type -> models whose MLPs compute the same and may stand beside each other.
_KIN = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
# Old checkpoints of Llama carry what every loader computes from config.json.
_COMPUTED = "self_attn.rotary_emb.inv_freq"


@dataclass(frozen=True, slots=True)
class Dense:
    """A dense model. layers: for each what follows its number. loose: tensors outside of them."""

    source: Source
    model_type: str
    layers: tuple[tuple[str, ...], ...]
    loose: tuple[str, ...]

    @property
    def config(self) -> Mapping[str, Any]:
        """config.json."""
        return self.source.config

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor. Raises MissingTensor."""
        return self.source.spec(name).shape


def layer_tensor(layer: int, rest: str) -> str:
    """The full name, in dense models and in every sparse family."""
    return f"model.layers.{layer}.{rest}"


def mlp_part(part: str) -> str:
    """A part of a dense layer's MLP. part: one of MLP_PARTS."""
    return f"mlp.{part}.weight"


def read_dense(source: Source) -> Dense:
    """Sort a model's tensors into layers. Raises BadRecipe: not a dense model of a known kind."""
    model_type = source.config.get("model_type")
    if model_type not in _KIN:
        raise BadRecipe(
            "an assembly takes dense models of few architectures",
            file=source.path,
            expected=", ".join(_KIN),
            found=model_type,
        )
    layers: dict[int, list[str]] = {}
    loose = []
    for name in source.names:
        place = _LAYER.fullmatch(name)
        if place is None:
            loose.append(name)
        elif place[2] != _COMPUTED:
            layers.setdefault(int(place[1]), []).append(place[2])
    count = layer_count(source.config)
    if not layers or sorted(layers) != list(range(count or len(layers))):
        raise BadRecipe(
            "the tensors are not those of the layers that config.json tells",
            file=source.path,
            expected=count,
            found=len(layers),
        )
    return Dense(
        source, model_type, tuple(tuple(layers[i]) for i in range(len(layers))), tuple(loose)
    )


def check_base(base: Dense, family: Family) -> None:
    """Every tensor of the base has a place in the family, and all layers are of the same shapes.

    Raises BadRecipe (a bias, say, that the family has not), MissingTensor, ShapeMismatch.
    """
    needed = (*family.needed, *(mlp_part(part) for part in MLP_PARTS))
    for number, found in enumerate(base.layers):
        _check_names(
            base,
            family,
            [layer_tensor(number, rest) for rest in found],
            [layer_tensor(number, rest) for rest in needed],
            [layer_tensor(number, rest) for rest in family.optional],
        )
        for rest in dict.fromkeys((*base.layers[0], *found)):
            _check_shape(base, layer_tensor(0, rest), base, layer_tensor(number, rest))
    _check_names(base, family, base.loose, [EMBEDDING, NORM], [HEAD])
    if HEAD not in base.loose and not base.config.get("tie_word_embeddings"):
        raise MissingTensor(
            "config.json does not tie it to the embeddings", file=base.source.path, tensor=HEAD
        )


def _check_names(
    base: Dense,
    family: Family,
    found: Sequence[str],
    needed: Sequence[str],
    optional: Sequence[str],
) -> None:
    for name in needed:
        if name not in found:
            raise MissingTensor(f"{family.class_name} needs it", file=base.source.path, tensor=name)
    for name in found:
        if name not in needed and name not in optional:
            raise BadRecipe(
                f"{family.class_name} has no place for it", file=base.source.path, tensor=name
            )


def check_expert(base: Dense, expert: Dense) -> None:
    """The expert's MLPs are as the base's. Raises BadRecipe, MissingTensor, ShapeMismatch."""
    path = expert.source.path
    for key, of_base, of_expert in (
        ("architecture", _KIN[base.model_type], _KIN[expert.model_type]),
        ("hidden_act", _activation(base), _activation(expert)),
        ("number of layers", len(base.layers), len(expert.layers)),
    ):
        if of_base != of_expert:
            raise BadRecipe(
                f"an expert has another {key} than the base {base.source.path}",
                file=path,
                expected=of_base,
                found=of_expert,
            )
    for number, found in enumerate(expert.layers):
        parts = [mlp_part(part) for part in MLP_PARTS]
        for rest in parts:
            name = layer_tensor(number, rest)
            _check_shape(base, name, expert, name)
        for rest in found:
            if rest.startswith("mlp.") and rest not in parts:
                raise BadRecipe(
                    "an expert has no place for it", file=path, tensor=layer_tensor(number, rest)
                )


def _activation(dense: Dense) -> object:
    return dense.config.get("hidden_act", "silu")


def _check_shape(base: Dense, told: str, other: Dense, name: str) -> None:
    """A tensor of the other has the shape of the base's `told`."""
    expected, found = base.shape(told), other.shape(name)
    if expected != found:
        raise ShapeMismatch(
            f"not of the shape of {told} in {base.source.path}",
            file=other.source.path,
            tensor=name,
            expected=list(expected),
            found=list(found),
        )
