"""Records and reports made by hand: what a run of known speed would leave."""

from __future__ import annotations

import random
import time
from typing import Any

from deltafleet.v1 import cost_pb2
from loadtests.record import Record
from loadtests.report import make_report
from loadtests.running import Phase, Run
from loadtests.scenario import Scenario, Stage
from loadtests.watching import Sample

TASKS = ("sql", "triage")


def record(at_s: float, total_s: float, **changes: Any) -> Record:
    """An answer of ten tokens that cost 100 nano-dollars, ours; a closed API's would be 5000."""
    task = changes.pop("task", "sql")
    made = {
        "phase": 0,
        "caller": "load",
        "task": task,
        "is_streamed": True,
        "at_s": at_s,
        "lag_s": 0.001,
        "deadline_s": 5.0,
        "total_s": total_s,
        "outside_s": 0.002,
        "first_token_s": total_s / 2,
        "per_token_s": total_s / 20,
        "model": task,
        "is_routed": True,
        "is_right": True,
        "prompt_token_count": 20,
        "output_token_count": 10,
        "cost_nano_usd": 100,
        "baselines": {"closed": 5000},
    }
    return Record(**(made | changes))


def refused(at_s: float, reason: str = "POOL_SATURATED", **changes: Any) -> Record:
    """Nothing came but a reason."""
    nothing = {
        "outside_s": None,
        "first_token_s": None,
        "per_token_s": None,
        "model": "",
        "is_routed": None,
        "is_right": None,
        "prompt_token_count": 0,
        "output_token_count": 0,
        "cost_nano_usd": 0,
        "baselines": {},
    }
    return record(at_s, 0.01, reason=reason, **(nothing | changes))


def answers(seconds: float, rate: float, mean_s: float, seed: int = 1) -> list[Record]:
    """Regular arrivals of all tasks, each answered after about mean_s."""
    rng = random.Random(seed)
    return [
        record(number / rate, rng.uniform(0.5, 1.5) * mean_s, task=TASKS[number % len(TASKS)])
        for number in range(int(seconds * rate))
    ]


def scenario(**changes: Any) -> Scenario:
    """Sixty seconds of ten requests a second, with the changes."""
    stages = [{"seconds": 60, "rate": 10}]
    document = {"description": "Made.", "traffic": [{"arrivals": {"stages": stages}}]}
    return Scenario.model_validate(document | changes)


def ramp_scenario() -> Scenario:
    """Ten steps from ten a second; whatever becomes of the overload is allowed."""
    ramp = {"from_rate": 10, "factor": 1.5, "step_s": 10, "highest_rate": 400, "overload_s": 30}
    return scenario(
        traffic=[{"arrivals": {"ramp": ramp}, "deadline_s": 5}],
        overload={"goodput": 0.9, "total_p99_s": 5, "reasons": ["POOL_SATURATED"]},
    )


def phase(records: list[Record], seconds: float, began_at: float = 1_800_000_000.0) -> Phase:
    """Of one stage."""
    rate = len(records) / seconds
    return Phase(began_at, ((Stage(seconds=seconds, rate=rate),),), seconds, records)


def run(*phases: Phase) -> Run:
    """What gateways and ledger told fits the records."""
    records = [one for part in phases for one in part.records]
    cost = sum(one.cost_nano_usd for one in records)
    began_at = phases[0].began_at
    samples = [
        Sample(began_at + second, changes={"worker-0": second // 10}, loaded={"worker-0": ["sql"]})
        for second in range(60)
    ]
    total = cost_pb2.CostGroup(request_count=len(records), cost_nano_usd=cost)
    return Run(
        list(phases),
        samples,
        Sample(began_at),
        Sample(time.time(), requests=len(records), cost_nano_usd=cost),
        cost_pb2.GetCostReportResponse(total=total),
    )


def report(records: list[Record], made: Scenario | None = None) -> dict[str, Any]:
    """Of one phase of a minute."""
    return make_report("made", made or scenario(), run(phase(records, 60)), generators=0, host="")
