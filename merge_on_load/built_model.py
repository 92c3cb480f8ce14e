"""A base and a delta seen as the checkpoint that they make, without writing one."""

from functools import cached_property
from pathlib import Path

import torch

from merge_on_load.building import Built
from merge_on_load.checkpoint import Checkpoint, fingerprint_of
from merge_on_load.delta import Delta
from merge_on_load.errors import CorruptPayload
from merge_on_load.specs import TensorSpec
from merge_on_load.tensors import tensor_digest


class BuiltModel:
    """What `Checkpoint` tells, of what base and delta make. Memory: one tensor.

    Tensors are built again each time they are read.
    """

    def __init__(self, base: Checkpoint, delta: Delta) -> None:
        """Raises as `stream`."""
        self._built = Built(base, delta)
        self._recorded = delta.manifest.rebuilt_fingerprint
        self.path = delta.path
        self.names = self._built.names
        self.specs = {name: self._built.spec(name) for name in self.names}

    @property
    def size_bytes(self) -> int:
        """Of all tensors."""
        return sum(spec.size_bytes for spec in self.specs.values())

    @property
    def parameter_count(self) -> int:
        """Of all tensors."""
        return sum(spec.parameter_count for spec in self.specs.values())

    @property
    def side_files(self) -> dict[str, Path]:
        """See `Built.side_files`."""
        return self._built.side_files

    def spec(self, name: str) -> TensorSpec:
        """dtype and shape."""
        return self.specs[name]

    def read(self, name: str) -> torch.Tensor:
        """See `Built.read`."""
        return self._built.read(name)

    def tensor_digests(self) -> dict[str, str]:
        """BLAKE3 of the bytes of each tensor, hex; all are built once for it."""
        return self._digests

    def fingerprint(self) -> str:
        """See `Checkpoint.fingerprint`. Raises CorruptPayload unless it is the one recorded."""
        found = fingerprint_of(self.specs, self._digests)
        if found != self._recorded:
            problem = "the rebuilt model is not the one that was packed"
            raise CorruptPayload(problem, file=self.path, expected=self._recorded, found=found)
        return found

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {name: tensor_digest(self.read(name)) for name in self.names}
