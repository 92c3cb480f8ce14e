"""Who calls: found out once for each call, whichever door it comes through."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from gateway.caller import CALLER_KEY, Caller, Credentials, Metadata, current_caller
from gateway.errors import PermissionDenied, Unauthenticated
from gateway.identity.keys import PREFIX, KeyRing
from gateway.identity.scopes import require_for
from model_pool.errors import FleetError

AUTHORIZATION_KEY, API_KEY_KEY = "authorization", "x-api-key"
SCHEME = "bearer "
# As gRPC names what was verified of a peer's certificate.
PEER_NAME_KEYS = ("x509_subject_alternative_name", "x509_common_name")
log = logging.getLogger(__name__)


class Identity:
    """keys: those that hold now. tokens: whose a token is. None: none are taken.

    certificates: callers by a name in their certificate.
    """

    def __init__(
        self,
        keys: Callable[[], KeyRing] | None,
        tokens: Callable[[str], Awaitable[Caller]] | None,
        certificates: Mapping[str, Caller],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._keys = keys
        self._tokens = tokens
        self._certificates = certificates
        self._now = now

    async def identify(self, shown: Credentials) -> Caller:
        """Who this is. Raises Unauthenticated, or PermissionDenied where it says another name.

        A key or token that is shown must be good, whatever certificate there is.
        """
        try:
            caller = await self._proven(shown)
            if shown.claimed_name not in ("", caller.name):
                raise PermissionDenied(f"{CALLER_KEY} is not the name of the key: leave it out")
        except FleetError as error:
            log.info("caller_refused", extra={"reason": error.message})
            raise
        return caller

    async def admit(self, method: str, context: Any) -> None:
        """The admission of the gRPC door. Raises Unauthenticated, PermissionDenied."""
        shown = credentials_of(context, with_peer=bool(self._certificates))
        caller = await self.identify(shown)
        require_for(caller, method)
        current_caller.set(caller)

    async def _proven(self, shown: Credentials) -> Caller:
        text = bearer(shown.authorization) or shown.api_key
        if text.startswith(PREFIX) and self._keys is not None:
            return self._keys().caller(text, self._now())
        if text and self._tokens is not None and not text.startswith(PREFIX):
            return await self._tokens(text)
        if text:
            raise Unauthenticated("the key is not known")
        for name in shown.peer_names:
            if name in self._certificates:
                return self._certificates[name]
        raise Unauthenticated("no key came with the call: authorization: Bearer KEY")


def bearer(header: str) -> str:
    """The key or token of an authorization header; empty where there is none.

    Raises Unauthenticated where it is of another kind.
    """
    if not header:
        return ""
    if not header.lower().startswith(SCHEME):
        raise Unauthenticated("authorization: Bearer KEY is expected")
    return header[len(SCHEME) :].strip()


def credentials_of(context: Any, *, with_peer: bool) -> Credentials:
    """What came with a gRPC call. Raises Unauthenticated where something came twice.

    with_peer: look into the certificate, which takes longer than all the rest.
    """
    said = read_metadata(context.invocation_metadata())
    return Credentials(
        authorization=said.get(AUTHORIZATION_KEY, ""),
        api_key=said.get(API_KEY_KEY, ""),
        peer_names=peer_names(context.auth_context()) if with_peer else (),
        claimed_name=said.get(CALLER_KEY, ""),
    )


def read_metadata(metadata: Metadata | None) -> dict[str, str]:
    """What tells who calls. Raises Unauthenticated where one key has two values."""
    said: dict[str, str] = {}
    for key, value in metadata or ():
        if key not in (AUTHORIZATION_KEY, API_KEY_KEY, CALLER_KEY) or not isinstance(value, str):
            continue
        if said.setdefault(key, value) != value:
            raise Unauthenticated(f"{key} came twice")
    return said


def peer_names(auth_context: Mapping[str, list[bytes]]) -> tuple[str, ...]:
    """The names in a verified certificate; none without one.

    Its common name counts only where it has no alternative names, as RFC 6125 has it: authorities
    may check the others alone.
    """
    found = next((auth_context[key] for key in PEER_NAME_KEYS if auth_context.get(key)), ())
    return tuple(name.decode("utf-8", "replace") for name in found)
