"""What a caller has spent of a day's and a month's budget."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from gateway.caller import Limits
from gateway.limits.counters import SECONDS_PER_DAY, Draw, Drawn, Grant, Limit, Refused, Rest, Spent
from gateway.limits.counters import granted as granted_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
OWN_EPOCH = "own"


class Account:
    """Spent and granted nano-dollars of one caller; times are seconds since 1970.

    A clock that is set back begins no day anew.
    """

    def __init__(self, spent: Spent) -> None:
        self._day, self._month = spent.day, spent.month
        self.day_nano_usd = spent.day_nano_usd
        self.month_nano_usd = spent.month_nano_usd

    def draw(self, draw: Draw, now_s: float) -> Drawn:
        """Grant what there is."""
        self._turn(now_s)
        held = draw.grant.nano_usd if draw.grant.epoch == OWN_EPOCH else 0
        needed = max(0, draw.cost_nano_usd - held)
        room = self.room_nano_usd(draw.limits)
        more = granted_of(needed, draw.wanted_nano_usd, room, is_whole=draw.is_whole)
        self._add(more)
        grant = Grant(held + more, OWN_EPOCH, self._day, self._month)
        return Drawn(grant, None if more >= needed else self.refusal(draw.limits, now_s))

    def settle(self, rest: Rest, grant: Grant) -> None:
        """What is given back is of the day and the month in which it was granted."""
        self._add(rest.cost_nano_usd - grant.nano_usd, grant)

    def room_nano_usd(self, limits: Limits) -> int:
        """What is left of both budgets; 2**63 without any."""
        left = [2**63]
        if limits.daily_budget_nano_usd is not None:
            left.append(limits.daily_budget_nano_usd - self.day_nano_usd)
        if limits.monthly_budget_nano_usd is not None:
            left.append(limits.monthly_budget_nano_usd - self.month_nano_usd)
        return max(0, min(left))

    def refusal(self, limits: Limits, now_s: float) -> Refused:
        """Which budget is the tighter one, and when it begins anew."""
        daily, monthly = limits.daily_budget_nano_usd, limits.monthly_budget_nano_usd
        is_month = monthly is not None and (
            daily is None or monthly - self.month_nano_usd <= daily - self.day_nano_usd
        )
        end = first_day(self._month + 1) if is_month else self._day + 1
        limit = Limit.MONTH if is_month else Limit.DAY
        return Refused(limit, max(1.0, end * SECONDS_PER_DAY - now_s))

    def _turn(self, now_s: float) -> None:
        day = int(now_s // SECONDS_PER_DAY)
        if day > self._day:
            self._day, self.day_nano_usd = day, 0
        month = month_of(self._day)
        if month > self._month:
            self._month, self.month_nano_usd = month, 0

    def _add(self, nano_usd: int, grant: Grant | None = None) -> None:
        if nano_usd >= 0 or grant is None or grant.day == self._day:
            self.day_nano_usd = max(0, self.day_nano_usd + nano_usd)
        if nano_usd >= 0 or grant is None or grant.month == self._month:
            self.month_nano_usd = max(0, self.month_nano_usd + nano_usd)


def month_of(day: int) -> int:
    """The month of a day since 1970: twelve times the year, and January is 0."""
    moment = EPOCH + timedelta(days=day)
    return moment.year * 12 + moment.month - 1


def first_day(month: int) -> int:
    """The first day of a month."""
    return (datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC) - EPOCH).days
