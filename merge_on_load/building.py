"""Base + delta -> weights, one tensor at a time."""

from collections.abc import Iterator
from pathlib import Path

import torch

from merge_on_load.aside import check_output_apart
from merge_on_load.checkpoint import Checkpoint
from merge_on_load.checkpoint_writer import CheckpointWriter
from merge_on_load.codecs import SAME, make_codec
from merge_on_load.delta import Delta
from merge_on_load.errors import MergeError, MissingTensor, ShapeMismatch, WrongBase
from merge_on_load.hashing import file_digest
from merge_on_load.lora import Lora
from merge_on_load.opening import open_delta
from merge_on_load.progress import Progress, silent
from merge_on_load.recipes.merging import Merged
from merge_on_load.specs import TensorSpec
from merge_on_load.tensors import from_bytes


class Built:
    """A base and what changes it, checked to belong together; tensors are built when asked for.

    path: of the delta, or of the base where that is all.
    """

    def __init__(self, base: Checkpoint, delta: Delta | Lora | Merged | None) -> None:
        """None: the base itself. Raises as `stream`."""
        self._below: Checkpoint | Built = base
        self._delta = delta
        self.path = base.path if delta is None else delta.path
        if isinstance(delta, Lora):
            delta.verify()
            delta.check_belongs(base)
        elif isinstance(delta, Merged):
            delta.check_belongs(base)
        elif delta is not None:
            if delta.parent:
                self._below = Built(base, delta.parent)
            check_belongs(base, delta)
            delta.verify()

    @property
    def names(self) -> list[str]:
        """All tensors, in the base's order."""
        return self._below.names

    @property
    def side_files(self) -> dict[str, Path]:
        """Those of the model that results. Raises WrongBase when the base's own have changed."""
        if isinstance(self._delta, Delta):
            return _side_files(self._below, self._delta)
        return self._below.side_files

    def spec(self, name: str) -> TensorSpec:
        """dtype and shape of the result. Raises MissingTensor."""
        if isinstance(self._delta, Delta | Merged):
            return self._delta.spec(name)
        return self._below.spec(name)

    def read(self, name: str) -> torch.Tensor:
        """One tensor: treat it as read-only, it may be mapped from the base's files.

        Raises MissingTensor, CorruptPayload.
        """
        delta = self._delta
        if delta is None:
            return self._below.read(name)
        if isinstance(delta, Lora):
            return delta.merge(name, self._below.read(name))
        if isinstance(delta, Merged):
            return from_bytes(delta.raw(name), delta.spec(name))
        entry = delta.entry(name)
        if entry.codec == SAME:
            return self._below.read(name)
        try:
            codec = make_codec(entry.codec, entry.settings)
            return codec.decode(self._below.read(name), delta.payload(name), entry.spec)
        except MergeError as error:
            raise error.located(file=delta.path, tensor=name) from error


def stream(
    base: Checkpoint, delta: Delta | Lora | Merged | None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every (name, tensor) of the model in the base's order; None yields the base itself.

    The base's fingerprint and every byte of the delta are checked before this returns, so that
    nothing is half-applied. Of a LoRA adapter, which names no fingerprint, names and shapes are
    checked, and that no sum overflows; of a recipe's result, names and shapes. Tensors that equal
    the base's are mapped from its files: treat all as read-only. Memory: a few tensors.
    Raises WrongBase, CorruptPayload, MissingTensor, ShapeMismatch; for a LoRA adapter also
    UnsupportedDtype, NonFinite; for a recipe also BadRecipe and NonFinite, tensor by tensor.
    """
    built = Built(base, delta)
    return ((name, built.read(name)) for name in built.names)


def check_belongs(base: Checkpoint, delta: Delta) -> None:
    """Raise WrongBase unless the delta was made from these weights; hashes the base once.

    Raises MissingTensor, ShapeMismatch for a delta that contradicts itself.
    """
    if base.fingerprint() != delta.base_fingerprint:
        raise WrongBase(
            f"delta {delta.path} belongs to base {delta.manifest.base_name!r}",
            file=base.path,
            expected=delta.base_fingerprint,
            found=base.fingerprint(),
        )
    for name in set(base.names) ^ set(delta.manifest.tensors):
        raise MissingTensor("base and delta name other tensors", file=delta.path, tensor=name)
    for name in base.names:
        expected, found = base.spec(name), delta.spec(name)
        if expected.shape != found.shape:
            raise ShapeMismatch(
                "delta is for another shape",
                file=delta.path,
                tensor=name,
                expected=expected,
                found=found,
            )


def unpack(
    base: Path,
    delta: Path,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write the model that `delta` makes of `base` as a checkpoint directory with side files.

    delta: a delta or a LoRA adapter, which has the base's side files. progress: called with done
    and total bytes after each tensor. Raises as `stream`, `Checkpoint.open` and `open_delta` do,
    and OutputExists, DiskFull; then nothing stands under `out`.
    """
    opened_base, opened_delta = Checkpoint.open(base), open_delta(delta)
    check_output_apart(Path(out), (opened_base.path, opened_delta.path))
    built = Built(opened_base, opened_delta)
    specs, side_files = {name: built.spec(name) for name in built.names}, built.side_files
    with CheckpointWriter.open(out, specs, overwrite=overwrite) as writer:
        total_bytes = sum(spec.size_bytes for spec in specs.values())
        done_bytes = 0
        for name in built.names:
            writer.add(name, built.read(name))
            done_bytes += specs[name].size_bytes
            (progress or silent)(done_bytes, total_bytes)
        for name, source in side_files.items():
            writer.add_file(name, source)


def _side_files(base: Checkpoint | Built, delta: Delta) -> dict[str, Path]:
    """The side files of the tuned model. Raises WrongBase when the base's own have changed."""
    sources = delta.side_files
    base_files = base.side_files
    for name, stored in delta.manifest.base_files.items():
        found = file_digest(base_files[name]) if name in base_files else "no such file"
        if found != stored.digest:
            raise WrongBase(
                f"side file is not the one delta {delta.path} was made with",
                file=base.path / name,
                expected=stored.digest,
                found=found,
            )
        sources[name] = base_files[name]
    return sources
