"""What one request may still spend."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.answer import AnswerPiece
from gateway.caller import Limits
from gateway.entry import Entry
from gateway.errors import CallerBudgetSpent, LimitsUnavailable
from gateway.limits.counters import Draw, Drawn, Grant, Limit, Refused
from gateway.limits.ledger_counters import SeededCounters
from gateway.pricing import to_usd
from model_pool.errors import FleetError


@dataclass(frozen=True, slots=True)
class Used:
    """What a request came to."""

    cost_nano_usd: int = 0
    token_count: int = 0


class Allowance:
    """A request without a budget: it may spend what it likes."""

    def __init__(self) -> None:
        self._entry: Entry | None = None

    @property
    def used(self) -> Used:
        """As its ledger row says."""
        last = self._entry.last if self._entry else None
        if last is None:
            return Used()
        return Used(last.cost_nano_usd, last.prompt_token_count + last.output_token_count)

    @property
    def grant(self) -> Grant | None:
        """What was granted to it so far; None: no money is counted."""
        return None

    def follow(self, entry: Entry) -> None:
        """It is answered, and accounted for there."""
        self._entry = entry

    async def hold(self, nano_usd: int) -> None:
        """Hold so much before anything is spent. Raises CallerBudgetSpent, LimitsUnavailable."""

    async def charge(self, piece: AnswerPiece) -> FleetError | None:
        """Why the answer ends after this piece; None: it may go on.

        Raises the same where what the piece costs is not spent yet, and is not to be.
        """
        return None


class GrantedAllowance(Allowance):
    """A request of a caller with a budget.

    It draws ahead, each time as much as it has cost so far, so that an answer asks a few times and
    not for each piece. An answer whose cost is not covered any more ends with the piece that passed
    the budget: that one was computed already.
    """

    def __init__(self, counters: SeededCounters, caller: str, limits: Limits, grant: Grant) -> None:
        super().__init__()
        self._counters = counters
        self._caller = caller
        self._limits = limits
        self._grant = grant

    @property
    def grant(self) -> Grant | None:
        """See Allowance."""
        return self._grant

    async def hold(self, nano_usd: int) -> None:
        """See Allowance."""
        if nano_usd > self._grant.nano_usd:
            drawn = await self._draw(Draw(*self._whose, self._grant, nano_usd, is_whole=True))
            if drawn.refused:
                raise budget_spent(drawn.refused, self._limits)

    async def charge(self, piece: AnswerPiece) -> FleetError | None:
        """See Allowance."""
        cost = piece.cost_nano_usd
        if cost <= self._grant.nano_usd or piece.finish_reason:
            return None
        draw = Draw(*self._whose, self._grant, cost, cost, is_whole=piece.is_promised)
        refusal: FleetError
        try:
            drawn = await self._draw(draw)
        except LimitsUnavailable as error:
            refusal = error
        else:
            if drawn.refused is None:
                return None
            refusal = budget_spent(drawn.refused, self._limits)
        if piece.is_promised:
            raise refusal
        return refusal

    @property
    def _whose(self) -> tuple[str, Limits]:
        return self._caller, self._limits

    async def _draw(self, draw: Draw) -> Drawn:
        return await self._counters.draw(draw, self._keep)

    def _keep(self, grant: Grant) -> None:
        self._grant = grant


def budget_spent(refused: Refused, limits: Limits) -> CallerBudgetSpent:
    """In the caller's words."""
    is_day = refused.limit is Limit.DAY
    budget = limits.daily_budget_nano_usd if is_day else limits.monthly_budget_nano_usd
    assert budget is not None, "it refused"
    span = "today" if is_day else "this month"
    return CallerBudgetSpent(
        f"the budget of {span}, {to_usd(budget):f} USD, has no room for this",
        retry_after_s=refused.retry_after_s,
        limit=refused.limit.value,
        limit_nano_usd=budget,
    )
