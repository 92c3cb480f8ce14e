"""The recording rules and alerts, by promtool's own unit tests."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from monitoring.prometheus import PROMTOOL

from deltafleet.v1.error_reason_pb2 import ErrorReason
from model_pool.rpc import STATUS_OF
from support.fleet import REPO

RULES = sorted((REPO / "deploy" / "monitoring" / "rules").glob("*.yaml"))
TESTS = sorted((Path(__file__).parent / "rules").glob("*_test.yaml"))


def rules() -> list[dict]:
    return [
        rule
        for file in RULES
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
    ]


def checks() -> list[dict]:
    """Every expression that a test evaluates, with what must come out."""
    return [
        check
        for file in TESTS
        for test in yaml.safe_load(file.read_text())["tests"]
        for check in test["promql_expr_test"]
    ]


def test_prometheus_takes_the_rules() -> None:
    checked = subprocess.run(
        [PROMTOOL, "check", "rules", "--lint=all", "--lint-fatal", *RULES],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_the_rules_say_what_they_must(file: Path) -> None:
    tested = subprocess.run([PROMTOOL, "test", "rules", file], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_the_same_failures_count_against_the_objective_at_both_doors() -> None:
    burn = "deltafleet:slo_burn:ratio_rate1h"
    rule = next(rule for rule in rules() if rule.get("record") == burn)
    codes = set(re.search(r'grpc_code=~"([A-Z_|]+)"', rule["expr"])[1].split("|"))
    reasons = set(re.search(r'reason=~"([a-z_|]+)"', rule["expr"])[1].split("|"))
    told = {
        ErrorReason.Name(reason).removeprefix("ERROR_REASON_").lower()
        for reason, code in STATUS_OF.items()
        if code.name in codes
    }
    assert reasons == told


def test_every_recording_rule_is_tested_by_a_value() -> None:
    tested = {
        name
        for check in checks()
        if check["exp_samples"]
        for name in re.findall(r"deltafleet:[\w:]+", check["expr"])
    }
    assert {rule["record"] for rule in rules() if "record" in rule} == tested


def test_every_alert_is_seen_firing_and_keeping_quiet() -> None:
    for quiet in (False, True):
        tested = {
            name
            for check in checks()
            if (not check["exp_samples"]) is quiet
            for name in re.findall(r'ALERTS\{alertname="(\w+)"', check["expr"])
        }
        assert {rule["alert"] for rule in rules() if "alert" in rule} == tested


def test_every_alert_says_what_to_do() -> None:
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in {"page", "ticket"}
            assert set(rule["annotations"]) == {"summary", "runbook"}
            assert len(rule["annotations"]["runbook"]) > 80


def test_prometheus_takes_the_example_of_its_configuration() -> None:
    config = RULES[0].parents[1] / "prometheus.yml"
    checked = subprocess.run([PROMTOOL, "check", "config", config], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"SUCCESS: {len(RULES)} rule files found" in checked.stdout
