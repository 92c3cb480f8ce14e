"""Sums of the ledger and workers' lives → what each group cost, all told, and saved. Pure.

All money is whole nano-dollars. A worker costs its price whether it computes or not: requests pay
for the busy seconds, and what is left (loading, switching and idle, each by itself) is allotted to
the groups in proportion to their busy seconds, to the last nano-dollar.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from fractions import Fraction

from gateway.ledger_store.rows import DIMENSIONS, Sums, WorkerLife
from gateway.ledger_store.summing import to_us
from gateway.ledger_store.tables import COUNTS, DAY_US
from gateway.life_costs import allot, life_costs
from gateway.pricing import span_cost_nano_usd

MTOK = 10**6


class BadReport(ValueError):
    """No such report; the text says why, field which part of the request is wrong."""

    def __init__(self, text: str, field: str) -> None:
        super().__init__(text)
        self.field = field


@dataclass(frozen=True, slots=True)
class Window:
    """From start_us until before end_us, microseconds since the epoch; None: without end."""

    start_us: int | None = None
    end_us: int | None = None

    def of_day(self, day: str) -> Window:
        """The part of it in one day (YYYY-MM-DD, UTC)."""
        start_us = to_us(datetime.fromisoformat(day).replace(tzinfo=UTC))
        return Window(
            max(start_us, start_us if self.start_us is None else self.start_us),
            min(start_us + DAY_US, start_us + DAY_US if self.end_us is None else self.end_us),
        )

    def elapsed_us(self, started_at_us: int, length_us: int) -> tuple[int, int]:
        """Where in something of that start and length this begins and ends, in microseconds."""
        start = 0 if self.start_us is None else self.start_us - started_at_us
        end = length_us if self.end_us is None else self.end_us - started_at_us
        return min(max(start, 0), length_us), min(max(end, 0), length_us)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A group beside one baseline, over the requests that were answered.

    saving_nano_usd: by the cost of busy seconds, also those of requests that failed;
    effective_saving_nano_usd: with the group's share of what computed nothing, too.
    break_even_requests_per_day: None where never, and where nothing can be said (no own worker was
    busy, nothing was answered, or by day).
    """

    baseline: str
    cost_nano_usd: int
    saving_nano_usd: int
    effective_saving_nano_usd: int
    break_even_requests_per_day: int | None = None
    never_breaks_even: bool = False


@dataclass(frozen=True, slots=True)
class Overhead:
    """What workers cost while they computed nothing, in nano-dollars."""

    loading_nano_usd: int = 0
    switching_nano_usd: int = 0
    idle_nano_usd: int = 0

    @property
    def nano_usd(self) -> int:
        """All of it."""
        return self.loading_nano_usd + self.switching_nano_usd + self.idle_nano_usd

    def __add__(self, other: Overhead) -> Overhead:
        return Overhead(
            self.loading_nano_usd + other.loading_nano_usd,
            self.switching_nano_usd + other.switching_nano_usd,
            self.idle_nano_usd + other.idle_nano_usd,
        )


@dataclass(frozen=True, slots=True)
class Group:
    """What one key's requests cost. overhead: its share of what computed nothing."""

    key: dict[str, str]
    request_count: int = 0
    answered_count: int = 0
    prompt_token_count: int = 0
    output_token_count: int = 0
    busy_us: int = 0
    cost_nano_usd: int = 0
    overhead: Overhead = Overhead()
    baselines: tuple[Comparison, ...] = ()

    @property
    def overhead_nano_usd(self) -> int:
        """Its share of what computed nothing, all of it."""
        return self.overhead.nano_usd

    @property
    def effective_cost_nano_usd(self) -> int:
        """Its requests and its share of what computed nothing."""
        return self.cost_nano_usd + self.overhead_nano_usd

    @property
    def nano_usd_per_mtok_output(self) -> int | None:
        """Marginal cost of a million output tokens; None without any."""
        return _per_mtok(self.cost_nano_usd, self.output_token_count)

    @property
    def nano_usd_per_mtok(self) -> int | None:
        """Marginal cost of a million tokens, the prompts' among them; None without any."""
        return _per_mtok(self.cost_nano_usd, self.prompt_token_count + self.output_token_count)

    @property
    def effective_nano_usd_per_mtok_output(self) -> int | None:
        """Effective cost of a million output tokens; None without any."""
        return _per_mtok(self.effective_cost_nano_usd, self.output_token_count)


@dataclass(frozen=True, slots=True)
class Report:
    """groups: one per key. total: of all. unallotted_nano_usd: of its overhead, what no group
    bears because no request computed meanwhile."""

    groups: tuple[Group, ...]
    total: Group
    unallotted_nano_usd: int


def check_dimensions(by: Sequence[str]) -> tuple[str, ...]:
    """What to group by; nothing said: the model. Raises BadReport."""
    unknown = [one for one in by if one not in DIMENSIONS]
    if unknown:
        raise BadReport(f"by: {unknown[0]!r} is none of {', '.join(DIMENSIONS)}", "by")
    if len(set(by)) < len(by):
        raise BadReport("by: the same twice", "by")
    return tuple(by) or ("model",)


def check_window(start: datetime | None, end: datetime | None) -> Window:
    """The time between two moments, both with their time zone. Raises BadReport."""
    if start and end and end <= start:
        raise BadReport("end_time: not after start_time", "end_time")
    return Window(None if start is None else to_us(start), None if end is None else to_us(end))


def make_report(sums: Sequence[Sums], lives: Sequence[WorkerLife], window: Window) -> Report:
    """What each group cost in a time, all told.

    sums: of the requests that finished in it, with one and the same set of dimensions.
    """
    overheads = _allotted(sums, lives, window)
    overhead = _overhead(lives, window)
    all_busy_us = sum(one.busy_us for one in sums)
    fixed = _fixed_nano_usd_per_day(lives, window)
    groups = tuple(
        _group(one, share, None if "day" in one.key else _share(fixed, one.busy_us, all_busy_us))
        for one, share in zip(sums, overheads, strict=True)
    )
    total = _group(_total(sums), overhead, _share(fixed, all_busy_us, all_busy_us))
    borne = sum(one.nano_usd for one in overheads)
    return Report(groups, total, overhead.nano_usd - borne)


def break_even_requests_per_day(
    fixed_nano_usd_per_day: Fraction, answered_count: int, baseline_nano_usd: int
) -> int:
    """From how many requests a day the baseline would charge what the workers cost a day anyway.

    The busy seconds of the requests are part of that day and are not paid for twice. Both amounts
    above 0: baseline_nano_usd is what it charges for answered_count requests.
    """
    requests = fixed_nano_usd_per_day * answered_count / baseline_nano_usd
    return -(-requests.numerator // requests.denominator)


def _total(sums: Sequence[Sums]) -> Sums:
    baselines: Counter[str] = Counter()
    for one in sums:
        baselines.update(one.baselines)
    return Sums(
        key={},
        **{name: sum(getattr(one, name) for one in sums) for name in COUNTS},
        baselines=dict(baselines),
    )


def _group(sums: Sums, overhead: Overhead, fixed_nano_usd_per_day: Fraction | None) -> Group:
    return Group(
        key=dict(sums.key),
        request_count=sums.request_count,
        answered_count=sums.answered_count,
        prompt_token_count=sums.prompt_token_count,
        output_token_count=sums.output_token_count,
        busy_us=sums.busy_us,
        cost_nano_usd=sums.cost_nano_usd,
        overhead=overhead,
        baselines=tuple(
            _compare(sums, overhead, fixed_nano_usd_per_day, name)
            for name in sorted(sums.baselines)
        ),
    )


def _compare(sums: Sums, overhead: Overhead, fixed: Fraction | None, name: str) -> Comparison:
    theirs = sums.baselines[name]
    is_known = bool(fixed) and sums.answered_count > 0
    # Where a busy second costs more than the baseline, the worker is full before it breaks even.
    is_never = is_known and theirs <= sums.cost_nano_usd
    return Comparison(
        baseline=name,
        cost_nano_usd=theirs,
        saving_nano_usd=theirs - sums.cost_nano_usd,
        effective_saving_nano_usd=theirs - sums.cost_nano_usd - overhead.nano_usd,
        break_even_requests_per_day=(
            break_even_requests_per_day(fixed, sums.answered_count, theirs)
            if fixed and is_known and not is_never
            else None
        ),
        never_breaks_even=is_never,
    )


def _allotted(sums: Sequence[Sums], lives: Sequence[WorkerLife], window: Window) -> list[Overhead]:
    """Each group's share of what computed nothing; of a day's where groups are of days."""
    places_of: dict[str, list[int]] = {}
    for place, one in enumerate(sums):
        places_of.setdefault(one.key.get("day", ""), []).append(place)
    shares = [Overhead()] * len(sums)
    for day, places in places_of.items():
        overhead = _overhead(lives, window.of_day(day) if day else window)
        weights = [sums[place].busy_us for place in places]
        kinds = [allot(amount, weights) for amount in astuple(overhead)]
        for place, parts in zip(places, zip(*kinds, strict=True), strict=True):
            shares[place] = Overhead(*parts)
    return shares


def _overhead(lives: Sequence[WorkerLife], window: Window) -> Overhead:
    """What computed nothing in that time, each part taken as spread evenly over its life."""
    overhead = Overhead()
    for life in lives:
        costs = life_costs(life)
        parts = (costs.load_nano_usd, costs.switch_nano_usd, costs.idle_nano_usd)
        overhead += Overhead(*(_part(amount, life, window) for amount in parts))
    return overhead


def _part(amount: int, life: WorkerLife, window: Window) -> int:
    """The part of an amount that falls into a time; parts of adjoining times sum exactly."""
    length = life.uptime_us
    if length <= 0:
        return 0
    start, end = window.elapsed_us(life.started_at_us, length)
    return amount * max(start, end) // length - amount * start // length


def _fixed_nano_usd_per_day(lives: Sequence[WorkerLife], window: Window) -> Fraction:
    """What the workers cost a day, busy or not: on average over the time that any was up."""
    spans = [_span(life, window) for life in lives]
    spans = [(start, end) for start, end in spans if end > start]
    if not spans:
        return Fraction(0)
    length = max(end for _, end in spans) - min(start for start, _ in spans)
    uptime = sum(
        _part(span_cost_nano_usd(life.uptime_us, life.price_nano_usd_per_hour), life, window)
        for life in lives
    )
    return Fraction(uptime * DAY_US, length)


def _span(life: WorkerLife, window: Window) -> tuple[int, int]:
    start, end = window.elapsed_us(life.started_at_us, life.uptime_us)
    return life.started_at_us + start, life.started_at_us + end


def _share(amount: Fraction, part: int, whole: int) -> Fraction:
    return amount * part / whole if whole else Fraction(0)


def _per_mtok(amount: int, token_count: int) -> int | None:
    return round(Fraction(amount * MTOK, token_count)) if token_count else None
