"""A closed API's daily budget, where several gateways spend of it."""

from __future__ import annotations

import uuid
from types import TracebackType
from typing import Self

from gateway.caller import Limits
from gateway.errors import BudgetSpent, LimitsUnavailable
from gateway.limits.counters import Draw, Grant, Rest
from gateway.limits.ledger_counters import SeededCounters
from gateway.spending import Budget, Reservation

NOTHING = Grant(0, "", 0, 0)
ACCOUNT_PREFIX = "closed-api:"  # callers' names have no colon


class SharedBudget:
    """What all gateways together have spent and hold of one API's budget.

    local: this gateway's own sums, by which decisions are made without waiting.
    """

    def __init__(self, counters: SeededCounters, local: Budget) -> None:
        self.counters = counters
        self.local = local
        self.account = ACCOUNT_PREFIX + local.api
        self.limits = Limits(daily_budget_nano_usd=local.limit_nano_usd)

    def cover(self, reservation: Reservation) -> SharedCover:
        """Of a request that has a place within this gateway's own sums."""
        return SharedCover(self, reservation)


class SharedCover:
    """What one request may cost at most, held for all gateways to see; billed when it ends."""

    def __init__(self, budget: SharedBudget, reservation: Reservation) -> None:
        self._budget = budget
        self._reservation = reservation
        self._grant = NOTHING

    async def extend(self) -> None:
        """Hold what the reservation does. Raises BudgetSpent, LimitsUnavailable."""
        budget, most = self._budget, self._reservation.most_nano_usd
        draw = Draw(budget.account, budget.limits, self._grant, most, is_whole=True)
        try:
            drawn = await budget.counters.draw(draw, self._keep)
        except LimitsUnavailable:
            budget.local.shrink(0)
            raise
        if drawn.refused:
            budget.local.shrink(max(0, most - self._grant.nano_usd - 1))
            raise BudgetSpent(
                f"{budget.local.api} is not asked: the request may cost {most} nano-dollars, and "
                "all gateways together have less of today's budget left",
                retry_after_s=drawn.refused.retry_after_s,
                closed_api=budget.local.api,
                limit_nano_usd=budget.local.limit_nano_usd,
            )

    def _keep(self, grant: Grant) -> None:
        self._grant = grant

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """The reservation is closed: what it says is spent is the bill."""
        spent = self._reservation.spent_nano_usd
        if self._grant is not NOTHING:
            lease = str(uuid.uuid4())
            await self._budget.counters.settle(
                Rest(self._budget.account, lease, 0, 0, self._grant, spent)
            )
