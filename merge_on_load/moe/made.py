"""Tensors that no model has: routers, and what stands in for a shared expert that is not there."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from blake3 import blake3

from merge_on_load.errors import MissingTensor, NonFinite
from merge_on_load.rounding import Float32, from_float32
from merge_on_load.specs import Bytes, TensorSpec


@dataclass(frozen=True, slots=True)
class Gate:
    """A router, [expert_count, hidden_size], or a shared expert's gate, [1, hidden_size].

    tensor: its name in the result.
    """

    tensor: str
    layer: int
    is_shared: bool
    shape: tuple[int, ...]


class Mode(Protocol):
    """Where the weights of gates come from. Threads may ask at the same time."""

    @property
    def held_bytes(self) -> int:
        """Memory that the next `weights` takes beside its result."""

    def weights(self, gate: Gate) -> Float32:
        """float32[*gate.shape]. Raises MergeError."""


class Zeros:
    """sigmoid(0) = 1/2 as a shared expert's gate; nothing at all as a part of an expert."""

    held_bytes = 0

    def weights(self, gate: Gate) -> Float32:
        return np.zeros(gate.shape, np.float32)


class Gates:
    """A `Source` of tensors that are computed when they are asked for."""

    paths: Sequence[Path] = ()  # none of its own
    config: Mapping[str, Any] = {}
    side_files: Mapping[str, Path] = {}
    lineage: Mapping[str, Any] = {}

    def __init__(self, path: Path, dtype: str, made: Iterable[tuple[Gate, Mode]]) -> None:
        """path: what errors name. dtype: of all of them, one that float32 holds."""
        self.path = path
        self._dtype = dtype
        self._made = {gate.tensor: (gate, mode) for gate, mode in made}

    @property
    def names(self) -> Sequence[str]:
        return list(self._made)

    def fingerprint(self) -> str:
        """BLAKE3 over all names, specs and bytes: computes all of them."""
        total = blake3()
        for name in self.names:
            total.update(f"{name} {self.spec(name)}\n".encode())
            total.update(self.raw(name).data)
        return total.hexdigest()

    def spec(self, name: str) -> TensorSpec:
        return TensorSpec(self._dtype, self._find(name)[0].shape)

    def raw(self, name: str) -> Bytes:
        """Raises NonFinite, and what the mode raises."""
        gate, mode = self._find(name)
        weights = mode.weights(gate)
        if not np.isfinite(weights).all():
            raise NonFinite("a gate with NaN or infinity", file=self.path, tensor=name)
        return from_float32(
            np.ascontiguousarray(weights, np.float32).reshape(-1), self._dtype
        ).view(np.uint8)

    def held_bytes(self, name: str) -> int:
        gate, mode = self._find(name)
        return 2 * TensorSpec("F32", gate.shape).size_bytes + mode.held_bytes

    def release(self, name: str) -> None:
        """Nothing is mapped."""

    def _find(self, name: str) -> tuple[Gate, Mode]:
        try:
            return self._made[name]
        except KeyError:
            raise MissingTensor("no such tensor", file=self.path, tensor=name) from None
