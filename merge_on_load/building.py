"""Base + delta -> weights, one tensor at a time."""

from collections.abc import Iterator
from pathlib import Path

import torch

from merge_on_load.checkpoint import Checkpoint
from merge_on_load.checkpoint_writer import CheckpointWriter
from merge_on_load.codecs import CODEC_NAMES, SAME, make_codec
from merge_on_load.delta import Delta
from merge_on_load.errors import MergeError, MissingTensor, ShapeMismatch, WrongBase
from merge_on_load.hashing import file_digest
from merge_on_load.lora import Lora
from merge_on_load.opening import open_delta
from merge_on_load.packing import Progress, check_output_apart, silent
from merge_on_load.specs import TensorSpec


def stream(base: Checkpoint, delta: Delta | Lora | None) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every (name, tensor) of the model in the base's order; None yields the base itself.

    The base's fingerprint and every byte of the delta are checked before this returns, so that
    nothing is half-applied. Of a LoRA adapter, which names no fingerprint, names and shapes are
    checked, and that no sum overflows. Tensors that equal the base's are mapped from its files:
    treat all as read-only. Memory: a few tensors.
    Raises WrongBase, CorruptPayload, MissingTensor, ShapeMismatch; for a LoRA adapter also
    UnsupportedDtype, NonFinite.
    """
    if delta is None:
        return ((name, base.read(name)) for name in base.names)
    if isinstance(delta, Lora):
        delta.verify()
        delta.check_belongs(base)
        return ((name, delta.merge(name, base.read(name))) for name in base.names)
    check_belongs(base, delta)
    delta.verify()
    return _tensors(base, delta)


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
    and OutputExists; then nothing stands under `out`.
    """
    opened_base, opened_delta = Checkpoint.open(base), open_delta(delta)
    check_output_apart(Path(out), (opened_base.path, opened_delta.path))
    specs, side_files = _plan(opened_base, opened_delta)
    with CheckpointWriter.open(out, specs, overwrite=overwrite) as writer:
        total_bytes = sum(spec.size_bytes for spec in specs.values())
        done_bytes = 0
        for name, tensor in stream(opened_base, opened_delta):
            writer.add(name, tensor)
            done_bytes += tensor.nbytes
            (progress or silent)(done_bytes, total_bytes)
        for name, source in side_files.items():
            writer.add_file(name, source)


def _plan(base: Checkpoint, delta: Delta | Lora) -> tuple[dict[str, TensorSpec], dict[str, Path]]:
    """The tensors' specs and the side files of what will be written. Raises as `stream`."""
    if isinstance(delta, Lora):
        delta.check_belongs(base)
        return {name: base.spec(name) for name in base.names}, base.side_files
    check_belongs(base, delta)
    return {name: delta.spec(name) for name in base.names}, _side_files(base, delta)


def _tensors(base: Checkpoint, delta: Delta) -> Iterator[tuple[str, torch.Tensor]]:
    codecs = {name: make_codec(name, delta.manifest.settings) for name in CODEC_NAMES}
    for name in base.names:
        entry = delta.entry(name)
        if entry.codec == SAME:
            yield name, base.read(name)
            continue
        try:
            rebuilt = codecs[entry.codec].decode(base.read(name), delta.payload(name), entry.spec)
        except MergeError as error:
            raise error.located(file=delta.path, tensor=name) from error
        yield name, rebuilt


def _side_files(base: Checkpoint, delta: Delta) -> dict[str, Path]:
    """The side files of the tuned model. Raises WrongBase when the base's own have changed."""
    sources = delta.side_files
    base_files = base.side_files
    for name, stored in delta.manifest.base_files.items():
        found = file_digest(base_files[name]) if name in base_files else "no such file"
        if found != stored.sha256:
            raise WrongBase(
                f"side file is not the one delta {delta.path} was made with",
                file=base.path / name,
                expected=stored.sha256,
                found=found,
            )
        sources[name] = base_files[name]
    return sources
