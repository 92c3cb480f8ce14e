"""`identity` of fleet.yaml, and the key that a client sends."""

from __future__ import annotations

import os
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator

from gateway.caller import Caller, Limits, Scope
from gateway.pricing import to_nano_usd
from model_pool.settings import FleetPath, Section, Url

API_KEY_VARIABLE = "DELTAFLEET_API_KEY"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
# Signed with a private key: with a shared secret whoever can check a token could make one.
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
CallerName = Annotated[str, StringConstraints(pattern=r"^[^\s\x00-\x1f\x7f]{1,128}$")]


def _is_safe(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in LOOPBACK:
        raise ValueError("https:// only, or anybody on the way could add a key")
    return url


class LimitSettings(Section):
    """How much a caller may ask for; what is left out is not limited."""

    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)  # of prompts and answers
    concurrent_streams: int | None = Field(None, ge=1)  # requests at the same time
    daily_budget_usd: Decimal | None = Field(None, ge=0, allow_inf_nan=False)  # by UTC days
    monthly_budget_usd: Decimal | None = Field(None, ge=0, allow_inf_nan=False)  # by UTC months

    def limits(self) -> Limits:
        """The same, money in nano-dollars."""
        return Limits(
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            concurrent_streams=self.concurrent_streams,
            daily_budget_nano_usd=_nano_usd(self.daily_budget_usd),
            monthly_budget_nano_usd=_nano_usd(self.monthly_budget_usd),
        )


def _nano_usd(usd: Decimal | None) -> int | None:
    return None if usd is None else to_nano_usd(usd)


class Grant(LimitSettings):
    """Who somebody is, and what it may do."""

    caller: CallerName  # by which it is counted, limited, and found in `callers`
    scopes: frozenset[Scope] = frozenset({Scope.INFER})
    models: frozenset[str] | None = None  # that may answer it; default: all

    def to_caller(self) -> Caller:
        """As the walk knows it."""
        return Caller(self.caller, self.scopes, self.models, self.limits(), is_proven=True)


class Jwt(Section):
    """Tokens of an OIDC issuer."""

    issuer: str  # of the claim iss, to the letter
    audience: str  # one of the claim aud
    jwks_url: Annotated[Url, AfterValidator(_is_safe)] | None = None  # the issuer's public keys
    jwks_file: FleetPath | None = None  # or a file of them
    algorithms: tuple[Algorithm, ...] = Field(("RS256", "ES256"), min_length=1)
    leeway_s: float = Field(30, ge=0, le=300)  # by which clocks may differ
    caller_claim: str = "sub"  # the caller's name
    caller_prefix: str = ""  # put before it, so that no token can name the caller of a key
    scopes_claim: str = "scope"  # words, in a text or a list; others than ours mean nothing
    scope_prefix: str = ""  # of our words in it, such as "deltafleet:"
    models_claim: str | None = None  # models, as words; default: all. Without it in a token: none
    limits: LimitSettings = LimitSettings()  # of each caller
    max_age_s: float = Field(3600, gt=0)  # then the keys are fetched again
    retry_s: float = Field(30, ge=0)  # between two fetches for keys that are not known

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.jwks_url is None) == (self.jwks_file is None):
            raise ValueError("give jwks_url or jwks_file, and not both")
        return self

    @property
    def leeway(self) -> timedelta:
        """leeway_s."""
        return timedelta(seconds=self.leeway_s)


class Identity(Section):
    """Who may call. Where this section is there, nobody else may."""

    keys_file: FleetPath | None = None  # written by `deltafleet keys`, read again when it changes
    reload_s: float = Field(2, gt=0)  # between two looks at files
    jwt: Jwt | None = None
    certificates: dict[str, Grant] = {}  # by a name in the caller's certificate; see server.tls

    @model_validator(mode="after")
    def _somebody_may(self) -> Self:
        if self.keys_file is None and self.jwt is None and not self.certificates:
            raise ValueError("give keys_file, jwt or certificates: nobody could call")
        return self


def is_private(listen: str) -> bool:
    """Whether only this machine reaches it. listen: host:port or unix:PATH."""
    return listen.startswith("unix:") or listen.rpartition(":")[0] in LOOPBACK


def own_api_key() -> SecretStr | None:
    """The key that commands send, from the environment only."""
    key = os.environ.get(API_KEY_VARIABLE, "").strip()
    return SecretStr(key) if key else None
