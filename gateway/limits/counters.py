"""What counts requests, tokens, streams and money of callers; whoever keeps the counts.

Requests and tokens are counted in a window of whole seconds that slides: whatever the minute, no
more is let in within it than the limit. The price of that exactness is up to a second: what came
in leaves the window 60 to 61 seconds later. Money is granted to a request ahead of its spending,
and what it did not use is given back, so that nobody has to ask for each piece of an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from gateway.caller import Limits

WINDOW_S = 60
SECONDS_PER_DAY = 86_400
# A request that draws more is granted at most this part of what is left, or what it owes: so that
# what lies unused with others stays small where the end of a budget is near.
ROOM_SHARE = 8
# Who waits for a place is told to come back after this; nobody knows when an answer ends.
PLACE_RETRY_S = 1.0


class Limit(Enum):
    """What there may be limits of, as metrics and errors name it."""

    REQUESTS = "requests_per_minute"
    TOKENS = "tokens_per_minute"
    STREAMS = "concurrent_streams"
    DAY = "daily_budget"
    MONTH = "monthly_budget"


class CountersAway(Exception):
    """Nobody answers. Whether what was asked was done is not known."""


class Unseeded(Exception):
    """Nothing is known of a caller's spending: `seed` it, and ask again."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request that wants in.

    token_count: of prompt and answer, at most. lease: the name of its place; unique. wanted: what
    it would like to be granted, in nano-dollars; it gets at least one where there is a budget.
    """

    caller: str
    limits: Limits
    token_count: int
    lease: str
    wanted_nano_usd: int = 0

    @property
    def has_budget(self) -> bool:
        """Whether money is counted."""
        return has_budget(self.limits)


@dataclass(frozen=True, slots=True)
class Rate:
    """A window. reset_s: until nothing of it is used."""

    limit: int
    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class Grant:
    """What a request may spend without asking again.

    epoch: of the counts; another one has not heard of this grant. day: since 1970. month: since the
    year 0.
    """

    nano_usd: int
    epoch: str
    day: int
    month: int


@dataclass(frozen=True, slots=True)
class Refused:
    """retry_after_s: None where waiting does not help."""

    limit: Limit
    retry_after_s: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where it is refused, nothing was taken. second: of the window, in which it was counted."""

    refused: Refused | None
    requests: Rate | None
    tokens: Rate | None
    second: int
    grant: Grant | None


@dataclass(frozen=True, slots=True)
class Draw:
    """A request that wants more money.

    cost_nano_usd: of all of it so far. wanted_nano_usd: more than that. is_whole: nothing is taken
    where the cost is not covered.
    """

    caller: str
    limits: Limits
    grant: Grant
    cost_nano_usd: int
    wanted_nano_usd: int = 0
    is_whole: bool = False


@dataclass(frozen=True, slots=True)
class Drawn:
    """grant: in place of the one before. refused: where it does not cover the cost."""

    grant: Grant
    refused: Refused | None


@dataclass(frozen=True, slots=True)
class Rest:
    """A request that has ended. token_count: less than was counted, or more: the difference."""

    caller: str
    lease: str
    second: int
    token_count: int
    grant: Grant | None
    cost_nano_usd: int


@dataclass(frozen=True, slots=True)
class Spent:
    """What a caller has spent in a day and a month."""

    day: int
    day_nano_usd: int
    month: int
    month_nano_usd: int


class Counters(Protocol):
    """Each call is one step: nobody else's comes between its parts."""

    @property
    def is_shared(self) -> bool:
        """Whether other gateways count there, too."""
        ...

    async def admit(self, ask: Ask) -> Verdict:
        """Count the request, all of it or nothing. Raises Unseeded, CountersAway."""
        ...

    async def draw(self, draw: Draw) -> Drawn:
        """Grant more. Raises Unseeded, CountersAway."""
        ...

    async def settle(self, rest: Rest) -> None:
        """Give back the place and what was not used; charge what was used above it."""
        ...

    async def seed(self, caller: str, spent: Spent) -> None:
        """Say what a caller has spent, unless somebody has said so already."""
        ...


def has_budget(limits: Limits) -> bool:
    """Whether money is counted."""
    return limits.daily_budget_nano_usd is not None or limits.monthly_budget_nano_usd is not None


def granted(needed: int, wanted: int, room: int, *, is_whole: bool = False) -> int:
    """What is granted of `room` to a request that owes `needed` and would like `wanted` more."""
    if is_whole and needed > room:
        return 0
    return max(0, min(room, needed + max(0, min(wanted, (room - needed) // ROOM_SHARE))))
