"""The knee of a ramp, and what an overload leaves of the greatest goodput."""

from __future__ import annotations

from typing import Any

import pytest

from loadtests.record import Record
from loadtests.report import make_report
from loadtests.running import Phase
from loadtests.saturation import is_saturated, knee_rate, steps, whole_stages
from support.made_runs import phase, ramp_scenario, record, refused, run

CAPACITY = 30
RAMP = ramp_scenario().ramp


def served(begin_s: float, seconds: float, rate: float, capacity: float) -> list[Record]:
    """Of each second, as many as the capacity allows are answered, the rest are refused."""
    found = []
    for number in range(int(seconds * rate)):
        at_s = begin_s + number / rate
        place = number - int((at_s - begin_s) // 1) * rate
        found.append(record(at_s, 0.02) if place < capacity else refused(at_s))
    return found


def ramp_records() -> list[Record]:
    assert RAMP is not None
    begin_s, found = 0.0, []
    for stage in RAMP.stages()[:6]:
        found += served(begin_s, stage.seconds, stage.rate, CAPACITY)
        begin_s += stage.seconds
    return found


def saturation(overload: list[Record]) -> dict[str, Any]:
    assert RAMP is not None
    first = Phase(1_800_000_000.0, (RAMP.stages()[:6],), 60.0, ramp_records())
    later = phase(overload, 30.0, 1_800_000_100.0)
    made = make_report("made", ramp_scenario(), run(first, later), generators=0, host="")
    assert made["passed"] == all(one["holds"] for one in made["limits"])
    return made | made["saturation"]


def test_the_knee_is_where_more_load_brings_no_more() -> None:
    assert RAMP is not None
    found = steps(ramp_records(), RAMP.stages())

    assert is_saturated(found)
    assert not is_saturated(found[:3])
    assert knee_rate(found) == pytest.approx(CAPACITY, rel=0.05)


def test_steps_without_requests_and_broken_off_ones_are_left_out() -> None:
    assert RAMP is not None
    stages = RAMP.stages()

    assert len(steps(ramp_records(), stages)) == 6
    assert whole_stages(stages, 25.0) == stages[:2]


def test_shedding_keeps_the_goodput() -> None:
    found = saturation(served(0, 30, 90, CAPACITY))

    assert 0.9 <= found["kept"] <= 1.1
    assert set(found["reasons"]) == {"POOL_SATURATED"}
    assert found["passed"], found["limits"]


def test_a_collapse_is_seen() -> None:
    found = saturation(served(0, 30, 90, CAPACITY // 2))

    assert found["kept"] < 0.6
    assert not found["passed"]


def test_late_answers_are_no_good_ones() -> None:
    late = [record(at_s / 30, 6.0) for at_s in range(900)]

    assert saturation([*late, refused(1.0)])["overload_goodput"] == 0


def test_a_strange_reason_at_the_overload_breaks_it() -> None:
    found = saturation([*served(0, 30, 90, CAPACITY), refused(1.0, "INTERNAL")])

    assert not found["passed"]
    broken = {one["what"] for one in found["limits"] if not one["holds"]}
    assert {"overload: why", "all: INTERNAL"} <= broken
