"""What fleet.yaml only names: files, keys, the ledger's URL. Read, or refused by SettingsError."""

from __future__ import annotations

import os
from pathlib import Path

import sqlalchemy as sa
from pydantic import SecretStr

from gateway.closed_apis.configuration import ClosedApi
from gateway.confidence import PLAIN, BadConfidence, Curve
from gateway.confidence import load as load_confidence
from gateway.routing.fitted import Fitted
from gateway.routing.head import BadRouter
from gateway.routing.labelled import OUT_OF_SCOPE
from gateway.routing.quality.model import QualityModel
from gateway.settings import (
    Ledger,
    LimitStore,
    MixtureSettings,
    Settings,
    to_ledger_url,
    to_redis_url,
)
from model_pool.settings import BASE_MODEL, SettingsError, Specialist


def load_examples(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Each specialist's routing examples, from fleet.yaml or the file that it names.

    None are asked for where there is a fitted router. Raises SettingsError.
    """
    if settings.routing.router is not None:
        return {}
    examples = {}
    for name, specialist in settings.specialists.items():
        examples[name] = _prompts(f"specialists.{name}", specialist)
    for name, mixture in settings.mixtures.items():
        if mixture.examples or mixture.examples_file:
            examples[name] = _prompts(f"mixtures.{name}", mixture)
    return examples


def _prompts(place: str, model: Specialist | MixtureSettings) -> tuple[str, ...]:
    prompts = model.examples
    if model.examples_file:
        try:
            lines = model.examples_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{place}.examples_file: {error}") from None
        prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise SettingsError(f"{place}: no routing examples")
    return prompts


def load_router(settings: Settings) -> Fitted | None:
    """The fitted router that fleet.yaml names. Raises SettingsError."""
    if settings.routing.router is None:
        return None
    try:
        fitted = Fitted.load(settings.routing.router)
    except BadRouter as error:
        raise SettingsError(f"routing.router: {error}") from None
    strange = set(fitted.tasks) - {OUT_OF_SCOPE, *settings.specialists, *settings.mixtures}
    if strange:
        raise SettingsError(f"routing.router: no specialists for its tasks {sorted(strange)}")
    return fitted


def load_quality(settings: Settings) -> QualityModel | None:
    """The estimates of quality that fleet.yaml names.

    Raises SettingsError, also where they are of no model of the fleet.
    """
    if settings.routing.quality is None:
        return None
    try:
        found = QualityModel.load(settings.routing.quality)
    except BadRouter as error:
        raise SettingsError(f"routing.quality: {error}") from None
    ours = {BASE_MODEL, *settings.specialists, *settings.closed_apis, *settings.mixtures}
    if not ours.intersection(found.models):
        raise SettingsError(f"routing.quality: no models for its {sorted(found.models)}")
    return found


def load_curve(settings: Settings) -> Curve:
    """How sure answers are, by the file that fleet.yaml names. Raises SettingsError."""
    escalation = settings.routing.escalation
    if escalation is None or escalation.confidence is None:
        return PLAIN
    try:
        return load_confidence(escalation.confidence)
    except BadConfidence as error:
        raise SettingsError(f"routing.escalation.confidence: {error}") from None


def check_paths(settings: Settings) -> None:
    """See that what local workers will open is there. Raises SettingsError."""
    if not any(worker.is_local for worker in settings.pool.workers):
        return
    directories: dict[str, Path] = {"base.path": settings.base.path}
    for name, one in settings.specialists.items():
        if one.delta is not None:
            directories[f"specialists.{name}.delta"] = one.delta
        elif not one.source.is_file():
            raise SettingsError(f"specialists.{name}.recipe: there is no file {one.source}")
    for place, path in directories.items():
        if not path.is_dir():
            raise SettingsError(f"{place}: there is no directory {path}")


def ledger_url(ledger: Ledger) -> sa.URL:
    """Where the ledger is, with its password: DELTAFLEET_LEDGER_URL, else as fleet.yaml says.

    Raises SettingsError, whose text has nothing of what it read.
    """
    text, place = os.environ.get("DELTAFLEET_LEDGER_URL"), "DELTAFLEET_LEDGER_URL"
    try:
        if not text and ledger.url_file is not None:
            text, place = ledger.url_file.read_text(encoding="utf-8"), "ledger.url_file"
        elif not text and ledger.url is not None:
            text, place = ledger.url, "ledger.url"
        if text:
            return to_ledger_url(text, place)
    except OSError as error:
        raise SettingsError(f"ledger.url_file: {error}") from None
    except ValueError as error:
        raise SettingsError(str(error)) from None
    return sa.URL.create("sqlite", database=str(ledger.path))


def redis_url(store: LimitStore) -> str | None:
    """Where limits are counted together: DELTAFLEET_REDIS_URL, else as fleet.yaml says.

    None: each gateway counts alone. Raises SettingsError, whose text has nothing of what it read.
    """
    text, place = os.environ.get("DELTAFLEET_REDIS_URL"), "DELTAFLEET_REDIS_URL"
    try:
        if not text and store.redis_url_file is not None:
            text, place = store.redis_url_file.read_text("utf-8"), "limits.redis_url_file"
        elif not text:
            text, place = store.redis_url, "limits.redis_url"
        return to_redis_url(text, place) if text else None
    except UnicodeDecodeError:
        raise SettingsError("limits.redis_url_file: not text") from None
    except OSError as error:
        raise SettingsError(f"limits.redis_url_file: {error}") from None
    except ValueError as error:
        raise SettingsError(str(error)) from None


def closed_api_key(name: str, api: ClosedApi) -> SecretStr:
    """Its key, from the environment or a file only; empty where it has none.

    Raises SettingsError.
    """
    key = ""
    if api.key_env:
        key = os.environ.get(api.key_env, "")
        if not key:
            raise SettingsError(f"closed_apis.{name}.key_env: {api.key_env} is not set")
    elif api.key_file:
        try:
            key = api.key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            kind = type(error).__name__  # the other error's text would tell what it read
            raise SettingsError(f"closed_apis.{name}.key_file: {api.key_file}: {kind}") from None
        if not key:
            raise SettingsError(f"closed_apis.{name}.key_file: {api.key_file} is empty")
    return SecretStr(key)
