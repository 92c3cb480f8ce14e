"""Switching inside vLLM: base + delta written over the live parameters, in place.

Runs in vLLM's workers as the weight-transfer backend "delta", between two steps of an engine that
has no request. Read from vLLM 0.32.0: `WeightTransferEngine`, `Worker.update_weights`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from merge_on_load import Checkpoint, Prepared
from merge_on_load.errors import CorruptPayload, MergeError
from model_pool.vllm import faults
from model_pool.vllm.card import LeastRecent
from model_pool.vllm.live import LiveWeights


@dataclass
class DeltaInit(WeightTransferInitInfo):  # type: ignore[misc] # vLLM publishes no types
    """base: the directory that the engine was started on.

    For a device that is not a CPU, untested on a GPU: card keeps a copy of the base there;
    card_budget_bytes is for prepared deltas that stay there, the least recently used going first.
    """

    base: str
    card: bool = False
    card_budget_bytes: int = 0


@dataclass
class DeltaUpdate(WeightTransferUpdateInfo):  # type: ignore[misc]
    """prepared: the file of the weights to make live (`merge_on_load.prepare`), None for the base
    alone.
    """

    prepared: str | None


class DeltaTransfer(WeightTransferEngine):  # type: ignore[misc]
    """Makes weights live, all or nothing, as fast as memory goes."""

    init_info_cls = DeltaInit
    update_info_cls = DeltaUpdate
    supports_draft_weight_update = False

    def init_transfer_engine(self, info: DeltaInit) -> None:
        """Open the base, whose weights are live. Raises RuntimeError (as `receive_weights`)."""
        self._files = _Files(self.device, info.card_budget_bytes)
        self._live: Prepared | None = None
        self._is_whole = True  # False: live weights of which nothing is known
        try:
            self._base = Checkpoint.open(Path(info.base))
            self._weights = LiveWeights(
                self.model,
                self._base,
                self.device,
                is_base_on_card=info.card,
                thread_count=torch.get_num_threads(),
            )
        except MergeError as error:
            raise RuntimeError(faults.to_text(error)) from error

    def start_weight_update(self) -> None:
        """Nothing to prepare: the parameters keep their storage."""

    def finish_weight_update(self) -> None:
        """Nothing to finish."""

    def receive_weights(self, info: DeltaUpdate) -> None:
        """Make the weights live. The file was checked when it was prepared.

        Raises RuntimeError with the text of a MergeError (`faults.py`): the former weights are
        live. Any other error: they may not be.
        """
        try:
            wanted = None if info.prepared is None else self._files.open(Path(info.prepared))
            if wanted is not None:
                _check_fits(wanted, self._base)
        except MergeError as error:
            raise RuntimeError(faults.to_text(error)) from error
        if self.device.type != "cpu":
            # A step of requests that were aborted may still be under way there.
            torch.accelerator.synchronize(self.device)
        self._replace(wanted)
        self._files.forget_closed()

    def shutdown(self) -> None:
        """Forget the files."""
        self._files.forget_all()
        self._weights.close()
        self._live, self._is_whole = None, False

    def _replace(self, wanted: Prepared | None) -> None:
        """Write unless it is live; where writing fails, write the former weights back."""
        if self._is_whole and wanted is self._live:
            return
        former, was_whole = self._live, self._is_whole
        self._is_whole = False
        try:
            self._weights.write(wanted)
        except Exception:
            if was_whole:
                self._weights.write(former)
                self._is_whole = True
            raise
        self._live, self._is_whole = wanted, True


class _Files:
    """Prepared deltas, mapped once; those whose file was closed are let go. The live one's mapping
    stays for as long as it is live, by `DeltaTransfer`'s reference.
    """

    def __init__(self, device: torch.device, card_budget_bytes: int) -> None:
        self._device = device
        self._mapped: dict[Path, tuple[object, Prepared]] = {}
        self._on_card: dict[Path, Prepared] = {}
        # On a CPU the mapped memory is the card's.
        self._recent = LeastRecent(0 if device.type == "cpu" else card_budget_bytes)

    def open(self, path: Path) -> Prepared:
        """Raises CorruptPayload."""
        self.forget_closed()
        if path not in self._mapped:
            stamp = _stamp(path)
            if stamp is None:
                raise CorruptPayload("the prepared delta is closed", file=path)
            self._mapped[path] = (stamp, Prepared.open(path))
        mapped = self._mapped[path][1]
        gone = self._recent.use(path, mapped.size_bytes)
        if gone is None:
            return mapped
        for one in gone:
            del self._on_card[one]
        if path not in self._on_card:
            self._on_card[path] = mapped.to(self._device)
        return self._on_card[path]

    def forget_closed(self) -> None:
        """Let go of files that are no more: another may have taken the name."""
        for path, (stamp, _) in list(self._mapped.items()):
            if _stamp(path) != stamp:
                del self._mapped[path]
                self._on_card.pop(path, None)
                self._recent.forget(path)

    def forget_all(self) -> None:
        """Let go of all."""
        for path in self._mapped:
            self._recent.forget(path)
        self._mapped, self._on_card = {}, {}


def _stamp(path: Path) -> object:
    """What tells one file from another under the same name; None: there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _check_fits(prepared: Prepared, base: Checkpoint) -> None:
    """Raise CorruptPayload unless it is for tensors of these names and shapes."""
    expected = {name: base.spec(name).shape for name in base.names}
    found = {name: prepared.spec(name).shape for name in prepared.names}
    if expected != found:
        raise CorruptPayload("prepared for another base", file=base.path)
