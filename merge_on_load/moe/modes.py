"""Where gates come from: chance, the embeddings of prompts, or their hidden states."""

import hashlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from merge_on_load.errors import BadRecipe, UnsupportedDtype
from merge_on_load.moe.dense import EMBEDDING
from merge_on_load.moe.made import Gate
from merge_on_load.moe.prompts import Prompts, tokenize, tokenizer_directory
from merge_on_load.recipes.sources import WORDS, CheckpointSource, Source
from merge_on_load.rounding import Float32, as_words, to_float32


class RandomMode:
    """Random numbers, for a model that is to be trained: the seed's, and the tensor name's."""

    held_bytes = 0

    def __init__(self, seed: int, deviation: float | None) -> None:
        """deviation: of normal numbers. None: uniform ones below 1 / sqrt(hidden_size), as torch
        initialises a linear layer.
        """
        self._seed = seed
        self._deviation = deviation

    def weights(self, gate: Gate) -> Float32:
        told = hashlib.sha256(f"{self._seed}:{gate.tensor}".encode()).digest()
        random = np.random.Generator(np.random.Philox(key=int.from_bytes(told[:16], "little")))
        if self._deviation is not None:
            return random.standard_normal(gate.shape, np.float32) * np.float32(self._deviation)
        bound = gate.shape[-1] ** -0.5
        return random.uniform(-bound, bound, gate.shape).astype(np.float32)


class EmbeddingMode:
    """`cheap_embed`: mean embeddings of the prompts' tokens, the same for each layer."""

    def __init__(self, base: Source, prompts: Sequence[Prompts], expert_count: int) -> None:
        """prompts: of the experts, and of a shared one that has a gate of its own.

        Raises BadRecipe: no tokenizer; UnsupportedDtype: embeddings of another kind.
        """
        spec = base.spec(EMBEDDING)
        if spec.dtype not in WORDS:
            raise UnsupportedDtype(
                "cannot be averaged", file=base.path, tensor=EMBEDDING, found=spec.dtype
            )
        self._base = base
        self._directory = tokenizer_directory(base)
        self._expert_count = expert_count
        self._rows = _Once(lambda: _rows(prompts, self._embed, base.path))

    @property
    def held_bytes(self) -> int:
        return self._base.held_bytes(EMBEDDING)

    def weights(self, gate: Gate) -> Float32:
        return _share(self._rows.get()[:, 0], gate, self._expert_count)

    def _embed(self, texts: Sequence[str]) -> Float32:
        """Sums over the tokens: float32[len(texts), 1, hidden_size]."""
        spec = self._base.spec(EMBEDDING)
        raw = self._base.raw(EMBEDDING).reshape(spec.shape[0], -1)
        rows = []
        for ids in tokenize(self._directory, texts, spec.shape[0]):
            found = to_float32(as_words(raw[ids].reshape(-1), spec.item_bytes), spec.dtype)
            rows.append(found.reshape(len(ids), -1).sum(axis=0))
        self._base.release(EMBEDDING)
        return np.stack(rows)[:, None]


class HiddenMode:
    """`hidden`: for each layer, mean hidden states of the prompts' tokens at what its MLP gets.

    That takes a forward pass of the whole base model in its own dtype, which is held in memory for
    as long: as many bytes as its checkpoint has, once, however many gates there are.
    """

    def __init__(
        self, base: Source, prompts: Sequence[Prompts], expert_count: int, layer_count: int
    ) -> None:
        """prompts: as in `EmbeddingMode`. Raises BadRecipe: nothing to load."""
        if not isinstance(base, CheckpointSource):
            raise BadRecipe(
                "gate_mode hidden runs the base model: it must be a model directory", file=base.path
            )
        self._base = base
        self._size_bytes = sum(base.spec(name).size_bytes for name in base.names)
        self._is_done = False
        self._directory = tokenizer_directory(base)
        self._expert_count = expert_count
        self._layer_count = layer_count
        self._rows = _Once(lambda: _rows(prompts, self._run, base.path))

    @property
    def held_bytes(self) -> int:
        return 0 if self._is_done else self._size_bytes

    def weights(self, gate: Gate) -> Float32:
        return _share(self._rows.get()[:, gate.layer], gate, self._expert_count)

    def _run(self, texts: Sequence[str]) -> Float32:
        """Sums over the tokens: float32[len(texts), layer_count, hidden_size]."""
        from merge_on_load.moe.hidden import summed_hidden_states  # here: it needs torch

        ids = tokenize(self._directory, texts, self._base.spec(EMBEDDING).shape[0])
        found = summed_hidden_states(self._base.path, ids, self._layer_count)
        self._is_done = True
        return found


class _Once:
    """A value that the first who asks computes."""

    def __init__(self, compute: Callable[[], Float32]) -> None:
        self._compute = compute
        self._lock = threading.Lock()
        self._found: Float32 | None = None

    def get(self) -> Float32:
        with self._lock:
            if self._found is None:
                self._found = self._compute()
            return self._found


def _share(rows: Float32, gate: Gate, expert_count: int) -> Float32:
    """The rows of a gate: the experts' come first, then the shared one's."""
    return rows[expert_count:] if gate.is_shared else rows[:expert_count]


def _rows(
    prompts: Sequence[Prompts], sums_of: Callable[[Sequence[str]], Float32], file: Path
) -> Float32:
    """For each expert and layer a direction: float32[len(prompts), layer_count, hidden_size].

    That of the positive prompts' mean, minus that of the negative ones'. Every token counts as much
    as any other; all directions are of length 1, so that no expert is chosen for the length of its
    gate. Raises BadRecipe where nothing is left.
    """
    texts = tuple(dict.fromkeys(t for one in prompts for t in (*one.positive, *one.negative)))
    sums = dict(zip(texts, sums_of(texts), strict=True))
    rows = []
    for one in prompts:
        found = _direction(np.sum([sums[text] for text in one.positive], axis=0))
        if one.negative:
            found = found - _direction(np.sum([sums[text] for text in one.negative], axis=0))
            found = _direction(found)
        if not np.isfinite(found).all():
            raise BadRecipe(
                "prompts that leave no direction for a gate", file=file, found=one.expert
            )
        rows.append(found)
    return np.stack(rows)


def _direction(vectors: Float32) -> Float32:
    """Vectors along the last axis, each divided by its length: NaN for one of length 0."""
    with np.errstate(invalid="ignore"):
        found: Float32 = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return found
