"""fleet.yaml as a gateway goes by it, read as often as asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.configuration.named_files import NamedFiles, read_named_files
from gateway.fleet_files import check_paths
from gateway.settings import Server, Settings, load_settings
from model_pool.settings_file import read_text


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of the file and of what it names."""

    text: str
    settings: Settings
    files: NamedFiles


@dataclass(frozen=True, slots=True)
class FleetFile:
    """server: what the command line says in place of the file's server section."""

    path: Path
    server: Mapping[str, str] = field(default_factory=dict)

    def read_settings(self) -> tuple[str, Settings]:
        """The text and what it says. Raises SettingsError."""
        text = read_text(self.path)
        settings = load_settings(self.path, text)
        server = settings.server.model_copy(update=dict(self.server))
        Server.model_validate(server.model_dump())
        return text, settings.model_copy(update={"server": server})

    def read(self) -> Reading:
        """The file, and those that it names. Blocking. Raises SettingsError."""
        text, settings = self.read_settings()
        check_paths(settings)
        return Reading(text, settings, read_named_files(settings))
