"""Hugging Face safetensors directories, read lazily."""

import hashlib
import json
import mmap
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from merge_on_load.errors import (
    CorruptPayload,
    MissingTensor,
    NotACheckpoint,
    UnsupportedDtype,
)
from merge_on_load.hashing import digest_of
from merge_on_load.names import INDEX_NAME, WEIGHTS_NAME
from merge_on_load.specs import Bytes, TensorSpec
from merge_on_load.threads import parallel_map

if TYPE_CHECKING:
    import torch

_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0  # Python 3.11 has no name for it
# Side files are small and travel with the weights; these are weights or say nothing to a loader.
_LEFT_BEHIND = (".safetensors", ".index.json", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack")


def open_tensors(path: Path, framework: str = "pt") -> Any:
    """Open one safetensors file as a lazy handle; "np" needs no torch. Raises CorruptPayload."""
    try:
        return safe_open(path, framework=framework)
    except (OSError, SafetensorError) as error:
        raise CorruptPayload(f"not a readable safetensors file: {error}", file=path) from error


def spec_in_file(file: Path, handle: Any, name: str) -> TensorSpec:
    """dtype and shape of one tensor of an open file. Raises UnsupportedDtype."""
    header = handle.get_slice(name)
    try:
        return TensorSpec(header.get_dtype(), tuple(header.get_shape()))
    except UnsupportedDtype as error:
        raise error.located(file=file, tensor=name) from error


def data_begin(path: Path) -> int:
    """Where the tensors of a safetensors file begin."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


class Checkpoint:
    """A model directory: `model.safetensors`, or shards named by an index.

    Only headers are read on opening; tensors are mapped from the file when asked for.
    """

    def __init__(
        self,
        path: Path,
        files: dict[str, "_Mapped"],
        specs: dict[str, TensorSpec],
        offsets: dict[str, int],
    ) -> None:
        """Use `Checkpoint.open`. By tensor name: its file, its header entry, where it begins."""
        self.path = path
        self._files = files
        self._specs = specs
        self._offsets = offsets
        self._digests: dict[str, str] | None = None

    @classmethod
    def open(cls, path: Path) -> "Checkpoint":
        """Read the headers of a model directory.

        Raises NotACheckpoint, CorruptPayload (truncated or malformed file), MissingTensor (a
        shard lacks what the index names), UnsupportedDtype.
        """
        path = Path(path)
        files: dict[str, _Mapped] = {}
        specs: dict[str, TensorSpec] = {}
        offsets: dict[str, int] = {}
        for shard, wanted in _shards(path):
            handle = open_tensors(path / shard, "np")
            _check_names(path / shard, set(handle.keys()), wanted)
            file = _Mapped(path / shard)
            offset = file.data_begin
            for name in handle.offset_keys():  # the format leaves no gaps between tensors
                files[name] = file
                specs[name] = spec_in_file(path / shard, handle, name)
                offsets[name] = offset
                offset += specs[name].size_bytes
        return cls(path, files, specs, offsets)

    @property
    def names(self) -> list[str]:
        """Tensor names in the order of the files: the order that reads them fastest."""
        return list(self._specs)

    def spec(self, name: str) -> TensorSpec:
        """dtype and shape from the header. Raises MissingTensor."""
        try:
            return self._specs[name]
        except KeyError:
            raise MissingTensor("no such tensor", file=self.path, tensor=name) from None

    def raw(self, name: str) -> Bytes:
        """The bytes of one tensor, [size_bytes], mapped from the file, read-only.

        Raises MissingTensor.
        """
        begin, size = self.place(name)
        found = np.frombuffer(self._files[name].memory, np.uint8, size, begin)
        found.flags.writeable = False
        return found

    def release(self, name: str) -> None:
        """Let the pages of a tensor go from this process; they come back when it is read."""
        begin, size = self.place(name)
        first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (begin + size) // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first:
            self._files[name].memory.madvise(mmap.MADV_DONTNEED, first, last - first)

    def read(self, name: str) -> "torch.Tensor":
        """One tensor, mapped from the file: treat it as read-only and clone before changing it.

        A change in place would show in later reads from this object, though not in the file.
        Raises MissingTensor.
        """
        import torch  # here: it is slow to import

        spec = self.spec(name)
        dtype: torch.dtype = spec.torch_dtype
        if not spec.parameter_count:
            return torch.empty(spec.shape, dtype=dtype)
        # The memory that `raw` has: whoever took the fingerprint has mapped its pages already.
        memory, begin = self._files[name].memory, self._offsets[name]
        flat = torch.frombuffer(memory, dtype=dtype, count=spec.parameter_count, offset=begin)
        return flat.reshape(spec.shape)

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """dtype and shape of every tensor."""
        return dict(self._specs)

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors, without headers and side files."""
        return sum(spec.size_bytes for spec in self._specs.values())

    @property
    def parameter_count(self) -> int:
        return sum(spec.parameter_count for spec in self._specs.values())

    @property
    def side_files(self) -> dict[str, Path]:
        """Small files that travel with the weights (config, tokenizer, templates), by name."""
        return {path.name: path for path in sorted(self.path.iterdir()) if _is_side_file(path)}

    def tensor_digests(self) -> dict[str, str]:
        """BLAKE3 of the bytes of each tensor, hex; hashed in parallel once, then remembered."""
        if self._digests is None:
            hashed = parallel_map(self._tensor_digest, self._specs, is_apart=True)
            self._digests = dict(zip(self._specs, hashed, strict=True))
        return self._digests

    def fingerprint(self) -> str:
        """Identity of the weights, hex SHA-256 over sorted (name, dtype, shape, digest).

        The same for every sharding and file layout of the same tensors; reads all of them once.
        """
        return fingerprint_of(self._specs, self.tensor_digests())

    def _tensor_digest(self, name: str) -> str:
        return digest_of(self.raw(name))

    def place(self, name: str) -> tuple[int, int]:
        """Where a tensor begins in its file, and its bytes. Raises MissingTensor."""
        size = self.spec(name).size_bytes
        return self._offsets[name], size


def fingerprint_of(specs: Mapping[str, TensorSpec], digests: Mapping[str, str]) -> str:
    """See `Checkpoint.fingerprint`. digests: BLAKE3 of the bytes of each tensor, hex."""
    total = hashlib.sha256()
    for name, digest in sorted(digests.items()):
        spec = specs[name]
        total.update(json.dumps([name, spec.dtype, list(spec.shape), digest]).encode())
        total.update(b"\n")
    return total.hexdigest()


class _Mapped:
    """A file of tensors, mapped when it is first read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.data_begin = data_begin(path)

    @cached_property
    def memory(self) -> mmap.mmap:
        """Private: what is written there changes no file. It asks for no memory in advance, or a
        file that is larger than the machine's could not be mapped.
        """
        flags, access = mmap.MAP_PRIVATE | _MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        with self._path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, flags=flags, prot=access)


def _shards(path: Path) -> Iterator[tuple[str, set[str] | None]]:
    """Weight files of a directory with the names each must hold (None: whatever it holds)."""
    if (path / WEIGHTS_NAME).is_file():
        yield WEIGHTS_NAME, None
        return
    if not (path / INDEX_NAME).is_file():
        raise NotACheckpoint(f"neither {WEIGHTS_NAME} nor {INDEX_NAME} here", file=path)
    wanted: dict[str, set[str]] = {}
    for name, shard in _weight_map(path / INDEX_NAME).items():
        wanted.setdefault(shard, set()).add(name)
    for shard in sorted(wanted):
        if not (path / shard).is_file():
            raise NotACheckpoint("a shard that the index names is missing", file=path / shard)
        yield shard, wanted[shard]


def _weight_map(path: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
        pairs = {str(name): str(shard) for name, shard in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotACheckpoint(f"malformed index: {error!r}", file=path) from error
    for shard in pairs.values():
        if Path(shard).name != shard:
            raise NotACheckpoint("the index points outside its directory", file=path, found=shard)
    return pairs


def _check_names(file: Path, found: set[str], wanted: set[str] | None) -> None:
    if wanted is None or found == wanted:
        return
    if lacking := sorted(wanted - found):
        raise MissingTensor("the index names what is not here", file=file, tensor=lacking[0])
    extra = sorted(found - wanted)[0]
    raise NotACheckpoint("a shard holds a tensor that the index lacks", file=file, tensor=extra)


def _is_side_file(path: Path) -> bool:
    hidden_or_prose = path.name.startswith(".") or path.name.lower().startswith("readme")
    return path.is_file() and not hidden_or_prose and not path.name.endswith(_LEFT_BEHIND)
