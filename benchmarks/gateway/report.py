"""gateway/BENCHMARK.md, from the figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import Goal, middle, table
from benchmarks.gateway.measuring import EVENT_TOKEN_COUNT, GAP_S, STREAM_COUNT
from benchmarks.gateway.overload import CAPACITY
from benchmarks.gateway.running import PROCESS_SHARE

REPORT = Path("gateway/BENCHMARK.md")
DIRECT, DIRECT_HTTP, LITELLM = "direct", "direct, HTTP", "LiteLLM"
OURS, BARE = "gateway, grpc.aio, uvloop", "bare proxy, grpc.aio, uvloop"

Figures = dict[str, Any]


def render(results: Figures) -> str:
    """results: what a run left."""
    figures = results["figures"]
    goals = table(
        ("goal", "measured", "verdict"),
        [(goal.what, goal.measured, goal.verdict) for goal in _goals(figures)],
    )
    template = Path(__file__).with_name("report.md").read_text(encoding="utf-8")
    return template.format(
        goals=goals,
        machine=table(("", ""), [(name, str(one)) for name, one in results["machine"].items()]),
        busy=_busy(float(results["machine"]["load average before"])),
        round_count=figures["round_count"],
        seconds=figures["seconds"],
        at_once="\n\n".join(_at_once(figures["at_once"])),
        paced=_paced(figures["paced"]),
        bursts=_bursts(figures["bursts"]),
        stream_count=STREAM_COUNT,
        gap_ms=GAP_S * 1e3,
        event_token_count=EVENT_TOKEN_COUNT,
        process_share=f"{PROCESS_SHARE:.0%}",
        processes=_processes(figures["processes"]),
        memory=_memory(figures["memory"]),
        aborts=_aborts(figures["aborts"]),
        scrapes=_scrapes(figures["scrapes"]),
        overload=_overload(figures["overload"]),
        capacity=f"{CAPACITY:.0f}",
    )


def _busy(load: float) -> str:
    """Where other work shares the cores, times are its times, too."""
    if load <= 1:
        return ""
    return (
        f"**The machine was busy: {load:g} programs wanted its cores before this began. Times and\n"
        "answers per second are no verdict then; CPU times and ratios are rough ones.**\n\n"
    )


def _mid(runs: Sequence[Figures], key: str) -> float:
    return float(middle([run[key] for run in runs]))


def _added_s(found: Figures, name: str, key: str) -> float:
    """Through less direct, each the middle of its rounds."""
    bare = DIRECT_HTTP if name in (DIRECT_HTTP, LITELLM) else DIRECT
    return _mid(found[name], key) - _mid(found[bare], key)


def _goals(figures: Figures) -> Iterator[Goal]:
    busy, alone = figures["at_once"]["unary 32"], figures["at_once"]["unary 1"]
    rate = _mid(busy[OURS], "rate")
    yield Goal("unary, 32 at once: at least 3,000 a second", f"{rate:,.0f}", rate >= 3000)
    cpu_us = _mid(busy[OURS], "cpu_us")
    yield Goal("the same by CPU time: 333 µs at most", f"{cpu_us:.0f} µs", cpu_us <= 333)
    share = rate / _mid(busy[BARE], "rate")
    yield Goal(
        "beside the bare proxy, as the goal is to its trial: 107%", f"{share:.0%}", share >= 1.07
    )
    yield Goal("the same on pygrpc-native: 12,000", "not chosen (decision 0024)", False)
    if LITELLM in busy:
        theirs = _mid(busy[LITELLM], "rate")
        measured = f"{rate / theirs:.0f} times" if theirs else "LiteLLM answered none in time"
        yield Goal("25 times LiteLLM's", measured, 0 < 25 * theirs <= rate)
    for key, quantile, most_s in (("p50_s", "p50", 0.0006), ("p99_s", "p99", 0.0015)):
        added_s = _added_s(alone, OURS, key)
        what = f"unary, one at a time: added {quantile} {most_s * 1e3:g} ms at most"
        yield Goal(what, f"{added_s * 1e3:.2f} ms", added_s <= most_s)
    yield from _stream_goals(figures)
    yield from _other_goals(figures)


def _stream_goals(figures: Figures) -> Iterator[Goal]:
    paced, bursts = figures["paced"], figures["bursts"]
    cpu_us = _mid(paced[OURS], "cpu_us_per_token")
    yield Goal("60 µs of CPU at most per paced token", f"{cpu_us:.0f} µs", cpu_us <= 60)
    added_s = _added_s(paced, OURS, "first_p50_s")
    what = f"first token at {STREAM_COUNT} streams: 3 ms added at most"
    is_known = bool(_mid(paced[OURS], "first_p50_s"))
    yield Goal(what, f"{added_s * 1e3:.1f} ms", is_known and added_s <= 0.003)
    tokens = _mid(bursts[OURS], "tokens_per_cpu_s")
    what = f"{EVENT_TOKEN_COUNT} tokens an event: 75,000 tokens a second and core"
    yield Goal(what, f"{tokens:,.0f}", tokens >= 75_000)


def _other_goals(figures: Figures) -> Iterator[Goal]:
    scrapes, aborts = figures["scrapes"], figures["aborts"]
    stall_s = middle(scrapes["scraped_s"])
    what = "a scrape stalls the loop for 5 ms at most"
    yield Goal(what, f"{stall_s * 1e3:.1f} ms", stall_s <= 0.005)
    what = "aborts at the worker within 50 ms: 1,000 of 1,000"
    measured = f"{aborts['within_50_ms']:,} of 1,000"
    yield Goal(what, measured, aborts["within_50_ms"] == 1000)
    one, two = (
        _mid(figures["processes"][name], "rate") for name in ("one process", "two processes")
    )
    yield Goal("two processes at least 1.8 times one", f"{two / one:.2f} times", two / one >= 1.8)
    half, twice = (figures["overload"][load] for load in ("half", "twice"))
    before_s, under_s = (one["interactive"]["first_p99_s"] for one in (half, twice))
    what = "twice the load: p99 of the urgent's first token as at half of it"
    measured = f"{_ms(before_s)}, then {_ms(under_s)}"
    yield Goal(what, measured, under_s <= max(1.5 * before_s, before_s + 0.005))
    shed_s = max(one["shed_p99_s"] for one in twice.values())
    yield Goal("the rest is told within 5 ms (p99)", _ms(shed_s), shed_s <= 0.005)
    own = max(one["resident_bytes"] for one in figures["memory"].values())
    yield Goal("120 MB at most", f"{own / 1e6:.0f} MB", own <= 120e6)


def _at_once(found: Figures) -> Iterator[str]:
    head = (
        *("", "answers/s", "p50", "p99", "added p50", "added p99"),
        *("CPU each", "client's CPU each", "failed"),
    )
    for key, runs in found.items():
        rows = []
        for name in runs:
            values = [_ms(_mid(runs[name], one)) for one in ("p50_s", "p99_s")]
            if not name.startswith("direct"):
                values += [_ms(_added_s(runs, name, one)) for one in ("p50_s", "p99_s")]
            rows.append(
                (
                    name,
                    f"{_mid(runs[name], 'rate'):,.0f}",
                    *[*values, "", ""][:4],
                    _us(_mid(runs[name], "cpu_us")),
                    _us(_mid(runs[name], "client_cpu_us")),
                    str(sum(run["failed_count"] for run in runs[name])),
                )
            )
        kind, count = key.split()
        yield f"**{kind}, {count} at once**\n\n" + table(head, rows)


def _paced(found: Figures) -> str:
    head = ("", "CPU per token", "first token p50", "p99", "added p50", "events/s", "failed")
    return table(
        head,
        [
            (
                name,
                _us(_mid(runs, "cpu_us_per_token")),
                _ms(_mid(runs, "first_p50_s")),
                _ms(_mid(runs, "first_p99_s")),
                "" if name == DIRECT else _ms(_added_s(found, name, "first_p50_s")),
                f"{_mid(runs, 'events_per_s'):,.0f} for {runs[0]['asked_tokens_per_s']:,.0f}",
                str(sum(run["failed_count"] for run in runs)),
            )
            for name, runs in found.items()
        ],
    )


def _bursts(found: Figures) -> str:
    return table(
        ("", "tokens/s per CPU second", "answers/s"),
        [
            (name, f"{_mid(runs, 'tokens_per_cpu_s'):,.0f}", f"{_mid(runs, 'rate'):,.0f}")
            for name, runs in found.items()
            if name != DIRECT
        ],
    )


def _processes(found: Figures) -> str:
    rows = [
        (name, f"{_mid(runs, 'rate'):,.0f}", _us(_mid(runs, "cpu_us")))
        for name, runs in found.items()
    ]
    return table(("", "answers/s", "CPU each"), rows)


def _memory(found: Figures) -> str:
    rows = [
        (when, *(f"{one[key] / 1e6:.0f} MB" for key in ("resident_bytes", "own_bytes")))
        for when, one in found.items()
    ]
    return table(("", "resident", "its own"), rows)


def _overload(found: Figures) -> str:
    head = ("", "asked", "answered", "first token p50", "p99", "refused", "told p50", "p99")
    rows = [
        (
            f"{load} the load, {name}",
            str(one["asked_count"]),
            f"{one['answered_count'] / max(1, one['asked_count']):.0%}",
            *(_ms(one[key]) for key in ("first_p50_s", "first_p99_s")),
            str(one["shed_count"]),
            *(_ms(one[key]) for key in ("shed_p50_s", "shed_p99_s")),
        )
        for load, classes in found.items()
        for name, one in classes.items()
    ]
    return table(head, rows)


def _aborts(found: Figures) -> str:
    return (
        f"{found['count']:,} reached it: p50 {_ms(found['p50_s'])}, p99 {_ms(found['p99_s'])}, "
        f"the longest {_ms(found['longest_s'])}."
    )


def _scrapes(found: Figures) -> str:
    rows = [
        (name, *(_ms(pick(found[key])) for pick in PICKS.values()))
        for name, key in (
            ("idle", "quiet_s"),
            ("one call at a time", "loaded_s"),
            ("one call at a time, while /metrics is read", "scraped_s"),
        )
    ]
    told = f"A page of {found['size_bytes'] / 1e3:,.0f} kB took {_ms(found['scrape_s'])}."
    return table(("longest lateness of the loop", *PICKS), rows) + f"\n\n{told}"


PICKS: dict[str, Callable[[Sequence[float]], float]] = {
    "least": min,
    "median": middle,
    "greatest": max,
}


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"


def _us(microseconds: float) -> str:
    return f"{microseconds:,.0f} µs" if microseconds else ""
