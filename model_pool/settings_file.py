"""Reads fleet.yaml, the environment's changes of it, and the secrets that come from there alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import SecretStr, ValidationError

from model_pool.settings import Pool, PoolSettings, SettingsError

ENVIRONMENT_PREFIX = "DELTAFLEET_"
# Secrets come from the environment only and are never part of fleet.yaml.
SECRETS = frozenset(
    {
        *("DELTAFLEET_API_KEY", "DELTAFLEET_LEDGER_URL", "DELTAFLEET_REDIS_URL"),
        "DELTAFLEET_TRACING_HEADERS",
    }
)
CLOSED_API_KEY_PREFIX = "DELTAFLEET_CLOSED_API_KEY_"
MEMBER_KEY_PREFIX = "DELTAFLEET_MEMBER_KEY_"
Sections = TypeVar("Sections", bound=PoolSettings)


def load(
    kind: type[Sections],
    path: Path,
    *,
    ignored: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
    beside: Path | None = None,
    text: str | None = None,
) -> Sections:
    """Read fleet.yaml as `kind`, leaving out the sections named in `ignored`.

    environment: default os.environ. beside: the directory that its paths start from; default: its
    own. text: what it says, where it was read before. Raises SettingsError.
    """
    environment = os.environ if environment is None else environment
    document = _parse(path, read_text(path) if text is None else text)
    _override(document, environment)
    for section in ignored:
        document.pop(section, None)
    try:
        directory = beside or path.resolve().parent
        settings = kind.model_validate(document, context={"directory": directory})
    except ValidationError as error:
        raise SettingsError(f"{path}: {_in_words(error)}") from None
    _check_member_keys(settings.pool, environment)
    return settings


def member_key(name: str) -> SecretStr | None:
    """The key of the server that is the worker of this name, from the environment only."""
    key = os.environ.get(_key_variable(name))
    return SecretStr(key) if key else None


def tracing_headers() -> dict[str, str]:
    """What the collector asks for, from the environment only."""
    pairs = os.environ.get("DELTAFLEET_TRACING_HEADERS", "").split(",")
    return dict(pair.strip().split("=", 1) for pair in pairs if "=" in pair)


def read_text(path: Path) -> str:
    """What fleet.yaml says. Raises SettingsError."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not YAML: {error}") from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: not YAML: {error}") from None
    if not isinstance(document, dict):
        raise SettingsError(f"{path}: expected a mapping of sections")
    return document


def _override(document: dict[str, Any], environment: Mapping[str, str]) -> None:
    for variable, value in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or _is_secret(variable):
            continue
        *sections, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        place = document
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise SettingsError(f"{variable}: {section} is not a section")
        try:
            place[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SettingsError(f"{variable}: not a YAML value: {error}") from None


def _is_secret(variable: str) -> bool:
    return variable in SECRETS or variable.startswith((CLOSED_API_KEY_PREFIX, MEMBER_KEY_PREFIX))


def _key_variable(name: str) -> str:
    return MEMBER_KEY_PREFIX + name.upper().replace("-", "_")


def _check_member_keys(pool: Pool, environment: Mapping[str, str]) -> None:
    known = {_key_variable(worker.name) for worker in pool.workers if worker.openai}
    for variable in environment:
        if variable.startswith(MEMBER_KEY_PREFIX) and variable not in known:
            raise SettingsError(f"{variable}: no worker with an openai section has that name")


def _in_words(error: ValidationError) -> str:
    faults = []
    for fault in error.errors(include_url=False):
        place = ".".join(str(step) for step in fault["loc"]) or "fleet"
        faults.append(f"{place}: {fault['msg'].removeprefix('Value error, ')}")
    return "; ".join(faults)
