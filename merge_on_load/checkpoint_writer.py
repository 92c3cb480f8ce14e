"""Write a Hugging Face safetensors directory as a stream of tensors, in bounded memory."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from merge_on_load.aside import written_aside
from merge_on_load.errors import DiskFull, MissingTensor, ShapeMismatch
from merge_on_load.names import INDEX_NAME, WEIGHTS_NAME
from merge_on_load.specs import TensorSpec
from merge_on_load.tensor_out import PAGE_BYTES, OutFile
from merge_on_load.tensorfile import render_header

if TYPE_CHECKING:
    import torch

DEFAULT_SHARD_LIMIT_BYTES = 5_000_000_000  # as Hugging Face splits by default


class CheckpointWriter:
    """Adds each tensor of `specs` once, in any order, and side files; see `open`.

    Offsets are planned from `specs`, so each tensor goes straight to its place.
    """

    def __init__(self, directory: Path, specs: Mapping[str, TensorSpec]) -> None:
        """Use `CheckpointWriter.open`."""
        self._directory = directory
        self._specs = dict(specs)
        self._places: dict[str, tuple[OutFile, int]] = {}

    @classmethod
    @contextmanager
    def open(
        cls,
        out: Path,
        specs: Mapping[str, TensorSpec],
        *,
        shard_limit_bytes: int = DEFAULT_SHARD_LIMIT_BYTES,
        overwrite: bool = False,
    ) -> "Iterator[CheckpointWriter]":
        """Yield a writer into a directory aside that becomes `out` when the block ends well.

        An error leaves nothing under `out`. Raises OutputExists; DiskFull, at once where the room
        is known to be too little; MissingTensor at the end when a planned tensor was never added.
        """
        with written_aside(Path(out), overwrite=overwrite) as directory, ExitStack() as files:
            writer = cls(directory, specs)
            writer._lay_out(files, shard_limit_bytes)
            yield writer
            writer._check_complete()

    def add(self, name: str, tensor: "torch.Tensor") -> None:
        """Write one tensor. Raises MissingTensor (not planned, or twice), ShapeMismatch."""
        from merge_on_load.tensors import raw_bytes, spec_of  # here: torch is slow to import

        file, offset = self.place(name)
        if (found := spec_of(tensor)) != self._specs[name]:
            raise ShapeMismatch(
                "tensor is not as planned", tensor=name, expected=self._specs[name], found=found
            )
        file.write(raw_bytes(tensor.cpu()).data, offset)
        self.written(name)

    def place(self, name: str) -> tuple[OutFile, int]:
        """Where a tensor goes: its file, and where it begins there.

        Say `written` when all of it is there. Raises MissingTensor (not planned, or written).
        """
        if name not in self._places:
            raise MissingTensor("tensor is not planned or was written", tensor=name)
        return self._places[name]

    def written(self, name: str) -> None:
        """A tensor is in its place."""
        del self._places[name]

    def add_text(self, name: str, content: bytes) -> None:
        """Write a side file."""
        (self._directory / name).write_bytes(content)

    def add_file(self, name: str, source: Path) -> None:
        """Copy a side file into the directory under `name`."""
        shutil.copyfile(source, self._directory / name)

    def _check_complete(self) -> None:
        for name in self._places:
            raise MissingTensor("tensor was never written", file=self._directory, tensor=name)

    def _lay_out(self, opened: ExitStack, shard_limit_bytes: int) -> None:
        needed = sum(spec.size_bytes for spec in self._specs.values())
        usage = shutil.disk_usage(self._directory)
        if needed > usage.free and usage.total:  # some filesystems tell no size
            raise DiskFull(
                "not enough room",
                file=self._directory,
                expected=f"{needed} bytes",
                found=f"{usage.free} bytes free",
            )
        shards = _split(self._specs, shard_limit_bytes)
        files = {_shard_name(i, len(shards)): shard for i, shard in enumerate(shards)}
        for filename, names in files.items():
            self._begin(opened, self._directory / filename, names)
        if len(files) > 1:
            self._write_index(files)

    def _begin(self, opened: ExitStack, path: Path, names: list[str]) -> None:
        """Write the header of a shard and note where each tensor of it goes."""
        # Widest dtype first keeps every tensor aligned, as the reference writer does.
        ordered = sorted(names, key=lambda name: -self._specs[name].item_bytes)
        specs = {name: self._specs[name] for name in ordered}
        header = render_header(specs, {"format": "pt"}, multiple_bytes=PAGE_BYTES)
        size_bytes = sum(self._specs[name].size_bytes for name in names)
        file = opened.enter_context(OutFile.create(path, len(header) + size_bytes))
        file.write(memoryview(header), 0)
        offset = len(header)
        for name in ordered:
            self._places[name] = (file, offset)
            offset += self._specs[name].size_bytes

    def _write_index(self, files: Mapping[str, list[str]]) -> None:
        total = sum(spec.size_bytes for spec in self._specs.values())
        weight_map = {name: filename for filename, names in files.items() for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (self._directory / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n")


def _split(specs: Mapping[str, TensorSpec], limit_bytes: int) -> list[list[str]]:
    """Cut the names, in order, into shards of at most limit_bytes (or of one large tensor)."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, spec in specs.items():
        if shards[-1] and filled + spec.size_bytes > limit_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += spec.size_bytes
    return shards


def _shard_name(index: int, count: int) -> str:
    return WEIGHTS_NAME if count == 1 else f"model-{index + 1:05d}-of-{count:05d}.safetensors"
