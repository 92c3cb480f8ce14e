"""Every file of scenarios/ is whole; what is misspelt or cannot be is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.settings import load_settings
from loadtests.fleet import write_fleet
from loadtests.scenario import BadScenario, Scenario, load_scenario, scenario_names

STAGES = {"stages": [{"seconds": 1, "rate": 1}]}
RAMP = {"ramp": {"from_rate": 1}}
PART = {"part": {"calm": 0.1, "crowded": 0.2}}
OVERLOAD = {"goodput": 0.9, "total_p99_s": 1, "reasons": ["POOL_SATURATED"]}
NEEDED = {
    *("steady", "zipf", "burst", "ramp", "long_streams", "slow_readers", "noisy_tenant"),
    *("rolling_restart", "smoke", "overload"),
}


def document(**changes: Any) -> dict[str, Any]:
    return {"description": "Made.", "traffic": [{"arrivals": STAGES}]} | changes


def test_all_scenarios_are_there() -> None:
    assert set(scenario_names()) >= NEEDED


@pytest.mark.parametrize("name", scenario_names())
def test_a_scenario_loads_and_its_fleet_is_one(name: str, tmp_path: Path) -> None:
    scenario = load_scenario(name)
    workers = [f"worker-{number}" for number in range(scenario.fleet.workers)]

    settings = load_settings(write_fleet(scenario.fleet, tmp_path, workers, {}))

    assert len(settings.pool.workers) == scenario.fleet.workers


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"surprise": 1}, "surprise"),
        ({"traffic": [{"arrivals": STAGES, "rate": 3}]}, "rate"),
        ({"traffic": [{"arrivals": STAGES | RAMP}]}, "exactly one of"),
        ({"traffic": [{"arrivals": {}}]}, "exactly one of"),
        ({"traffic": [{"arrivals": STAGES, "tasks": ["poetry"]}]}, "no task is called 'poetry'"),
        ({"traffic": [{"arrivals": STAGES}] * 2}, "same caller"),
        ({"limits": {"errors": {"TOO_BAD": 1}}}, "no ErrorReason is called 'TOO_BAD'"),
        ({"events": [{"at_s": 1, "restart": ["gateway-7"]}]}, "there is no 'gateway-7'"),
        ({"events": [{"at_s": 1}]}, "exactly one of restart and kill"),
        ({"overload": OVERLOAD}, "for a ramp, and for it alone"),
        ({"traffic": [{"arrivals": PART}]}, "parts are of a ramp"),
        (
            {"traffic": [{"arrivals": RAMP}, {"caller": "b", "arrivals": STAGES}]},
            "alone but for parts",
        ),
        ({"traffic": [{"arrivals": RAMP}]}, "for a ramp, and for it alone"),
        (
            {"traffic": [{"arrivals": STAGES, "model": "sql", "limits": {"route_accuracy": 1}}]},
            "not marked",
        ),
        ({"traffic": [{"arrivals": STAGES, "seeds": [1]}]}, "for a model that is named"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    path = tmp_path / "made.yaml"
    path.write_text(yaml.safe_dump(document(**changes)))

    with pytest.raises(BadScenario, match=r"made\.yaml") as refusal:
        load_scenario(str(path))

    assert why in str(refusal.value)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(BadScenario, match=r"nowhere\.yaml: cannot be read"):
        load_scenario("nowhere")


def test_a_ramp_rises_to_its_highest_rate() -> None:
    ramp = {"from_rate": 10, "factor": 2, "step_s": 5, "highest_rate": 79}
    made = Scenario.model_validate(
        document(traffic=[{"arrivals": {"ramp": ramp}}], overload=OVERLOAD)
    )
    assert made.ramp is not None

    assert [one.rate for one in made.ramp.stages()] == [10, 20, 40]


def test_settings_are_written_where_they_belong(tmp_path: Path) -> None:
    scenario = load_scenario("zipf")

    settings = load_settings(write_fleet(scenario.fleet, tmp_path, ["worker-0"], {}))

    assert settings.pool.memory_budget_mib == scenario.fleet.settings["pool.memory_budget_mib"]
