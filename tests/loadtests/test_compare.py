"""Two runs side by side: a real difference is seen, and noise is not."""

from __future__ import annotations

import pytest

from loadtests.compare import Difference, compare, render_comparison
from support.made_runs import answers, refused, report, scenario


def verdicts(found: list[Difference]) -> dict[str, str]:
    return {one.measure.name: one.verdict for one in found}


def test_noise_is_no_difference() -> None:
    found = compare(report(answers(60, 10, 0.2, seed=1)), report(answers(60, 10, 0.2, seed=2)))

    assert set(verdicts(found).values()) == {"no difference seen"}


@pytest.mark.parametrize(("mean_s", "verdict"), [(0.3, "**worse**"), (0.1, "better")])
def test_another_speed_is_seen(mean_s: float, verdict: str) -> None:
    found = compare(report(answers(60, 10, 0.2)), report(answers(60, 10, mean_s)))

    assert verdicts(found)["total, p50"] == verdict
    assert verdicts(found)["total, p99"] == verdict
    assert verdicts(found)["answers right"] == "no difference seen"


def test_errors_are_seen() -> None:
    after = answers(60, 10, 0.2)
    after[::10] = [refused(one.at_s) for one in after[::10]]

    found = verdicts(compare(report(answers(60, 10, 0.2)), report(after)))

    assert found["errors"] == "**worse**"
    assert found["good answers"] == "**worse**"


def test_an_interval_holds_the_difference() -> None:
    found = compare(report(answers(60, 10, 0.2)), report(answers(60, 10, 0.3)))
    (median,) = [one for one in found if one.measure.name == "total, p50"]

    assert median.low <= median.after - median.before <= median.high


def test_the_table_warns_of_other_questions_and_of_late_generators() -> None:
    late = answers(60, 10, 0.2)
    for one in late:
        one.lag_s = 1.0
    before, after = report(answers(60, 10, 0.2)), report(late, scenario(seed=9))

    text = render_comparison(before, after, compare(before, after))

    assert "The scenarios differ" in text
    assert "not valid" in text
    assert "| total, p50 |" in text
