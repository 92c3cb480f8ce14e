"""A model whose embeddings and head have the rows of another vocabulary."""

import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from merge_on_load.vocabulary.filling import Filling
from merge_on_load.vocabulary.names import token_tensors
from merge_on_load.vocabulary.rows import Rows

if TYPE_CHECKING:
    from merge_on_load.recipes.sources import Source
    from merge_on_load.specs import TensorSpec

Raw = npt.NDArray[np.uint8]


@dataclass(slots=True)
class _Built:
    """A tensor that is in use. use_count: how often it was asked for and not released yet."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    raw: Raw | None = None
    use_count: int = 0


class Rearranged:
    """A `Source`: its tensors of tokens have the result's rows, all others are what they were.

    A rearranged tensor is written to a file without a name, a block of rows at a time, and mapped;
    the file is gone when the tensor is released as often as it was asked for.
    """

    def __init__(
        self, member: int, rows: Rows, sources: Sequence["Source"], directory: Path | None
    ) -> None:
        """member: this model's place in sources. directory: of the files; None: the system's.

        Raises ShapeMismatch, MissingTensor, UnsupportedDtype where rows of others do not fit.
        """
        self._source = sources[member]
        self._size = rows.size
        self._directory = directory
        self._fillings = {
            name: Filling(name, member, rows, sources) for name in token_tensors(self._source)
        }
        self._lock = threading.Lock()
        self._built: dict[str, _Built] = {}

    @property
    def path(self) -> Path:
        """The model's own."""
        return self._source.path

    @property
    def paths(self) -> Sequence[Path]:
        """The model's own: those whose rows it has are the recipe's too."""
        return self._source.paths

    @property
    def names(self) -> Sequence[str]:
        """As before."""
        return self._source.names

    @property
    def config(self) -> Mapping[str, Any]:
        """The model's own, which tells the old size of its vocabulary."""
        return self._source.config

    @property
    def side_files(self) -> Mapping[str, Path]:
        """The model's own, its old tokenizer among them."""
        return self._source.side_files

    @property
    def lineage(self) -> Mapping[str, Any]:
        """The model's own."""
        return self._source.lineage

    def fingerprint(self) -> str:
        """The model's own: what its rows become is the recipe's to tell."""
        return self._source.fingerprint()

    def spec(self, name: str) -> "TensorSpec":
        """With as many rows as the result's vocabulary. Raises MissingTensor."""
        spec = self._source.spec(name)
        if name not in self._fillings:
            return spec
        return replace(spec, shape=(self._size, *spec.shape[1:]))

    def raw(self, name: str) -> Raw:
        """Built on first use, by one of the threads that ask. Raises MergeError, OSError."""
        if name not in self._fillings:
            return self._source.raw(name)
        with self._lock:
            built = self._built.setdefault(name, _Built())
            built.use_count += 1
        try:
            with built.lock:
                if built.raw is None:
                    built.raw = self._build(self._fillings[name])
                return built.raw
        except BaseException:
            self._let_go(name)
            raise

    def held_bytes(self, name: str) -> int:
        """0 where all that it is built from is mapped; else what that holds meanwhile."""
        if name not in self._fillings:
            return self._source.held_bytes(name)
        parts = self._fillings[name].parts.values()
        return sum(one.source.held_bytes(one.tensor) for one in parts)

    def release(self, name: str) -> None:
        """The file goes with the last use."""
        if name in self._fillings:
            self._let_go(name)
        else:
            self._source.release(name)

    def _let_go(self, name: str) -> None:
        with self._lock:
            built = self._built.get(name)
            if built is not None:
                built.use_count -= 1
                if built.use_count <= 0:
                    del self._built[name]

    def _build(self, filling: Filling) -> Raw:
        with tempfile.TemporaryFile(dir=self._directory) as file:
            for block in filling.blocks():
                file.write(block.data)
            file.flush()
            return np.asarray(np.memmap(file, np.uint8, mode="r"))
