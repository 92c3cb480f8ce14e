"""What one run of locust is to do: written by who starts it, read by each of its processes."""

from __future__ import annotations

from pathlib import Path

from loadtests.access import Access
from loadtests.scenario import Scenario, Stage
from model_pool.settings import Section


class LoadPlan(Section):
    """One phase of a scenario.

    stages: of each traffic; none where its callers wait. generators: locust processes that send.
    directory: where each leaves its records, and `begin_file`. `stop_file`: who wants the phase to
    end early makes it.
    """

    scenario: Scenario
    phase: int
    stages: tuple[tuple[Stage, ...], ...]
    addresses: tuple[str, ...]
    access: Access = Access()
    generators: int
    directory: Path

    @property
    def begin_file(self) -> Path:
        """Has the time at which the phase begins, in seconds since the epoch."""
        return self.directory / f"begin-{self.phase}"

    @property
    def stop_file(self) -> Path:
        """Is there when nothing more is to be sent."""
        return self.directory / f"stop-{self.phase}"

    def record_file(self, generator: int) -> Path:
        """What one process saw."""
        return self.directory / f"records-{self.phase}-{generator}.jsonl"

    def record_files(self) -> list[Path]:
        """Those that there are."""
        return sorted(self.directory.glob(f"records-{self.phase}-*.jsonl"))
