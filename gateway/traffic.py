"""How many requests of which size each model gets: said in a file, or seen in a ledger."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError

from gateway.ledger_store import Sums
from model_pool.settings import Section, SettingsError
from model_pool.sizing import Demand
from model_pool.throughput import Request

DEFAULT_PEAK_FACTOR = 3.0
RequestsPerDay = Annotated[float, Field(ge=0, le=1e12)]


class ModelTraffic(Section):
    """One model's requests. Token counts: of one request on average; default: the file's."""

    requests_per_day: RequestsPerDay
    prompt_tokens: int | None = Field(None, ge=1)
    output_tokens: int | None = Field(None, ge=1)


class Traffic(Section):
    """A traffic file. peak_factor: the busiest time's requests over the average's.

    models: by name, requests a day or what else is known.
    """

    prompt_tokens: int = Field(500, ge=1)
    output_tokens: int = Field(200, ge=1)
    peak_factor: float = Field(DEFAULT_PEAK_FACTOR, ge=1)
    models: dict[str, ModelTraffic | RequestsPerDay] = Field(min_length=1)

    def demands(self) -> list[Demand]:
        """Of each model, without its delta."""
        return [
            self._demand(name, one if isinstance(one, ModelTraffic) else _plain(one))
            for name, one in self.models.items()
        ]

    def _demand(self, name: str, one: ModelTraffic) -> Demand:
        request = Request(
            one.prompt_tokens or self.prompt_tokens, one.output_tokens or self.output_tokens
        )
        return Demand(name, one.requests_per_day, request)


def _plain(requests_per_day: float) -> ModelTraffic:
    return ModelTraffic(requests_per_day=requests_per_day)


def read_traffic(path: Path) -> Traffic:
    """Raises SettingsError."""
    try:
        return Traffic.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise SettingsError(f"{path}: {error}") from None


def even_traffic(models: Sequence[str], requests_per_day: float) -> Traffic:
    """As many requests for each."""
    share = requests_per_day / len(models)
    return Traffic(models=dict.fromkeys(models, share))


def seen_traffic(sums: Sequence[Sums], days: float) -> Traffic:
    """What a ledger's sums by model say. Raises SettingsError where nothing was asked."""
    models: dict[str, ModelTraffic | float] = {
        one.key["model"]: ModelTraffic(
            requests_per_day=one.request_count / days,
            prompt_tokens=max(1, round(one.prompt_token_count / one.request_count)),
            output_tokens=max(1, round(one.output_token_count / one.request_count)),
        )
        for one in sums
        if one.request_count
    }
    if not models:
        raise SettingsError("the ledger has no requests of these days")
    return Traffic(models=models)
