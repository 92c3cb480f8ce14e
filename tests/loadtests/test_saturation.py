"""The knee of a ramp, and what an overload leaves of the greatest goodput."""

from __future__ import annotations

from typing import Any

import pytest

from loadtests.record import Record
from loadtests.report import make_report
from loadtests.results import render_results
from loadtests.running import Phase, holds
from loadtests.saturation import is_saturated, knee_rate, steps, whole_stages
from loadtests.scenario import Scenario
from support.made_runs import phase, ramp_scenario, record, refused, run

CAPACITY = 30
PART = {"calm": 0.2, "crowded": 0.5}
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


def classes_report(crowded_first_s: float, shed: dict[str, float]) -> dict[str, Any]:
    """A ramp, then a calm of 0.1 s and a crowd; the batch's requests are refused in the crowd."""
    assert RAMP is not None
    document = ramp_scenario().model_dump()
    document["overload"] |= {
        "first_token_factors": {"urgent": 2},
        "good_shares": {"urgent": 0.9},
        "shed_p99_s": 0.005,
    }
    document["traffic"] += ({"caller": "urgent", "arrivals": {"part": PART}},)
    document["traffic"] += ({"caller": "batch", "arrivals": {"part": PART}},)
    first = Phase(1_800_000_000.0, (RAMP.stages()[:6], (), ()), 60.0, ramp_records())
    calm = [record(one / 5, 0.2, caller="urgent", phase=1) for one in range(150)]
    crowd = served(0, 30, 90, CAPACITY) + [
        record(one / 5, 2 * crowded_first_s, caller="urgent", phase=2) for one in range(150)
    ]
    crowd += [refused(one / 5, caller="batch", phase=2) for one in range(150)]
    made = run(first, phase(calm, 30.0, 1_800_000_100.0), phase(crowd, 30.0, 1_800_000_200.0))
    made.before.shed, made.after.shed = {"0.005": 1, "+Inf": 1}, shed
    return make_report("made", Scenario.model_validate(document), made, generators=0, host="")


def test_the_urgent_keep_their_first_token_and_refusals_are_quick() -> None:
    found = classes_report(0.15, {"0.005": 100, "+Inf": 101})

    urgent = found["saturation"]["classes"]["urgent"]
    assert urgent["first_token_factor"] == pytest.approx(1.5)
    assert urgent["good_share"] == 1
    assert found["saturation"]["classes"]["batch"]["good_share"] == 0
    assert found["saturation"]["shed_s"]["p99"] == 0.005
    assert not [
        one
        for one in found["limits"]
        if one["what"].startswith("overload: urgent") and not one["holds"]
    ]
    assert "urgent" in render_results([found])


def test_the_urgent_who_wait_and_slow_refusals_break_it() -> None:
    found = classes_report(0.25, {"0.005": 90, "0.01": 101, "+Inf": 101})

    broken = {one["what"] for one in found["limits"] if not one["holds"]}
    assert "overload: urgent's first token, p99, to that of the calm" in broken
    assert "overload: the gateway's time to refuse, p99" in broken


def test_parts_come_after_their_ramp_as_parts_of_what_it_found() -> None:
    ramp = {"ramp": {"from_rate": 1, "overload_s": 7}}
    document = ramp_scenario().model_dump() | {
        "traffic": [{"arrivals": ramp}, {"caller": "urgent", "arrivals": {"part": PART}}]
    }
    made = Scenario.model_validate(document)
    assert made.ramp is not None

    calm, crowded = holds(made, made.ramp, 20.0)

    assert [one and one[0].rate for one in calm] == [(), 4.0]
    assert [one and one[0].rate for one in crowded] == [(), 10.0]
    assert crowded[1][0].seconds == 7
