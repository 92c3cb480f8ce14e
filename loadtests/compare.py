"""Two runs side by side: what changed, and whether that is more than noise. Pure.

Intervals: a bootstrap of blocks of time (Künsch 1989, Annals of Statistics 17), since requests that
came together waited together and are no independent samples.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import table
from loadtests.figures import quantile, usd_per_mtok

BLOCK_S = 5.0
REPEAT_COUNT = 1000
CONFIDENCE = 0.95
SEED = 1

Report = Mapping[str, Any]
Row = Mapping[str, Any]
Block = Sequence[Row]


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of a run. of: rows, and the seconds in which they came -> the figure."""

    name: str
    of: Callable[[Block, float], float | None]
    unit: str
    more_is_better: bool


@dataclass(frozen=True, slots=True)
class Difference:
    """One measure in both runs. low, high: where after less before lies, with 95% confidence."""

    measure: Measure
    before: float
    after: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """In words."""
        if self.low <= 0 <= self.high:
            return "no difference seen"
        is_better = (self.low > 0) == self.measure.more_is_better
        return "better" if is_better else "**worse**"


def _quantile_of(column: str, share: float) -> Callable[[Block, float], float | None]:
    def of(rows: Block, seconds: float) -> float | None:
        return quantile([row[column] for row in rows if _counts(row, column)], share)

    return of


def _counts(row: Row, column: str) -> bool:
    return not row["reason"] and row[column] is not None


def _share_of(column: str) -> Callable[[Block, float], float | None]:
    def of(rows: Block, seconds: float) -> float | None:
        marks = [row[column] for row in rows if row[column] is not None]
        return sum(marks) / len(marks) if marks else None

    return of


def _error_share(rows: Block, seconds: float) -> float | None:
    return sum(bool(row["reason"]) for row in rows) / len(rows)


def _goodput(rows: Block, seconds: float) -> float | None:
    return float(sum(row["is_good"] for row in rows) / seconds)


def _price(rows: Block, seconds: float) -> float | None:
    tokens = sum(row["prompt_token_count"] + row["output_token_count"] for row in rows)
    return usd_per_mtok(sum(row["cost_nano_usd"] for row in rows), tokens)


MEASURES = (
    Measure("good answers", _goodput, "/s", True),
    Measure("errors", _error_share, "%", False),
    Measure("first token, p50", _quantile_of("first_token_s", 0.5), "ms", False),
    Measure("first token, p99", _quantile_of("first_token_s", 0.99), "ms", False),
    Measure("per token, p50", _quantile_of("per_token_s", 0.5), "ms", False),
    Measure("total, p50", _quantile_of("total_s", 0.5), "ms", False),
    Measure("total, p99", _quantile_of("total_s", 0.99), "ms", False),
    Measure("routed right", _share_of("is_routed"), "%", True),
    Measure("answers right", _share_of("is_right"), "%", True),
    Measure("USD per million tokens", _price, "USD", False),
)
SCALES = {"/s": 1.0, "%": 100.0, "ms": 1e3, "USD": 1.0}


def compare(before: Report, after: Report) -> list[Difference]:
    """Every measure that both runs have."""
    blocks = [_blocks(before), _blocks(after)]
    wholes = [[row for block in one for row in block] for one in blocks]
    seconds = [sum(phase["seconds"] for phase in one["phases"]) for one in (before, after)]
    draws = [_resampled(one, random.Random(SEED)) for one in blocks]
    found = []
    for measure in MEASURES:
        values = [measure.of(*pair) for pair in zip(wholes, seconds, strict=True)]
        first, second = values
        if first is None or second is None:
            continue
        low, high = _interval(measure, draws, seconds)
        found.append(Difference(measure, first, second, low, high))
    return found


def _interval(
    measure: Measure, draws: Sequence[Sequence[Block]], seconds: Sequence[float]
) -> tuple[float, float]:
    pairs = (
        [measure.of(rows, long) for rows, long in zip(pair, seconds, strict=True)]
        for pair in zip(*draws, strict=True)
    )
    differences = sorted(
        after - before for before, after in pairs if before is not None and after is not None
    )
    outside = (1 - CONFIDENCE) / 2
    low, high = quantile(differences, outside), quantile(differences, 1 - outside)
    assert low is not None and high is not None, "both runs have it"
    return low, high


def _blocks(report: Report) -> list[Block]:
    """The requests of each five seconds."""
    columns: Mapping[str, Sequence[Any]] = report["requests"]
    found: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for values in zip(*columns.values(), strict=True):
        row = dict(zip(columns, values, strict=True))
        found[row["phase"], int(row["at_s"] // BLOCK_S)].append(row)
    return list(found.values())


def _resampled(blocks: Sequence[Block], rng: random.Random) -> list[Block]:
    return [
        [row for block in rng.choices(blocks, k=len(blocks)) for row in block]
        for _ in range(REPEAT_COUNT)
    ]


def render_comparison(before: Report, after: Report, found: Sequence[Difference]) -> str:
    """Markdown."""
    rows = []
    for one in found:
        scale, unit = SCALES[one.measure.unit], one.measure.unit
        numbers = [f"{scale * value:.4g} {unit}" for value in (one.before, one.after)]
        between = f"{scale * one.low:+.3g} to {scale * one.high:+.3g} {unit}"
        rows.append((one.measure.name, *numbers, between, one.verdict))
    head = ("", _title(before), _title(after), "difference, 95%", "verdict")
    lines = [table(head, rows), "", *_warnings(before, after)]
    return "\n".join(lines) + "\n"


def _title(report: Report) -> str:
    return f"{report['name']}, {report['machine']['when']}"


def _warnings(before: Report, after: Report) -> list[str]:
    found = []
    if before["scenario"] != after["scenario"]:
        found.append("The scenarios differ: this compares different questions.")
    if before["machine"]["processor"] != after["machine"]["processor"]:
        found.append("The machines differ.")
    found += [
        f"{_title(one)}: not valid, its generator was late."
        for one in (before, after)
        if not one["valid"]
    ]
    found.append("One run each: what else the machine did is in the difference, too.")
    return found
