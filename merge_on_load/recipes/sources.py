"""What a recipe merges: models as flat arrays of words, mapped from files where they can be."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from merge_on_load.checkpoint import Checkpoint
from merge_on_load.names import MANIFEST_NAME
from merge_on_load.recipes.lineage import of_adapted, of_model, read_json
from merge_on_load.specs import Bytes, TensorSpec

Words = npt.NDArray[Any]

# How `methods` wants the words of each dtype; float32 holds every value of these.
WORDS = {"BF16": np.uint16, "F16": np.int16, "F32": np.float32}


class Source(Protocol):
    """A model that can be merged."""

    @property
    def path(self) -> Path:
        """What errors name."""

    @property
    def paths(self) -> Sequence[Path]:
        """The directories and files that it is read from."""

    @property
    def names(self) -> Sequence[str]:
        """All tensors."""

    @property
    def config(self) -> Mapping[str, Any]:
        """config.json; {} without one."""

    @property
    def side_files(self) -> Mapping[str, Path]:
        """Tokenizer, templates and the like, by name."""

    @property
    def lineage(self) -> Mapping[str, Any]:
        """What this model is, and came from, for the result's lineage."""

    def fingerprint(self) -> str:
        """Identity of the weights, hex SHA-256; reads all of them once."""

    def spec(self, name: str) -> TensorSpec:
        """dtype and shape. Raises MissingTensor."""

    def raw(self, name: str) -> Bytes:
        """The bytes of a tensor, [size_bytes], read-only. Raises MergeError."""

    def held_bytes(self, name: str) -> int:
        """Memory that `raw` takes until its result is let go; 0 where it is mapped."""

    def release(self, name: str) -> None:
        """The tensor is not needed any more: its pages may go."""


def words_of(raw: Bytes, dtype: str) -> Words:
    """Bytes as flat words, read-only; a view where they are aligned. dtype: a key of WORDS."""
    kind = np.dtype(WORDS[dtype])
    words: Words = (raw if raw.ctypes.data % kind.itemsize == 0 else raw.copy()).view(kind)
    words.flags.writeable = False  # one kind of array: each has compiled code of its own
    return words


class CheckpointSource:
    """A model directory, mapped."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.config = read_json(checkpoint.path / "config.json")
        self.side_files = checkpoint.side_files
        self.names = checkpoint.names
        self.lineage = of_model(checkpoint.path, checkpoint.specs)

    @property
    def path(self) -> Path:
        return self.checkpoint.path

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.checkpoint.path,)

    def fingerprint(self) -> str:
        return self.checkpoint.fingerprint()

    def spec(self, name: str) -> TensorSpec:
        return self.checkpoint.spec(name)

    def raw(self, name: str) -> Bytes:
        return self.checkpoint.raw(name)

    def held_bytes(self, name: str) -> int:
        return 0

    def release(self, name: str) -> None:
        self.checkpoint.release(name)


class Adapted:
    """A model and a LoRA adapter or a delta that is applied to it, tensor by tensor."""

    def __init__(self, model: CheckpointSource, adapter: Path) -> None:
        """Checks that they belong together. Raises MergeError as `stream` does."""
        from merge_on_load.building import Built  # here: they need torch
        from merge_on_load.delta import Delta
        from merge_on_load.lora import Lora

        self._model = model
        is_delta = (adapter / MANIFEST_NAME).is_file()
        opened = Delta.open(adapter) if is_delta else Lora.open(adapter)
        self._digest = opened.digest
        self._built = Built(model.checkpoint, opened)
        self.path = adapter
        below = opened.chain[:-1] if isinstance(opened, Delta) else []
        self.paths = (*model.paths, *(one.path for one in below), adapter)
        self.config = model.config
        self.side_files = self._built.side_files
        self.names = model.names
        self.lineage = of_adapted(model.lineage, adapter)

    def fingerprint(self) -> str:
        told = f"{self._model.fingerprint()} {self._digest}\n"
        return hashlib.sha256(told.encode()).hexdigest()

    def spec(self, name: str) -> TensorSpec:
        return self._built.spec(name)

    def raw(self, name: str) -> Bytes:
        from merge_on_load.tensors import raw_bytes

        return raw_bytes(self._built.read(name))

    def held_bytes(self, name: str) -> int:
        # the result, and about as much again while it is made
        return 2 * self.spec(name).size_bytes

    def release(self, name: str) -> None:
        self._model.release(name)
