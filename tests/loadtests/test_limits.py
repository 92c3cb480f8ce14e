"""A limit that is broken fails the run, and says which."""

from __future__ import annotations

from typing import Any

import pytest

from loadtests.record import Record
from support.made_runs import answers, record, refused, report, scenario


def broken(records: list[Record], **limits: Any) -> list[str]:
    made = report(records, scenario(limits=limits))
    found = [one["what"] for one in made["limits"] if not one["holds"]]
    assert made["passed"] == (not found)
    return found


def test_a_good_run_holds() -> None:
    limits = {"total_p99_s": 1, "first_token_p99_s": 1, "route_accuracy": 1, "answer_accuracy": 1}

    assert broken(answers(60, 10, 0.2), **limits) == []


def test_an_error_that_nobody_allowed_breaks_it() -> None:
    assert broken([*answers(60, 10, 0.2), refused(1.0)]) == ["all: POOL_SATURATED"]


@pytest.mark.parametrize(("share", "found"), [(0.1, []), (0.09, ["all: POOL_SATURATED"])])
def test_a_share_of_errors_may_be_allowed(share: float, found: list[str]) -> None:
    records = [*answers(60, 1.5, 0.2), *(refused(float(second)) for second in range(10))]

    assert broken(records, errors={"POOL_SATURATED": share}) == found


def test_an_error_without_a_reason_is_never_allowed() -> None:
    records = [*answers(60, 10, 0.2), refused(1.0, "UNAVAILABLE without a reason")]

    assert broken(records, errors={"POOL_SATURATED": 1}) == ["all: UNAVAILABLE without a reason"]


@pytest.mark.parametrize(
    ("limit", "value", "what"),
    [
        ("total_p99_s", 0.1, "all: total, p99"),
        ("first_token_p99_s", 0.05, "all: first token, p99"),
    ],
)
def test_slow_answers_break_it(limit: str, value: float, what: str) -> None:
    assert broken(answers(60, 10, 0.2), **{limit: value}) == [what]


def test_wrong_answers_break_it() -> None:
    wrong = [record(float(second), 0.1, is_right=False) for second in range(10)]

    assert broken([*answers(60, 1.5, 0.2), *wrong], answer_accuracy=0.95) == [
        "all: answer accuracy"
    ]


def test_a_limit_on_what_was_not_measured_is_broken() -> None:
    unary = [record(1.0, 0.1, first_token_s=None)]

    assert broken(unary, first_token_p99_s=1) == ["all: first token, p99"]


def test_a_late_generator_makes_a_run_invalid() -> None:
    late = [record(float(second), 0.3, lag_s=0.5) for second in range(60)]
    made = report(late)

    assert not made["valid"]
    assert not made["passed"]


def test_one_callers_limits_are_its_own() -> None:
    stages = {"stages": [{"seconds": 60, "rate": 1}]}
    made = scenario(
        traffic=[
            {"caller": "quiet", "arrivals": stages, "limits": {"total_p99_s": 0.1}},
            {"caller": "noisy", "arrivals": stages},
        ]
    )
    records = [record(1.0, 0.2, caller="quiet"), record(2.0, 0.05, caller="noisy")]

    found = [one["what"] for one in report(records, made)["limits"] if not one["holds"]]

    assert found == ["quiet: total, p99"]
