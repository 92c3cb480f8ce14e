"""`closed_apis` of fleet.yaml."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from model_pool.settings import FleetPath, Section, Url
from model_pool.settings_file import CLOSED_API_KEY_PREFIX, ENVIRONMENT_PREFIX


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return pattern


def _is_no_override(variable: str) -> str:
    is_ours = variable.startswith(ENVIRONMENT_PREFIX)
    if is_ours and not variable.startswith(CLOSED_API_KEY_PREFIX):
        raise ValueError(
            f"{ENVIRONMENT_PREFIX}... sets a value of fleet.yaml; use {CLOSED_API_KEY_PREFIX}..."
        )
    return variable


class Redaction(Section):
    """Every match is replaced in what leaves."""

    pattern: Annotated[str, AfterValidator(_compiles)]  # Python's re
    text: str = Field("[redacted]", alias="with")  # may refer to groups: \\1


class ClosedApi(Section):
    """A model of somebody else's that requests may be sent to. Off unless it is here."""

    kind: Literal["openai", "anthropic"] = "openai"  # chat completions, or Anthropic's Messages
    base_url: Url  # as the provider's own client takes it
    model: str  # the provider's own name of it
    price: str  # a key of the price file, which says what cached tokens cost, too
    quality: float = Field(1.0, ge=0, le=1)
    timeout_s: float = Field(60, gt=0)  # without a word from it
    max_retries: int = Field(2, ge=0, le=10)  # before the first token only
    daily_budget_usd: Decimal = Field(gt=0)  # of this gateway, from midnight to midnight UTC
    key_env: Annotated[str, AfterValidator(_is_no_override)] | None = None
    key_file: FleetPath | None = None
    # Temperature, top_p and seed are sent. Default: to kind openai. Some models refuse them;
    # Anthropic's API as of 2026-10-21 always does.
    takes_sampling: bool | None = None
    redact: tuple[Redaction, ...] = ()  # in this order
    redact_hook: str | None = Field(None, pattern=r"^[\w.]+:\w+$")  # module:function, text → text

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.key_env and self.key_file:
            raise ValueError("give key_env or key_file, not both")
        if self.kind == "anthropic" and self.takes_sampling:
            raise ValueError("takes_sampling: Anthropic's API refuses temperature, top_p and seed")
        return self

    @property
    def sends_sampling(self) -> bool:
        """Whether temperature, top_p and seed are sent."""
        return self.kind == "openai" if self.takes_sampling is None else self.takes_sampling
