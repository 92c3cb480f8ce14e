"""Signed tokens (JWT, RFC 7519) of one issuer → callers."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jwt
from pydantic import TypeAdapter, ValidationError

from gateway.caller import Caller, Scope
from gateway.errors import Unauthenticated
from gateway.identity.key_set import KeySet
from gateway.identity.settings import CallerName, Jwt

REMEMBERED_COUNT = 10_000
_NAME = TypeAdapter[str](CallerName)


@dataclass(frozen=True, slots=True)
class _Checked:
    """A token that was found good. key_version: of the keys then."""

    caller: Caller
    expires_at: float
    key_version: int


class Tokens:
    """Checks tokens; one that was good is remembered until it expires or the issuer's keys change.

    Checking a signature takes a tenth of a millisecond. now: seconds since 1970.
    """

    def __init__(self, settings: Jwt, keys: KeySet, now: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._keys = keys
        self._now = now
        self._jwt = jwt.PyJWT({"enforce_minimum_key_length": True})
        self._checked: OrderedDict[bytes, _Checked] = OrderedDict()

    async def caller(self, token: str) -> Caller:
        """Whose token it is. Raises Unauthenticated."""
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        known = self._checked.get(digest)
        if known and self._holds(known):
            return known.caller
        claims = await self._claims(token)
        caller = to_caller(claims, self._settings)
        expires_at = float(claims["exp"]) + self._settings.leeway_s
        self._checked[digest] = _Checked(caller, expires_at, self._keys.version)
        self._checked.move_to_end(digest)
        if len(self._checked) > REMEMBERED_COUNT:
            self._checked.popitem(last=False)
        return caller

    def _holds(self, known: _Checked) -> bool:
        return known.key_version == self._keys.version and self._now() < known.expires_at

    async def _claims(self, token: str) -> dict[str, Any]:
        settings = self._settings
        try:
            name = jwt.get_unverified_header(token).get("kid", "")
            key = await self._keys.find(name)
            if key is None:
                raise Unauthenticated("the token is signed with a key that is not known")
            return self._jwt.decode(
                token,
                key,
                algorithms=list(settings.algorithms),
                audience=settings.audience,
                issuer=settings.issuer,
                leeway=settings.leeway,
                options={"require": ["exp", "iss", "aud", settings.caller_claim]},
            )
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            # Its text may quote the token.
            raise Unauthenticated(f"the token is not good: {type(error).__name__}") from None


def to_caller(claims: dict[str, Any], settings: Jwt) -> Caller:
    """Who a verified token says that it is. Raises Unauthenticated where that is no name."""
    try:
        said = claims[settings.caller_claim]
        name = _NAME.validate_python(settings.caller_prefix + said, strict=True)
    except (TypeError, ValidationError):
        raise Unauthenticated(f"the token's {settings.caller_claim} is not a name") from None
    models = settings.models_claim
    return Caller(
        name,
        read_scopes(words(claims.get(settings.scopes_claim)), settings.scope_prefix),
        None if models is None else words(claims.get(models)),
        settings.limits.limits(),
        is_proven=True,
    )


def words(claim: object) -> frozenset[str]:
    """A claim of several: a text with spaces (RFC 8693), or a list; none where it is else."""
    if isinstance(claim, str):
        return frozenset(claim.split())
    if isinstance(claim, list):
        return frozenset(one for one in claim if isinstance(one, str))
    return frozenset()


def read_scopes(said: frozenset[str], prefix: str) -> frozenset[Scope]:
    """Ours among them; the others are for others."""
    return frozenset(scope for scope in Scope if prefix + scope.value in said)
