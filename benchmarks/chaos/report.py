"""gateway/CHAOS.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.traffic import LIMIT_S, Told
from benchmarks.chaos.watching import Samples
from benchmarks.machine import facts

MOST_EXCESS_S = 1.0
MOST_SHOWN = 20  # of wrong answers
# What the last quarter of the time may hold beyond the second: a leak grows with each fault.
ROOM = {"memory, MiB": 30.0, "file descriptors": 20.0, "threads": 4.0, "tasks": 20.0}
FAULTS_OF_OURS = ("INTERNAL", "UNKNOWN", "ended without a summary")


@dataclass
class Findings:
    """What came of a campaign. quiet_count: of told, before the first fault. recovered: after the
    last one. books: see compared. restarts: of workers. logged_count: faults of the gateway's own.
    """

    injected: Counter[str]
    told: list[Told]
    quiet_count: int
    recovered: list[Told]
    books: dict[str, int]
    samples: Samples
    restarts: dict[str, int]
    logged_count: int
    seconds: float
    redis_restart_count: int


def is_clean(found: Findings) -> bool:
    """Whether everything that was promised held."""
    return not any(number for number, _ in _broken(found).values())


def write(path: Path, found: Findings) -> str:
    """The report's text, written to path."""
    text = "\n".join(_lines(found)) + "\n"
    path.write_text(text)
    return text


def _broken(found: Findings) -> dict[str, tuple[float, str]]:
    """By promise: how often it was broken, and what was looked at."""
    told, quarters = found.told, found.samples.quarters()
    late = [one for one in told if one.excess_s > MOST_EXCESS_S]
    growth = {
        name: max(0.0, values[3] - values[1] - ROOM[name]) for name, values in quarters.items()
    }
    after = Counter(one.outcome for one in found.recovered)
    unwell = [one for one in found.recovered if not _is_well(one)]
    longest_s = max((one.excess_s for one in told), default=0.0)
    return {
        "answers that were wrong, mixed, or cut short without an error": (
            sum(not one.is_right for one in told),
            f"of {len(told):,} requests, each compared with the answer of the whole fleet",
        ),
        f"requests that ended more than {MOST_EXCESS_S:g} s after their deadline": (
            len(late),
            f"the longest: {longest_s:+.2f} s",
        ),
        "answered requests that the ledger has not": (
            found.books["of these without a row"],
            f"of {found.books['answered requests, as callers saw them']:,}",
        ),
        "requests that the ledger has twice as answered": (
            found.books["requests with two rows as answered"],
            f"{found.books['rows of answers whose caller was cut off before the end']:,} answers "
            "were whole in the ledger when their caller was cut off",
        ),
        "requests that met a fault of the gateway itself": (
            sum(one.outcome.startswith(FAULTS_OF_OURS) for one in told) + found.logged_count,
            "INTERNAL, UNKNOWN, a stream without an end, a traceback in its log",
        ),
        "requests that failed once all was mended": (
            len(unwell) or int(not after),
            f"of {len(found.recovered):,}; the gateway was never started anew",
        ),
        "of memory, descriptors, threads, tasks: those that grew": (
            sum(bool(one) for one in growth.values()),
            "below",
        ),
    }


def _wrong(told: Sequence[Told]) -> list[str]:
    """What was wrong with the first of the wrong answers."""
    wrong = [one for one in told if not one.is_right][:MOST_SHOWN]
    if not wrong:
        return []
    return [
        "| wrong answer of | asked | ended | told | wanted |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {one.model} | {one.way} | {one.outcome}, at {one.ended_s:.1f} s | `{one.text!r}` "
            f"| `{one.expected!r}` |"
            for one in wrong
        ),
        "",
    ]


def _is_well(one: Told) -> bool:
    return one.is_whole or one.way in ("given up", "short")


def _lines(found: Findings) -> list[str]:
    count = sum(found.injected.values())
    quarters = found.samples.quarters()
    return [
        *("# Faults", "", "Written by", "", "```", "make chaos", "```", ""),
        f"{count} faults in {found.seconds / 60:.0f} minutes, several at once, in everything that",
        "a gateway of the demo fleet leans on, while callers asked all the time: whole, streamed,",
        "given up midway, with deadlines that are too short, and with an id of their own, asked",
        f"again until answered. Every request had a deadline, {LIMIT_S:g} s where not a short one.",
        "",
        "| promised never to happen | happened | |",
        "| --- | ---: | --- |",
        *(f"| {name} | {number:g} | {of} |" for name, (number, of) in _broken(found).items()),
        "",
        *_wrong(found.told),
        "| fault | times |",
        "| --- | ---: |",
        *(f"| {name} | {number} |" for name, number in found.injected.most_common()),
        f"| all | {count} |",
        "",
        f"Workers were started anew {sum(found.restarts.values())} times, Redis "
        f"{found.redis_restart_count} times, the gateway never.",
        "",
        "| how requests ended | before the first fault | from then on |",
        "| --- | ---: | ---: |",
        *_outcomes(found.told[: found.quiet_count], found.told[found.quiet_count :]),
        "",
        "| the gateway's process, median of each quarter of the time | 1st | 2nd | 3rd | 4th |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {name} | " + " | ".join(f"{value:,.0f}" for value in values) + " |"
            for name, values in quarters.items()
        ),
        "",
        "Grown is what holds more in the last quarter than in the second by "
        + ", ".join(f"{room:g} ({name})" for name, room in ROOM.items())
        + ".",
        "",
        "| the machine | |",
        "| --- | ---: |",
        *(f"| {name} | {value} |" for name, value in facts(("grpcio",)).items()),
    ]


def _outcomes(before: Sequence[Told], after: Sequence[Told]) -> list[str]:
    counts = [Counter(one.outcome for one in part) for part in (before, after)]
    names = sorted(counts[0] | counts[1], key=lambda name: -(counts[0][name] + counts[1][name]))
    return [f"| {name} | {counts[0][name]:,} | {counts[1][name]:,} |" for name in names]
