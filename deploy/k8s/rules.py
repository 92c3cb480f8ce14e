"""deploy/monitoring/rules as a PrometheusRule: python -m deploy.k8s.rules writes it."""

from __future__ import annotations

from pathlib import Path

import yaml

DEPLOY = Path(__file__).resolve().parents[1]
RULES = DEPLOY / "monitoring" / "rules"
FILE = DEPLOY / "k8s" / "components" / "monitoring" / "rules.yaml"
HEADER = (
    "# Written by `python -m deploy.k8s.rules` from deploy/monitoring/rules. Change it there.\n"
)


def rules_yaml() -> str:
    """The file's text."""
    files = sorted(RULES.glob("*.yaml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    document = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "deltafleet"},
        "spec": {"groups": groups},
    }
    return HEADER + yaml.safe_dump(document, sort_keys=False, width=100)


if __name__ == "__main__":
    FILE.write_text(rules_yaml())
