"""Deltas made ready for switching, in memory that vLLM's workers map: one copy for all of them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from merge_on_load import Checkpoint, Delta, prepare, prepared_size_bytes
from model_pool.engine import Weights


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


class DeltaShelf:
    """Prepares deltas of one base. Its calls block and may come from several threads at once."""

    def __init__(self, base: Checkpoint) -> None:
        self._base = base
        self._lock = threading.Lock()

    def size_bytes(self, weights: Weights) -> int:
        """Memory that the weights will take once prepared: nothing for the base.

        Raises MergeError (no delta there).
        """
        return 0 if weights.delta is None else prepared_size_bytes(Delta.open(weights.delta))

    def prepare(self, weights: Weights) -> HeldDelta:
        """Check every byte of the delta and make it ready. Close what it returns when done.

        Raises MergeError; ValueError for the base, which needs no preparing.
        """
        if weights.delta is None:
            raise ValueError(f"{weights.model} is the base")
        delta = Delta.open(weights.delta)
        with self._lock:  # hashed once, however many come
            self._base.fingerprint()
        held = HeldDelta(weights.model)
        try:
            prepare(self._base, delta, held.path)
        except BaseException:
            held.close()
            raise
        return held
