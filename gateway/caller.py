"""Who asks, and what a door tells of a request besides its content."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

CALLER_KEY = "deltafleet-caller"
Metadata = Iterable[tuple[str, str | bytes]]


class Scope(Enum):
    """What somebody may do."""

    INFER = "infer"
    READ_COSTS = "read-costs"
    ADMINISTER = "administer"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much somebody may ask for; None: as much as it likes."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_streams: int | None = None
    daily_budget_nano_usd: int | None = None
    monthly_budget_nano_usd: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    name: "" where nobody says. models: that it may name or be routed to; None: all. is_proven:
    whether it is who it says, so that what is its own is kept from others.
    """

    name: str = ""
    scopes: frozenset[Scope] = frozenset(Scope)
    models: frozenset[str] | None = None
    limits: Limits = Limits()
    is_proven: bool = False


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a caller shows of itself.

    authorization: the text of that header. api_key: of x-api-key. peer_names: in the certificate
    with which it opened the connection, once that was verified. claimed_name: what it calls itself.
    """

    authorization: str = ""
    api_key: str = ""
    peer_names: tuple[str, ...] = ()
    claimed_name: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """One request, whichever door it came through.

    has_own_id: whether the caller gave the id, so that asking again with it is the same request.
    is_unary: nobody sees the answer before its end. traceparent: the caller's header, checked; "":
    none.
    """

    request_id: str
    caller: Caller
    has_own_id: bool = False
    is_unary: bool = False
    traceparent: str = ""


# Takes a full method name and its gRPC context; refuses by raising.
Admission = Callable[[str, Any], Awaitable[None]]

current_caller: contextvars.ContextVar[Caller] = contextvars.ContextVar("current_caller")


def named_caller(metadata: Metadata | None) -> Caller:
    """Where nobody is checked: the name that the caller gives itself."""
    for key, value in metadata or ():
        if key == CALLER_KEY and isinstance(value, str):
            return Caller(value)
    return Caller()


async def admit_anybody(method: str, context: Any) -> None:
    """The admission of a gateway without keys."""
    current_caller.set(named_caller(context.invocation_metadata()))
