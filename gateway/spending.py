"""What may still be spent on a closed API today: never more is promised than the budget holds.

Before a request leaves, what it may cost at most is held; what it did cost takes its place. Whole
nano-dollars. Used on the event loop alone, so that looking and holding are one step.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from gateway.errors import BudgetSpent

SECONDS_PER_DAY = 86_400
SHRUNK_S = 1.0  # that what others left of a budget is believed
log = logging.getLogger(__name__)


class Budget:
    """One API's budget of each UTC day.

    spent_nano_usd: of today, before this object. clock: seconds since the epoch. What is held over
    midnight counts in both days, as the provider may bill it in either. billed_nano_usd: since this
    object was made.
    """

    def __init__(
        self,
        api: str,
        limit_nano_usd: int,
        *,
        spent_nano_usd: int = 0,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """monotonic: seconds, by a clock that nobody sets."""
        self.api = api
        self.limit_nano_usd = limit_nano_usd
        self._clock = clock
        self._monotonic = monotonic
        self._day = self._today()
        self._spent_nano_usd = spent_nano_usd
        self._held_nano_usd = 0
        self.billed_nano_usd = 0
        self._shrunk_nano_usd = 0
        self._shrunk_until_s = 0.0

    @property
    def spent_nano_usd(self) -> int:
        """Billed today."""
        self._turn_day()
        return self._spent_nano_usd

    @property
    def held_nano_usd(self) -> int:
        """Held for requests that are not billed yet."""
        return self._held_nano_usd

    def refusal(self, nano_usd: int) -> BudgetSpent | None:
        """Why so much cannot be held now; None: it can."""
        of_today = max(0, self.limit_nano_usd - self.spent_nano_usd - self._held_nano_usd)
        is_shrunk = self._monotonic() < self._shrunk_until_s
        room = min(of_today, self._shrunk_nano_usd) if is_shrunk else of_today
        if nano_usd <= room:
            return None
        midnight_s = (self._day + 1) * SECONDS_PER_DAY
        wait_s = SHRUNK_S if nano_usd <= of_today else midnight_s - self._clock()
        return BudgetSpent(
            f"{self.api} is not asked: the request may cost {nano_usd} nano-dollars, and "
            f"{room} of today's budget are left",
            retry_after_s=max(1.0, wait_s),
            closed_api=self.api,
            limit_nano_usd=self.limit_nano_usd,
        )

    def shrink(self, room_nano_usd: int) -> None:
        """Others spend of it too: no more than this is left, as far as is known for a moment."""
        self._shrunk_nano_usd = room_nano_usd
        self._shrunk_until_s = self._monotonic() + SHRUNK_S

    def reserve(self, nano_usd: int) -> Reservation:
        """Hold so much for one request. Raises BudgetSpent."""
        reservation = Reservation(self)
        reservation.hold(nano_usd)
        return reservation

    def move(self, *, held_nano_usd: int = 0, spent_nano_usd: int = 0) -> None:
        """Change both sums; for reservations."""
        self._turn_day()
        self._held_nano_usd += held_nano_usd
        self._spent_nano_usd += spent_nano_usd
        self.billed_nano_usd += spent_nano_usd

    def _turn_day(self) -> None:
        today = self._today()
        if today != self._day:
            self._day, self._spent_nano_usd = today, 0

    def _today(self) -> int:
        return int(self._clock() // SECONDS_PER_DAY)


class Reservation:
    """One request's part of a budget. Left without a bill, it is spent if the request was sent.

    held_nano_usd: what it may still cost. spent_nano_usd: what was billed. is_sent: a request is on
    its way, or was answered, whose bill is not known.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.held_nano_usd = 0
        self.spent_nano_usd = 0
        self.is_sent = False

    @property
    def most_nano_usd(self) -> int:
        """What all of it costs at most."""
        return self.spent_nano_usd + self.held_nano_usd

    def hold(self, nano_usd: int) -> None:
        """Hold at least so much. Raises BudgetSpent, and changes nothing then."""
        more = max(0, nano_usd - self.held_nano_usd)
        refusal = self._budget.refusal(more)
        if refusal:
            raise refusal
        self._budget.move(held_nano_usd=more)
        self.held_nano_usd += more

    def bill(self, nano_usd: int) -> None:
        """What was sent cost so much; nothing is held any more."""
        if nano_usd > self.held_nano_usd:
            log.warning("bill_above_reservation", extra={"closed_api": self._budget.api})
        self._budget.move(held_nano_usd=-self.held_nano_usd, spent_nano_usd=nano_usd)
        self.spent_nano_usd += nano_usd
        self.held_nano_usd = 0
        self.is_sent = False

    def bill_unknown(self) -> None:
        """What was sent may have cost all that is held."""
        self.bill(self.held_nano_usd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self.is_sent:
            self.bill_unknown()
        self._budget.move(held_nano_usd=-self.held_nano_usd)
        self.held_nano_usd = 0
