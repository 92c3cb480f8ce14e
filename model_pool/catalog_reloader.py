"""A worker's fleet.yaml, read again: what it says of specialists is taken over while it runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from merge_on_load.errors import MergeError
from model_pool.catalog import Catalog, read_catalog
from model_pool.errors import ConfigRefused
from model_pool.served_models import ServedModels
from model_pool.setting_changes import changed_settings, needing_restart
from model_pool.settings import PoolSettings, SettingsError

# Of what a worker reads, beside the specialists' files; the rest is read at its start alone.
LIVE = (
    *("specialists", "base.description", "base.quality"),
    # The gateway's; of discovery, a worker goes by its own group's models.
    *("pool.workers", "pool.discovery", "pool.preload", "pool.worker_wait_s"),
)
log = logging.getLogger("model_pool")


class CatalogReloader:
    """Reads the file and the specialists' again, one reading at a time.

    read_settings: fleet.yaml as this worker goes by it; blocking, raises SettingsError. settings:
    as read at the start. worker: its name. on_change: called after the catalog was replaced. read:
    what was read last, taken over or not.
    """

    def __init__(
        self,
        read_settings: Callable[[], PoolSettings],
        settings: PoolSettings,
        worker: str,
        served: ServedModels,
        on_change: Callable[[], None],
    ) -> None:
        self._read_settings = read_settings
        self._served = served
        self._on_change = on_change
        self._turn = asyncio.Lock()
        self._lora_room: tuple[int, int] | None = None
        self._settings = settings
        self._worker = worker
        self.read = settings

    async def reload(self, *, validate_only: bool = False) -> None:
        """Take the catalog over, whole. Raises ConfigRefused, and keeps the one from before."""
        async with self._turn:
            try:
                self.read = await asyncio.to_thread(self._read_settings)
                self._check(self.read)
                base = self._served.catalog.base
                catalog = await asyncio.to_thread(read_catalog, self.read, base)
                self._check_room(catalog)
                self._served.check(catalog)
            except (SettingsError, MergeError, ConfigRefused, OSError) as error:
                log.error("catalog_refused", extra={"reason": str(error)})
                raise ConfigRefused(str(error)) from error
            if not validate_only:
                self._apply(self.read, catalog)

    def _check(self, settings: PoolSettings) -> None:
        refused = needing_restart(changed_settings(self._settings, settings), LIVE)
        ours = [one.pool.hardware_of(self._worker) for one in (self._settings, settings)]
        if ours[0] != ours[1] and "pool.hardware" not in refused:
            refused.append(f"pool.workers.{self._worker}.hardware")
        if refused:
            raise ConfigRefused(f"{', '.join(refused)}: changed only by a restart of the worker")

    def _check_room(self, catalog: Catalog) -> None:
        """vLLM made room for LoRA adapters when it started, by what there was then."""
        if self._settings.pool.engine != "vllm":
            return
        if self._lora_room is None:
            self._lora_room = _lora_room(self._served.catalog)
        count, rank = self._lora_room
        if catalog.lora_count > count or catalog.lora_rank > rank:
            raise ConfigRefused(
                f"specialists: vLLM started with room for {count} LoRA adapters of rank {rank}; "
                f"for {catalog.lora_count} of rank {catalog.lora_rank} restart the worker"
            )

    def _apply(self, settings: PoolSettings, catalog: Catalog) -> None:
        before, after = self._served.catalog.digests(), catalog.digests()
        self._settings = settings
        self._served.replace(catalog)
        self._on_change()
        told = {
            "added": sorted(after.keys() - before.keys()),
            "removed": sorted(before.keys() - after.keys()),
            "changed": sorted(one for one in before.keys() & after if before[one] != after[one]),
        }
        if any(told.values()):
            log.info("catalog_applied", extra=told)


def _lora_room(catalog: Catalog) -> tuple[int, int]:
    return catalog.lora_count, catalog.lora_rank
