"""Many specialists on one engine: what `model_pool/switching.py` makes of traffic.

python -m simulations.switching   writes model_pool/SWITCHING.md, in about 150 s of one core

Nothing here is measured: the engines are the model in `accelerator.py`. Only "one decision" is.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from model_pool.switching import (
    Policy,
    Priority,
    Running,
    Waiting,
    decide,
    queue_of,
    rotation_s,
    slice_of,
)
from simulations import accelerator as machines
from simulations.accelerator import Accelerator
from simulations.alternatives import (
    RELOAD_S,
    SLEEP_LEVEL_1_S,
    SLEEP_LEVEL_2_S,
    first_come,
    one_engine_each,
)
from simulations.engine import Decide, Record, SimulatedEngine, Switching
from simulations.outcome import Outcome, outcome, queueing_p99_by_priority
from simulations.traffic import CHAT, TASKS, TOY_MIX, Mix, Traffic

REPORT = Path("model_pool/SWITCHING.md")
TIMES = (900.0, 300.0)  # seconds simulated, and how many of them are warm-up
COST_S = 0.02  # (2 x 14.5 + 0.9 GB) read and written at 3.35 TB/s, 80% of it: 11 ms, and control
# Room for what is preempted in host memory too; fetching it back is not charged.
ROOMY_TOKEN_COUNT = 2_000_000
MIXED = (0.2, 0.6, 0.2)

Row = tuple[str, ...]


def capacity_rate(accelerator: Accelerator, mix: Mix) -> float:
    """Requests per second that one model alone ends when far more arrive."""
    batch = accelerator.batch_limit_count
    guess = 1 / (
        mix.prompt_mean / accelerator.prefill_token_rate
        + mix.output_mean * accelerator.decode_s(batch) / batch
    )
    traffic = Traffic(1, 1.5 * guess, 120.0, mix)
    record = SimulatedEngine(accelerator, alone()).run(traffic.requests(), 120.0, 40.0)
    return sum(one.finished_s >= 40.0 for one in record.requests) / 80.0


def alone() -> Switching:
    """One model: there is nothing to decide."""
    return Switching(COST_S, decide, Policy())


def shared(
    accelerator: Accelerator,
    traffic: Traffic,
    policy: Policy,
    cost_s: float = COST_S,
    *,
    chosen_by: Decide = decide,
    keeps_cache: bool = True,
) -> tuple[Record, Outcome]:
    """All models of the traffic on one engine."""
    policy = replace(policy, batch_limit_count=accelerator.batch_limit_count)
    switching = Switching(cost_s, chosen_by, policy, keeps_cache)
    record = SimulatedEngine(accelerator, switching).run(traffic.requests(), *TIMES)
    return record, outcome(record, policy, cost_s)


def single(accelerator: Accelerator, traffic: Traffic) -> Outcome:
    """The same requests, all for one model."""
    requests = [replace(one, model="one") for one in traffic.requests()]
    record = SimulatedEngine(accelerator, alone()).run(requests, *TIMES)
    return outcome(record, Policy(), COST_S)


HEAD = (
    "of one model's tokens/s",
    "tokens/s",
    "goodput",
    "queueing p50",
    "p99 s",
    "first token p50",
    "p99 s",
    "last token p50",
    "p99 s",
    "switches/s",
    "switching",
    "again",
    "longest wait",
    "bound s",
)


def cells(one: Outcome, reference: float) -> Row:
    """An outcome as HEAD names it."""
    return (
        f"{one.token_rate / reference:.0%}",
        f"{one.token_rate:.0f}",
        f"{one.goodput:.0f}",
        f"{one.queueing_p50_s:.2f}",
        f"{one.queueing_p99_s:.1f}",
        f"{one.first_token_p50_s:.2f}",
        f"{one.first_token_p99_s:.1f}",
        f"{one.latency_p50_s:.1f}",
        f"{one.latency_p99_s:.0f}",
        f"{one.switch_rate:.2f}",
        f"{one.switch_share:.1%}",
        f"{one.recompute_share:.1%}",
        f"{one.longest_wait_s:.1f}",
        f"{one.bound_s:.0f}",
    )


def table(first: Row, rows: Iterable[Row]) -> str:
    """Markdown."""
    rule = ("---",) * len(first) + ("---:",) * len(HEAD)
    lines = [(*first, *HEAD), rule, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def load_rows(rate: float, mix: Mix, cache_token_count: int, waits_s: Sequence[float]) -> list[Row]:
    """20 specialists on an H100 by load and max_wait_s."""
    machine = replace(machines.H100_SHARED, cache_token_count=cache_token_count)
    rows: list[Row] = []
    for load in (0.1, 0.25, 0.4, 0.5, 0.6):
        traffic = Traffic(20, load * rate, TIMES[0], mix)
        reference = single(machines.H100_ALONE, traffic).token_rate
        for wait_s in waits_s:
            _, found = shared(machine, traffic, Policy(max_wait_s=wait_s))
            rows.append((f"{load:.0%}", f"{wait_s:.0f}", *cells(found, reference)))
    return rows


def goal(rows: Iterable[Row]) -> str:
    """The largest load at 70% of one model's tokens and p99 of queueing within max_wait_s."""
    held = [row for row in rows if int(row[2][:-1]) >= 70 and float(row[6]) <= float(row[1])]
    waits = dict.fromkeys(row[1] for row in held)
    best = {wait: [row for row in held if row[1] == wait][-1] for wait in waits}
    return "; ".join(f"max_wait_s {wait}: {row[0]} of it" for wait, row in best.items())


def alternative_rows(rate: float, load: float) -> list[Row]:
    """Ways of serving 20 specialists, the same requests."""
    traffic = Traffic(20, load * rate, TIMES[0], TASKS)
    reference = single(machines.H100_ALONE, traffic).token_rate
    policy = Policy(max_wait_s=60.0)
    each = one_engine_each(machines.H100_ALONE, alone(), traffic.requests(), TIMES)
    one_each = outcome(each, policy, 0.0)
    per_engine = replace(
        one_each, token_rate=one_each.token_rate / 20, goodput=one_each.goodput / 20
    )
    rows: list[Row] = [
        ("one model alone", *cells(single(machines.H100_ALONE, traffic), reference)),
        ("an engine each: 20 accelerators", *cells(one_each, reference)),
        ("the same, per accelerator", *cells(per_engine, reference)),
    ]
    ways: list[tuple[str, float, Decide, bool]] = [
        ("switch in place, this policy", COST_S, decide, True),
        ("switch in place, first come", COST_S, first_come, True),
        ("sleep mode 1, this policy", SLEEP_LEVEL_1_S, decide, False),
        ("sleep mode 2, this policy", SLEEP_LEVEL_2_S, decide, False),
        ("sleep mode 1, first come", SLEEP_LEVEL_1_S, first_come, False),
        *((f"reload {cost:.0f} s, first come", cost, first_come, False) for cost in RELOAD_S),
        *((f"reload {cost:.0f} s, this policy", cost, decide, False) for cost in RELOAD_S),
    ]
    for name, cost_s, chosen_by, keeps_cache in ways:
        _, found = shared(
            machines.H100_SHARED,
            traffic,
            policy,
            cost_s,
            chosen_by=chosen_by,
            keeps_cache=keeps_cache,
        )
        rows.append((name, *cells(found, reference)))
    return rows


def variation_rows(rate: float) -> list[Row]:
    """One thing changed at a time."""
    base = Traffic(20, 0.25 * rate, TIMES[0], TASKS)
    policy = Policy()
    cases: list[tuple[str, Accelerator, Traffic, Policy, float]] = [
        *(
            (f"{count} specialists", machines.H100_SHARED, replace(base, model_count=count), policy,
             COST_S)
            for count in (2, 5, 10, 20, 50, 100)
        ),
        *(
            (f"switch {1000 * cost:.0f} ms", machines.H100_SHARED, base, policy, cost)
            for cost in (0.005, 0.05, 0.2, 0.5, 2.0)
        ),
        ("switch 2000 ms, k = 2", machines.H100_SHARED, base, Policy(amortisation=2.0), 2.0),
        ("uniform over models", machines.H100_SHARED, replace(base, skew=0.0), policy, COST_S),
        ("bursts of 8x", machines.H100_SHARED, replace(base, burst=8.0), policy, COST_S),
        ("preempt at once", machines.H100_SHARED, base, Policy(drain_s=0.0), COST_S),
    ]  # fmt: skip
    return [
        (name, *cells(shared(machine, traffic, rule, cost)[1], reference(machine, traffic)))
        for name, machine, traffic, rule, cost in cases
    ]


def reference(machine: Accelerator, traffic: Traffic) -> float:
    """Tokens per second of one model alone with the same requests."""
    own = machines.H100_ALONE if machine is machines.H100_SHARED else machine
    return single(own, traffic).token_rate


def machine_rows() -> list[Row]:
    """Other engines, and another mix of lengths, at a quarter of what one model could do."""
    cases: list[tuple[str, Accelerator, Accelerator, Mix, float]] = [
        ("H100, chat", machines.H100_ALONE, machines.H100_SHARED, CHAT, COST_S),
        ("A10, tasks, switch 0.7 s", machines.A10, machines.A10, TASKS, 0.7),
        ("toy on a CPU, switch 5 ms", machines.TOY, machines.TOY, TOY_MIX, 0.005),
    ]
    rows: list[Row] = []
    for name, own, together, mix, cost_s in cases:
        traffic = Traffic(20, 0.25 * capacity_rate(own, mix), TIMES[0], mix)
        _, found = shared(together, traffic, Policy(), cost_s)
        rows.append((name, *cells(found, single(own, traffic).token_rate)))
    return rows


def priority_lines(rate: float) -> str:
    """p99 of queueing by priority."""
    traffic = Traffic(20, 0.25 * rate, TIMES[0], TASKS, shares=MIXED)
    record, _ = shared(machines.H100_SHARED, traffic, Policy())
    found = queueing_p99_by_priority(record)
    return "\n".join(f"- {one.name.lower()}: {found[one]:.1f} s" for one in Priority)


def decision_us(model_count: int) -> float:
    """Measured, the quickest of many: one decision with all models waiting, the longest path."""
    policy = Policy()
    queues = [
        queue_of(f"s{index:02}", [Waiting(index / model_count)], policy, switch_cost_s=COST_S)
        for index in range(model_count)
    ]
    live = slice_of("live", [Running()] * 64, policy, since_s=0.0, switch_cost_s=COST_S)
    now_s = 1.0 + max(0.0, policy.max_wait_s - rotation_s(queues) - 1.1)
    best_s = math.inf
    for _ in range(2000):
        started = time.perf_counter()
        decide(now_s, live, queues, policy)
        best_s = min(best_s, time.perf_counter() - started)
    return best_s * 1e6


def main() -> int:
    """Write the report."""
    started = time.perf_counter()
    rate = capacity_rate(machines.H100_ALONE, TASKS)
    text = report(rate)
    REPORT.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{REPORT}: {time.perf_counter() - started:.0f} s\n")
    return 0


def report(rate: float) -> str:
    """SWITCHING.md."""
    template = Path(__file__).with_name("switching.md").read_text(encoding="utf-8")
    cramped = load_rows(rate, TASKS, machines.H100_SHARED.cache_token_count, (10.0, 60.0))
    roomy = load_rows(rate, TASKS, ROOMY_TOKEN_COUNT, (10.0, 30.0))
    return template.format(
        rate=rate,
        policy=Policy(),
        goal=goal(cramped),
        roomy_goal=goal(roomy),
        roomy_cache=ROOMY_TOKEN_COUNT,
        alone_cache=machines.H100_ALONE.cache_token_count,
        shared_cache=machines.H100_SHARED.cache_token_count,
        duration_s=TIMES[0],
        warmup_s=TIMES[1],
        loads=table(("load", "max_wait_s"), cramped),
        roomy=table(("load", "max_wait_s"), roomy),
        alternatives=table(("way",), alternative_rows(rate, 0.4)),
        variations=table(("changed",), variation_rows(rate)),
        machines=table(("engine",), machine_rows()),
        priorities=priority_lines(rate),
        decisions=", ".join(f"{decision_us(n):.0f} µs with {n}" for n in (2, 20, 100)),
    )


if __name__ == "__main__":
    sys.exit(main())
