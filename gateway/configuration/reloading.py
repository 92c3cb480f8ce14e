"""fleet.yaml read again while requests run: taken over whole, or refused whole."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from gateway.configuration.configured import Configured
from gateway.configuration.current import Current
from gateway.configuration.fleet_file import FleetFile, Reading
from gateway.configuration.live_settings import restart_needed
from gateway.configuration.making import Maker
from gateway.configuration.watched import watched_paths
from gateway.metrics import Metrics
from gateway.settings import Settings
from model_pool.configured_members import ConfiguredMembers
from model_pool.errors import ConfigRefused, FleetError
from model_pool.setting_changes import changed_settings
from model_pool.settings import SettingsError

log = logging.getLogger("gateway")


class Reloader:
    """One reading at a time. apply: puts what was made in force, at once and without fail."""

    def __init__(
        self,
        fleet: FleetFile,
        current: Current,
        maker: Maker,
        members: ConfiguredMembers,
        metrics: Metrics,
        apply: Callable[[Configured], None],
    ) -> None:
        self._fleet = fleet
        self._current = current
        self._maker = maker
        self._members = members
        self._metrics = metrics
        self._apply = apply
        self._read: Settings | None = None  # the last, taken over or not
        self._turn = asyncio.Lock()

    def paths(self) -> list[Path]:
        """Where a change calls for another reading; also of a file that was refused."""
        read = [self._current.now.settings, *([self._read] if self._read else [])]
        return watched_paths(self._fleet.path, read)

    async def reload(self) -> str:
        """Put what the file says now in force; the digest of it. Raises ConfigRefused, and keeps
        the configuration from before.
        """
        # In a task of its own: half of it done would be worse than a caller who waited too long.
        return await asyncio.shield(asyncio.create_task(self._reload(), name="reload"))

    async def _reload(self) -> str:
        async with self._turn:
            try:
                changed = await self._take_over()
            except Exception as error:  # whatever the file made of us, what runs goes on
                self._refused(error)
                raise ConfigRefused(_in_words(error)) from error
            self._metrics.reloaded("applied")
            digest = self._current.now.digest
            log.info("config_applied", extra={"changed": changed, "sha256": digest})
            return digest

    async def reload_quietly(self) -> None:
        """The same; a refusal is in the log and the metrics alone."""
        with contextlib.suppress(ConfigRefused):
            await self.reload()

    async def _take_over(self) -> list[str]:
        """Returns the places that changed."""
        reading = await asyncio.to_thread(self._fleet.read)
        self._read = reading.settings
        before = self._current.now
        changed = changed_settings(before.settings, reading.settings)
        needed = restart_needed(changed)
        if needed:
            raise ConfigRefused(needed)
        await self._members.check(reading.text)
        configured = await self._maker.make(reading.settings, reading.files, before)
        await self._tell_workers(reading, configured)
        self._apply(configured)
        return [*changed, *(["named files"] if configured.content != before.content else [])]

    async def _tell_workers(self, reading: Reading, configured: Configured) -> None:
        """First those who run what is new; what left they run for a while yet."""
        try:
            await self._members.reload(reading.text)
        except BaseException:
            await configured.close()
            raise

    def _refused(self, error: Exception) -> None:
        self._metrics.reloaded("refused")
        is_expected = isinstance(error, SettingsError | FleetError)
        log.error("config_refused", extra={"reason": _in_words(error)}, exc_info=not is_expected)


def _in_words(error: Exception) -> str:
    """What is wrong, without what an unexpected error's text may quote."""
    if isinstance(error, SettingsError | FleetError):
        return str(error)
    return f"{type(error).__name__}; the log has the rest"
