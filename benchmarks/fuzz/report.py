"""The page of a run: gateway/FUZZ.md (pure, but for the machine's facts)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.figures import middle, table
from benchmarks.fuzz.crowd import Crowd
from benchmarks.fuzz.target import Watch

MIB = 2**20
MOST_KINDS = 40
# Of a layer, from its middle to its end: caches and the allocator's own rounding move it a little.
MOST_GROWTH_BYTES = 24 * MIB

TEMPLATE = """# The gateway under malformed input

Written whole by

```
make fuzz
```

which ran `python -m benchmarks.fuzz --cases {cases} --connections {connections} --seed {seed}`: the
demo fleet in processes of its own, over real sockets. Every call and connection of the first table
must end, with a status of ours that has its reason, or with one that gRPC or HTTP itself gives to
what it cannot read; `INTERNAL` or `UNKNOWN` from us, a lost worker, a hang, a status 500 and a
traceback in the log are faults. Beside each layer another client calls `ListModels` without pause:
its calls must all be answered. {verdict}

{layers}

Memory is the gateway's resident set. What may grow with the number of requests is bounded: the
encoder's cache (`routing.encoder_cache_count`), answers that may be scored
(`routing.feedback.recent_count`), the page's last hour, opinions (`routing.feedback.capacity`);
metrics have labels of closed sets; the ledger is on the disk. So memory rises at first and must
then stay: of each layer, it may not rise from its middle to its end by more than {growth} MiB.

## How calls and connections ended

{ends}

INTERNAL and UNAVAILABLE "of gRPC itself" are its answers while it still reads frames and headers:
no method is known then, and no server in Python can change them. Of `DEADLINE_EXCEEDED`, the calls
had deadlines of that length.

## Attacks

On one connection each, or some hundreds where they are slow.

{attacks}

## {count:,} idle connections

{crowd}

{faults}

## Machine

{machine}
"""


@dataclass
class Layer:
    """One kind of input: what was seen beside it, and how its cases ended."""

    name: str
    case_count: int
    ends: Counter[str]
    faults: Counter[str]
    samples: Mapping[str, str]
    seen: Watch

    @property
    def growth_bytes(self) -> int:
        """Of memory, from the middle of the layer to its end."""
        return late_growth(self.seen.rss_bytes)


@dataclass(frozen=True, slots=True)
class Blow:
    """One attack, what became of it, and what was seen beside it. rest_bytes: memory after it."""

    name: str
    outcome: str
    seen: Watch
    rest_bytes: int


@dataclass
class Run:
    """Everything. complaints: of the gateway's log. ledger_problems: as its check tells them."""

    layers: list[Layer]
    blows: list[Blow]
    crowd: Crowd
    complaints: Counter[str]
    ledger_problems: Sequence[str]

    def faults(self) -> list[str]:
        """All that is wrong, a line each."""
        found = [
            f"{layer.name}: {count} times {fault} (such as {layer.samples[fault]})"
            for layer in self.layers
            for fault, count in layer.faults.items()
        ]
        found += [
            f"{layer.name}: memory grew by {layer.growth_bytes / MIB:.0f} MiB"
            for layer in self.layers
            if layer.growth_bytes > MOST_GROWTH_BYTES
        ]
        beside = [(one.name, one.seen) for one in self.layers]
        beside += [(one.name, one.seen) for one in self.blows]
        found += [
            f"{name}: beside it, {len(seen.failures)} calls failed: {seen.failures[0]}"
            for name, seen in beside
            if seen.failures
        ]
        if self.crowd.greeted_count < self.crowd.count:
            found.append(f"{self.crowd.count - self.crowd.greeted_count} idle connections refused")
        if self.crowd.seen.failures or not self.crowd.is_over:
            found.append(f"idle connections: {self.crowd.seen.failures[:1]}, not all closed after")
        found += [f"log: {count} times {line}" for line, count in self.complaints.items()]
        return [*found, *(f"ledger: {one}" for one in self.ledger_problems)]


def late_growth(rss_bytes: Sequence[int]) -> int:
    """From the fifth about the middle to the last fifth, of their medians; pauses do not count."""
    fifth = max(1, len(rss_bytes) // 5)
    return round(
        middle(rss_bytes[-fifth:]) - middle(rss_bytes[len(rss_bytes) // 2 - fifth // 2 :][:fifth])
    )


def page(run: Run, options: Mapping[str, int], machine: Mapping[str, str]) -> str:
    """The page's text."""
    faults = run.faults()
    told = "\n".join(f"- {one}" for one in faults)
    return TEMPLATE.format(
        **options,
        verdict="There was no fault." if not faults else f"**{len(faults)} faults, see below.**",
        layers=_layers(run.layers),
        growth=MOST_GROWTH_BYTES // MIB,
        ends=_ends(run.layers),
        attacks=_attacks(run.blows),
        count=run.crowd.count,
        crowd=_crowd(run.crowd),
        faults=f"## Faults\n\n{told}" if faults else "",
        machine=table(("part", ""), machine.items()),
    )


def _mib(size_bytes: float) -> str:
    return f"{size_bytes / MIB:,.0f}"


def _beside(seen: Watch) -> tuple[str, str, str]:
    """Calls beside it, how many failed, the slowest in ms."""
    slowest_ms = max(seen.latencies_s, default=0) * 1000
    return f"{len(seen.latencies_s):,}", str(len(seen.failures)), f"{slowest_ms:,.0f}"


def _layers(layers: Sequence[Layer]) -> str:
    head = (
        *("layer", "cases", "faults", "seconds", "MiB at first", "middle", "end", "late growth"),
        *("calls beside it", "failed", "slowest, ms"),
    )
    rows = []
    for one in layers:
        rss = one.seen.rss_bytes
        memory = (rss[0], rss[len(rss) // 2], rss[-1], one.growth_bytes)
        rows.append(
            (
                *(one.name, f"{one.case_count:,}", str(one.faults.total())),
                *(f"{one.seen.took_s:,.0f}", *map(_mib, memory), *_beside(one.seen)),
            )
        )
    total = sum(one.case_count for one in layers)
    rows.append(("together", f"{total:,}", *("",) * (len(head) - 2)))
    return table(head, rows)


def _ends(layers: Sequence[Layer]) -> str:
    rows = [
        (layer.name, kind, f"{count:,}")
        for layer in layers
        for kind, count in layer.ends.most_common(MOST_KINDS)
    ]
    return table(("layer", "end", "times"), rows)


def _attacks(blows: Sequence[Blow]) -> str:
    head = (
        *("attack", "what became of it", "seconds", "MiB before", "most", "after"),
        *("calls beside it", "failed", "slowest, ms"),
    )
    rows = []
    for one in blows:
        rss = one.seen.rss_bytes
        memory = (rss[0], max(rss), one.rest_bytes)
        rows.append(
            (
                *(one.name, one.outcome, f"{one.seen.took_s:.1f}"),
                *(*map(_mib, memory), *_beside(one.seen)),
            )
        )
    return table(head, rows)


def _crowd(crowd: Crowd) -> str:
    head = ("", "before", "with them", "after")
    moments = (crowd.before, crowd.during, crowd.after)
    rows = [
        ("memory, MiB", *(_mib(one.rss_bytes) for one in moments)),
        ("descriptors", *(f"{one.descriptor_count:,}" for one in moments)),
    ]
    calls, failed, slowest_ms = _beside(crowd.seen)
    return (
        f"{crowd.greeted_count:,} were taken, at {crowd.bytes_each / 1024:.1f} KiB each; beside "
        f"them {calls} calls, {failed} failed, the slowest {slowest_ms} ms.\n\n{table(head, rows)}"
    )
