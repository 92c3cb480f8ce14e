"""A report is whole: its figures add up, its page has its pictures and loads nothing."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from loadtests.plots import draw_all
from loadtests.report import read_report, render, write_report
from loadtests.results import render_results
from loadtests.watching import read_sample
from support.made_runs import answers, record, refused, report

PAGE = """
deltafleet_requests_total{model="sql",reason="classified",outcome="answered"} 3.0
deltafleet_requests_total{model="base",reason="out_of_scope",outcome="refused"} 2.0
deltafleet_cost_usd_total{model="sql"} 1.25e-07
deltafleet_baseline_cost_usd_total{model="sql",baseline="closed"} 2e-06
deltafleet_baseline_cost_usd_total{model="base",baseline="closed"} 1e-06
deltafleet_worker_switch_seconds_count{worker="worker-0"} 4.0
deltafleet_worker_waiting_requests{worker="worker-0"} 7.0
deltafleet_model_loaded_bytes{worker="worker-0",model="sql"} 100.0
"""


def test_figures_add_up() -> None:
    records = [*answers(60, 10, 0.2), refused(1.0), refused(2.0, "DEADLINE_EXCEEDED")]
    made = report(records)
    whole = made["all"]

    assert whole["sent"] == whole["answered"] + sum(whole["errors"].values()) == 602
    assert whole["cost_nano_usd"] == 600 * 100
    assert whole["baselines_nano_usd"] == {"closed": 600 * 5000}
    assert sum(one["sent"] for one in made["tasks"].values()) == whole["sent"]
    assert sum(one["token_count"] for one in made["prices"].values()) == 600 * 30


def test_prices_are_of_a_million_tokens() -> None:
    price = report([record(1.0, 0.1)])["prices"]["sql"]

    assert price["usd_per_mtok"] == pytest.approx(100e-9 / 30 * 1e6)
    assert price["baselines_usd_per_mtok"] == {"closed": pytest.approx(5000e-9 / 30 * 1e6)}


def test_an_answer_after_its_deadline_is_no_good_one() -> None:
    whole = report([record(1.0, 0.1), record(2.0, 5.1)])["all"]

    assert (whole["answered"], whole["good"]) == (2, 1)


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = report(answers(60, 10, 0.2))
    write_report(made, tmp_path)

    assert read_report(tmp_path)["all"] == made["all"]
    assert read_report(tmp_path / "report.json")["limits"] == made["limits"]


def test_another_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")

    with pytest.raises(ValueError, match="not a report"):
        read_report(tmp_path)


def test_the_page_is_one_file() -> None:
    page = render(report([*answers(60, 10, 0.2), refused(1.0)]))

    assert page.count("<svg") == 4
    assert "POOL_SATURATED" in page
    assert "limits broken" in page
    loads = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert all(one.startswith("#") for one in loads), loads
    assert "<script" not in page
    assert "@import" not in page


def test_each_picture_is_whole_svg() -> None:
    for title, picture in draw_all(report(answers(60, 10, 0.2))):
        assert ElementTree.fromstring(str(picture)).tag.endswith("svg"), title


def test_results_have_every_scenario_and_what_was_broken() -> None:
    text = render_results([report(answers(60, 10, 0.2)), report([refused(1.0)])])

    assert text.count("| made |") == 2
    assert "Limits that were broken" in text
    assert "all: POOL\\_SATURATED" in text or "all: POOL_SATURATED" in text
    assert "processor" in text


def test_pages_of_gateways_are_summed_and_a_workers_is_not() -> None:
    sample = read_sample([PAGE, PAGE], 5.0)

    assert sample.requests == 10
    assert sample.cost_nano_usd == 250
    assert sample.baselines_nano_usd == {"closed": 6000}
    assert sample.changes == {"worker-0": 4}
    assert sample.waiting == 7
    assert sample.loaded == {"worker-0": ["sql"]}
