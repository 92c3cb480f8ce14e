"""Switching inside vLLM: base + delta written over the live parameters, in place.

Runs in vLLM's workers as the weight-transfer backend "delta", between two steps of an engine that
has no request. Read from vLLM 0.32.0: `WeightTransferEngine`, `Worker.update_weights`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from merge_on_load import Checkpoint, Delta, stream
from merge_on_load.errors import MergeError
from merge_on_load.manifest import MANIFEST_NAME
from model_pool.vllm import faults


@dataclass
class DeltaInit(WeightTransferInitInfo):  # type: ignore[misc] # vLLM publishes no types
    """base: the directory that the engine was started on."""

    base: str


@dataclass
class DeltaUpdate(WeightTransferUpdateInfo):  # type: ignore[misc]
    """delta: the directory of the weights to make live, None for the base alone."""

    delta: str | None


class DeltaTransfer(WeightTransferEngine):  # type: ignore[misc]
    """Writes complete weights, always base + delta and never live += delta: so a switch is exact,
    can be repeated, and going back to the base restores it bit for bit.

    The model's own `load_weights` places the tensors: it knows fused, tied and sharded parameters.
    """

    init_info_cls = DeltaInit
    update_info_cls = DeltaUpdate
    supports_draft_weight_update = False

    def init_transfer_engine(self, info: DeltaInit) -> None:
        """Open the base, whose weights are live. Raises RuntimeError (as `receive_weights`)."""
        self._deltas: dict[Path, tuple[object, Delta]] = {}
        self._live: Delta | None = None
        self._is_whole = True  # False: live weights of which nothing is known
        try:
            self._base = Checkpoint.open(Path(info.base))
        except MergeError as error:
            raise RuntimeError(faults.to_text(error)) from error

    def start_weight_update(self) -> None:
        """Nothing to prepare: the parameters keep their storage."""

    def finish_weight_update(self) -> None:
        """Nothing to finish."""

    def receive_weights(self, info: DeltaUpdate) -> None:
        """Make the weights live.

        Names, shapes, the base's fingerprint and every byte of the delta are checked before the
        first write. Raises RuntimeError with the text of a MergeError (`faults.py`): the former
        weights are live. Any other error: they may not be.
        """
        try:
            self._replace(None if info.delta is None else self._open(Path(info.delta)))
        except MergeError as error:
            if not self._is_whole:
                raise
            raise RuntimeError(faults.to_text(error)) from error

    def shutdown(self) -> None:
        """Forget the files."""
        self._deltas = {}

    def _open(self, path: Path) -> Delta:
        """Opened once, and again when its manifest has changed."""
        file = path / MANIFEST_NAME
        status = file.stat() if file.is_file() else None
        stamp = None if status is None else (status.st_ino, status.st_mtime_ns)
        known = self._deltas.get(path)
        if known is None or known[0] != stamp:
            known = (stamp, Delta.open(path))
            self._deltas[path] = known
        return known[1]

    def _replace(self, wanted: Delta | None) -> None:
        """Write unless it is live; where writing fails, write the former weights back."""
        tensors = stream(self._base, wanted)  # all checks are made here
        if self._is_whole and wanted is self._live:
            return
        former = self._live
        try:
            self._write(wanted, tensors)
        except Exception:
            self._write(former, stream(self._base, former))
            raise

    @torch.no_grad()
    def _write(self, delta: Delta | None, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        self._is_whole = False
        self.model.load_weights(tensors)
        self._live, self._is_whole = delta, True
