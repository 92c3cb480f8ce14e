"""The files that a configuration is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from gateway.settings import Settings


def named_paths(settings: Settings) -> list[Path]:
    """What fleet.yaml names for the gateway: files and directories, without secrets."""
    routing = settings.routing
    escalation = routing.escalation
    named = [settings.prices.file, routing.router, routing.quality]
    named.append(escalation.confidence if escalation else None)
    named += [one.examples_file for one in settings.specialists.values()]
    named += [one.examples_file for one in settings.mixtures.values()]
    return [path for path in named if path is not None]


def watched_paths(fleet: Path, settings: Iterable[Settings]) -> list[Path]:
    """Where a change calls for another reading; also specialists, where workers are on this
    machine, and keys.
    """
    paths = [fleet]
    for one in settings:
        paths += named_paths(one)
        paths += [api.key_file for api in one.closed_apis.values() if api.key_file]
        if any(worker.is_local for worker in one.pool.workers):
            paths += [specialist.source for specialist in one.specialists.values()]
    return list(dict.fromkeys(paths))


def content_digest(paths: Iterable[Path]) -> str:
    """SHA-256 of all files there, in hex. Blocking. Raises OSError."""
    total = hashlib.sha256()
    for path in paths:
        files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
        for file in files:
            with file.open("rb") as opened:
                total.update(hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()
