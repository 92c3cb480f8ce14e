"""Specialists made ready for their turn: what vLLM's workers read is ours, and was checked.

Deltas lie prepared in memory that the workers map, one copy for all of them; LoRA adapters are
copied.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from merge_on_load import Checkpoint, Delta, Lora, Merged, open_delta, prepare, prepared_size_bytes
from merge_on_load.errors import CorruptPayload, MergeError, NotADelta
from model_pool.capacity import DeltaSizes
from model_pool.engine import Weights
from model_pool.vllm.options import Needs

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


class HeldDelta:
    """A prepared delta in an anonymous file of this process's memory.

    path: where other processes of this user open it, until `close`. size_bytes: of that memory.
    """

    def __init__(self, name: str) -> None:
        """An empty file; name shows in /proc."""
        self._descriptor: int | None = os.memfd_create(f"deltafleet-{name}"[:200], os.MFD_CLOEXEC)
        self.path = Path(f"/proc/{os.getpid()}/fd/{self._descriptor}")
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        return 0 if self._descriptor is None else os.fstat(self._descriptor).st_size

    def close(self) -> None:
        """Give the memory back, once. A worker in which it is live keeps it until the next switch
        there has ended; other mappings go when that switch begins.
        """
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class HeldAdapter:
    """A LoRA adapter's files, copied to a directory of this process's, until `close`.

    number: what vLLM calls it by, never given twice.
    """

    def __init__(self, source: Path, number: int) -> None:
        """Raises NotADelta, OSError; then nothing is left behind."""
        self.number = number
        self.path = Path(tempfile.mkdtemp(prefix="deltafleet-lora-"))
        try:
            for name in ADAPTER_FILES:
                shutil.copyfile(source / name, self.path / name)
        except BaseException as error:
            self.close()
            if isinstance(error, FileNotFoundError):
                raise NotADelta("no such file in the adapter", file=source) from error
            raise

    def close(self) -> None:
        """Delete the copy. vLLM keeps what it has read of it."""
        shutil.rmtree(self.path, ignore_errors=True)


class DeltaShelf:
    """Makes specialists of one base ready. Its calls block and may come from several threads."""

    def __init__(self, base: Checkpoint) -> None:
        self._base = base
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)

    def base_digest(self) -> str:
        """The base's fingerprint: hashed once, however many come."""
        with self._lock:
            return self._base.fingerprint()

    def size_bytes(self, weights: Weights) -> int:
        """Memory that the weights will take once they are ready: nothing for the base.

        Raises MergeError (no delta there).
        """
        if weights.lora is not None:
            return Lora.open(weights.lora).size_bytes
        return 0 if weights.delta is None else prepared_size_bytes(_open_full(weights.delta))

    def prepare(self, weights: Weights) -> HeldDelta | HeldAdapter:
        """Check every byte of the specialist and make it ready. Close what it returns when done.

        Raises MergeError; ValueError for the base, which needs no preparing.
        """
        self.base_digest()
        if weights.lora is not None:
            return self._hold_adapter(weights.lora)
        if weights.delta is None:
            raise ValueError(f"{weights.model} is the base")
        delta = _open_full(weights.delta)
        held = HeldDelta(weights.model)
        try:
            prepare(self._base, delta, held.path)
        except BaseException:
            held.close()
            raise
        return held

    def _hold_adapter(self, path: Path) -> HeldAdapter:
        adapter = Lora.open(path)
        adapter.check_belongs(self._base)
        held = HeldAdapter(path, next(self._numbers))
        try:
            if Lora.open(held.path).digest != adapter.digest:
                raise CorruptPayload("the adapter changed while it was read", file=path)
        except BaseException:
            held.close()
            raise
        return held


def _open_full(path: Path) -> Delta | Merged:
    """What a switch writes. Raises MergeError; NotADelta for an adapter."""
    found = open_delta(path)
    if isinstance(found, Lora):
        raise NotADelta("an adapter needs no switch", file=path)
    return found


def read_needs(specialists: Iterable[Path]) -> Needs:
    """What vLLM must have room for. Blocking.

    What cannot be read is left out: its refusal is `load`'s to say.
    """
    deltas, ranks = [], []
    for path in specialists:
        with suppress(MergeError):
            specialist = open_delta(path)
            if isinstance(specialist, Lora):
                ranks.append(specialist.rank)
            else:
                prepared = prepared_size_bytes(specialist)
                deltas.append(DeltaSizes(path.name, prepared, specialist.size_bytes))
    return Needs(tuple(deltas), len(ranks), max(ranks, default=0))
