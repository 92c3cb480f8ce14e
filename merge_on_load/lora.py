"""A LoRA adapter as PEFT writes it, read: base + scale * B @ A (Hu et al. 2021, arXiv:2106.09685).

NAME/
  adapter_config.json        rank, alpha and what else decides the scales, see `lora_config.py`
  adapter_model.safetensors  base_model.model.MODULE.lora_A.weight [rank, in] and
                             base_model.model.MODULE.lora_B.weight [out, rank] for MODULE.weight
"""

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from merge_on_load import lora_config
from merge_on_load.checkpoint import Checkpoint, open_tensors, spec_in_file
from merge_on_load.errors import (
    CorruptPayload,
    MissingTensor,
    NonFinite,
    NotADelta,
    ShapeMismatch,
    UnsupportedAdapter,
    UnsupportedDtype,
)
from merge_on_load.floats import FLOAT32_DTYPES, row_blocks
from merge_on_load.hashing import file_digest
from merge_on_load.lora_config import LoraConfig
from merge_on_load.names import ADAPTER_NAME
from merge_on_load.specs import TensorSpec
from merge_on_load.threads import parallel_map

TENSORS_NAME = "adapter_model.safetensors"

_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<half>[AB])\.weight")


@dataclass(frozen=True)
class _Target:
    """One weight [out, in] that is changed.

    largest_change: no element changes by more, nor B @ A before its scale; 0 where nothing changes.
    """

    module: str
    shape: tuple[int, int]
    rank: int
    scale: float
    largest_change: float


class Lora:
    """An opened adapter: all that can be said without the base was checked.

    digest: hex SHA-256 over the two files' own: its identity. An adapter does not say which weights
    it was trained on, so `check_belongs` compares names and shapes only.
    """

    def __init__(
        self,
        path: Path,
        config: LoraConfig,
        handle: Any,
        targets: Mapping[str, _Target],
        stamps: Mapping[Path, tuple[int, int, int]],
        digests: Mapping[Path, str],
    ) -> None:
        """Use `Lora.open`. targets: base tensor name -> what changes it. stamps, digests: of each
        file.
        """
        self.path = path
        self._config = config
        self._handle = handle
        self._targets = targets
        self._stamps = stamps
        self._digests = digests

    @classmethod
    def open(cls, path: Path) -> "Lora":
        """Read an adapter directory, every byte of it.

        Raises NotADelta (no adapter here), UnsupportedAdapter (more than plain LoRA on linear
        weights), CorruptPayload, MissingTensor (half of a pair), ShapeMismatch (the tensors have
        another rank than the config says), UnsupportedDtype, NonFinite.
        """
        path = Path(path)
        config_file, tensor_file = _files(path)
        stamps = _stamps((config_file, tensor_file))
        config = lora_config.parse(config_file.read_bytes(), config_file)
        handle = open_tensors(tensor_file)
        targets = {
            f"{module}.weight": _read_target(tensor_file, handle, module, config)
            for module in _modules(tensor_file, handle)
        }
        digests = dict(zip(stamps, parallel_map(file_digest, stamps), strict=True))
        return cls(path, config, handle, targets, stamps, digests)

    @property
    def digest(self) -> str:
        lines = [f"{file.name} {digest}\n" for file, digest in self._digests.items()]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Bytes of config and tensors."""
        return sum(size_bytes for _, _, size_bytes in self._stamps.values())

    @property
    def rank(self) -> int:
        """The largest of all modules."""
        return max(target.rank for target in self._targets.values())

    @property
    def scales(self) -> list[float]:
        """What B @ A is multiplied by: each value that occurs, ascending."""
        return sorted({target.scale for target in self._targets.values()})

    @property
    def target_names(self) -> list[str]:
        """The base's tensors that it changes, sorted."""
        return sorted(self._targets)

    @property
    def lineage(self) -> dict[str, Any]:
        """What the adapter says of its origin, `base_model_name_or_path` among it."""
        return dict(self._config.lineage)

    def verify(self) -> None:
        """See that the files are those that were opened. Raises CorruptPayload.

        Files that have not been touched since pass at once.
        """
        stamps = _stamps(self._stamps)
        if stamps == self._stamps:
            return
        for file, expected in self._digests.items():
            found = file_digest(file)
            if found != expected:
                raise CorruptPayload("file was altered", file=file, expected=expected, found=found)
        self._handle = open_tensors(self.path / TENSORS_NAME)
        self._stamps = stamps

    def check_belongs(self, base: Checkpoint) -> None:
        """See that the base has every target, of the adapter's shape.

        Raises MissingTensor, ShapeMismatch, UnsupportedDtype (the base's), NonFinite (a sum
        overflows the base's dtype).
        """
        known = set(base.names)
        for name in self.target_names:
            if name not in known:
                raise MissingTensor("the base lacks what is adapted", file=self.path, tensor=name)
            self._check_fits(name, base.spec(name))
            self._check_overflow(name, base)

    def merge(self, name: str, base: torch.Tensor) -> torch.Tensor:
        """base + scale * B @ A, computed in float32, rounded once to the base's dtype.

        base: the tensor of that name, of a base that `check_belongs` took. Leaves it unchanged;
        what nothing changes is returned as it is. Memory: the result, B and A, and a block of rows.
        """
        target = self._targets.get(name)
        if target is None or target.largest_change == 0:
            return base
        a, b = (_half(self._handle, target.module, half).float() for half in "AB")
        merged = torch.empty_like(base)
        for block in row_blocks(*target.shape):
            change = (b[block] @ a).mul_(target.scale)
            merged[block] = change.add_(base[block])
        return merged

    def _check_fits(self, name: str, found: TensorSpec) -> None:
        expected = self._targets[name].shape
        if found.shape != expected:
            raise ShapeMismatch(
                "adapter is for another shape",
                file=self.path,
                tensor=name,
                expected=list(expected),
                found=found,
            )
        if found.dtype not in FLOAT32_DTYPES:
            raise UnsupportedDtype(
                "the base's tensor has a dtype that cannot be merged into",
                file=self.path,
                tensor=name,
                expected=" or ".join(FLOAT32_DTYPES),
                found=found.dtype,
            )

    def _check_overflow(self, name: str, base: Checkpoint) -> None:
        limits = torch.finfo(base.spec(name).torch_dtype)
        # A change below half a unit in the last place of the greatest value, max * eps / 4, rounds
        # back to it. Half of that again leaves room for float32's own rounding. Only an adapter
        # beyond that (8 in float16) needs its sums looked at.
        if self._targets[name].largest_change < limits.max * limits.eps / 8:
            return
        before = base.read(name)
        overflown = before.isfinite() & ~self.merge(name, before).isfinite()
        if bool(overflown.any()):
            raise NonFinite(
                "the merged tensor overflows", file=self.path, tensor=name, found=str(before.dtype)
            )


def _files(path: Path) -> tuple[Path, Path]:
    """Config and tensors. Raises NotADelta, UnsupportedAdapter."""
    config, tensors = path / ADAPTER_NAME, path / TENSORS_NAME
    if not config.is_file():
        raise NotADelta(f"no {ADAPTER_NAME} here", file=path)
    pickled = tensors.with_suffix(".bin")
    if pickled.is_file() and not tensors.is_file():
        raise UnsupportedAdapter(
            f"a pickle can run code when read; save as {TENSORS_NAME}", file=pickled
        )
    return config, tensors


def _stamps(files: Iterable[Path]) -> dict[Path, tuple[int, int, int]]:
    """What changes when a file does: inode, time and size. Raises CorruptPayload."""
    stamps = {}
    for file in files:
        try:
            status = file.stat()
        except FileNotFoundError:
            raise CorruptPayload("file is missing", file=file) from None
        stamps[file] = status.st_ino, status.st_mtime_ns, status.st_size
    return stamps


def _modules(file: Path, handle: Any) -> list[str]:
    """The modules that have both halves. Raises UnsupportedAdapter, MissingTensor."""
    keys = set(handle.keys())
    for key in sorted(keys, key=lambda key: ("lora_embedding_" not in key, key)):
        if not _KEY.fullmatch(key):
            raise UnsupportedAdapter(_why_not(key), file=file, tensor=key)
    modules = []
    for match in map(_KEY.fullmatch, sorted(keys)):
        assert match
        module, half = match["module"], match["half"]
        other = _key(module, "B" if half == "A" else "A")
        if other not in keys:
            raise MissingTensor(f"lora_{half} stands alone", file=file, tensor=other)
        if half == "A":
            modules.append(module)
    if not modules:
        raise MissingTensor("the adapter holds no tensor", file=file)
    return modules


def _why_not(key: str) -> str:
    if "lora_embedding_" in key:
        return "adapters of embeddings are not supported"
    if key.endswith(".base_layer.weight"):
        return "the base's own weight is here too; save with save_embedding_layers=False"
    return "neither A nor B of a linear weight"


def _read_target(file: Path, handle: Any, module: str, config: LoraConfig) -> _Target:
    """Raises ShapeMismatch, UnsupportedDtype, NonFinite."""
    rank = config.rank_of(module)
    specs = [spec_in_file(file, handle, _key(module, half)) for half in "AB"]
    for half, spec, axis in zip("AB", specs, (0, 1), strict=True):
        key = _key(module, half)
        if len(spec.shape) != 2 or spec.shape[axis] != rank:
            expected = f"[{rank}, in]" if half == "A" else f"[out, {rank}]"
            raise ShapeMismatch(
                "tensor is not of the config's rank",
                file=file,
                tensor=key,
                expected=expected,
                found=spec,
            )
        if spec.dtype not in FLOAT32_DTYPES:
            raise UnsupportedDtype(
                "dtype is not supported",
                file=file,
                tensor=key,
                expected=" or ".join(FLOAT32_DTYPES),
                found=spec.dtype,
            )
    scale = config.scale_of(module)
    # |row of B times column of A| is at most the product of their lengths (Cauchy-Schwarz).
    unscaled = _longest(file, handle, module, "A") * _longest(file, handle, module, "B")
    return _Target(
        module=module,
        shape=(specs[1].shape[0], specs[0].shape[1]),
        rank=rank,
        scale=scale,
        largest_change=unscaled * max(1.0, abs(scale)) if scale else 0.0,
    )


def _longest(file: Path, handle: Any, module: str, half: str) -> float:
    """The greatest length of a column of A or a row of B. Raises NonFinite."""
    vectors = _half(handle, module, half)
    lengths = torch.linalg.vector_norm(vectors, dim="AB".index(half), dtype=torch.float64)
    longest = float(lengths.max()) if lengths.numel() else 0.0
    if not math.isfinite(longest):
        raise NonFinite("NaN or infinity in an adapter", file=file, tensor=_key(module, half))
    return longest


def _half(handle: Any, module: str, half: str) -> torch.Tensor:
    tensor: torch.Tensor = handle.get_tensor(_key(module, half))
    return tensor


def _key(module: str, half: str) -> str:
    return f"base_model.model.{module}.lora_{half}.weight"
