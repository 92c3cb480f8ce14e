"""Settings as YAML that anybody may read who administers: nothing secret is in it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import yaml
from pydantic import SecretStr

from gateway.configuration.configured import Configured
from gateway.settings import Settings

SET = "(set)"
# Fields of these names hold secrets or hashes of them, wherever they are; *_file and *_env do not.
SECRET_NAME = re.compile(r"(^|_)(hash|password|secret|access_token|api_key|credential)s?$")
IN_URL = re.compile(r"(?<=://)[^/@\s]*@")  # a user and a password


@dataclass(frozen=True, slots=True)
class EffectiveConfig:
    """yaml: every value that holds, secrets left out. sha256: of the settings, in hex. loaded: when
    they were read.
    """

    yaml: str
    sha256: str
    loaded: datetime


def effective_config(configured: Configured) -> EffectiveConfig:
    """What may be told of a configuration."""
    return EffectiveConfig(to_yaml(configured.settings), configured.digest, configured.loaded)


def to_yaml(settings: Settings) -> str:
    """Every value that holds, also the defaults, in the form of fleet.yaml; no secret."""
    plain = without_secrets(settings.model_dump(mode="python", by_alias=True))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def without_secrets(value: Any) -> Any:
    """A value of settings as YAML knows it, in the form of fleet.yaml."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, SecretStr):
        return SET
    if isinstance(value, Mapping):
        return {str(key): _under(str(key), one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [without_secrets(one) for one in value]
    if isinstance(value, frozenset | set):
        return sorted(str(without_secrets(one)) for one in value)
    return IN_URL.sub(f"{SET}@", str(getattr(value, "value", value)))


def _under(name: str, value: Any) -> Any:
    if value is not None and SECRET_NAME.search(name):
        return SET
    return without_secrets(value)
