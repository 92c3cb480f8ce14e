"""Who may come in by the HTTP door: the same callers as by the gRPC one."""

from __future__ import annotations

from starlette.datastructures import Headers

from gateway.caller import CALLER_KEY, Caller, Credentials, Scope
from gateway.http_door.frame import AdmitHttp, admit_by_name
from gateway.identity.identity import API_KEY_KEY, AUTHORIZATION_KEY, Identity
from gateway.identity.scopes import require


def http_admission(identity: Identity | None) -> AdmitHttp:
    """By key or token, where the gateway asks for one; by the name that the caller gives, else.

    What it returns raises Unauthenticated, PermissionDenied.
    """
    if identity is None:
        return admit_by_name

    async def admit(headers: Headers, scope: Scope) -> Caller:
        shown = Credentials(
            authorization=headers.get(AUTHORIZATION_KEY, ""),
            api_key=headers.get(API_KEY_KEY, ""),
            claimed_name=headers.get(CALLER_KEY, ""),
        )
        caller = await identity.identify(shown)
        require(caller, scope)
        return caller

    return admit
