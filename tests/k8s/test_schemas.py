"""Every overlay against strict schemas: three versions of Kubernetes, and custom resources."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from k8s.manifests import BUILD, OVERLAYS, Document, copied, documents_of, named, overlay

from deploy.k8s.rules import FILE, rules_yaml

VERSIONS = ("1.35", "1.36", "1.37")
VALIDATE = BUILD.parents[1] / "venv" / "bin" / "kubernetes-validate"
CHECK = Path(__file__).with_name("custom_resources.mjs")
NODE_PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
CUSTOM = ("BackendTLSPolicy", "GRPCRoute", "PodMonitor", "PrometheusRule", "ScaledObject")


def core_faults(documents: list[Document], version: str, directory: Path) -> str:
    """What Kubernetes' own schemas say; empty where all is well."""
    file = directory / "all.yaml"
    core = [one for one in documents if one["kind"] not in CUSTOM]
    file.write_text(yaml.safe_dump_all(core))
    ended = subprocess.run(
        [VALIDATE, "--strict", "--quiet", "--kubernetes-version", version, file],
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.stdout + ended.stderr if ended.returncode else ""


def custom_faults(documents: list[Document]) -> str:
    """What the schemas of custom resources say; empty where all is well."""
    custom = [one for one in documents if one["kind"] in CUSTOM]
    return subprocess.run(
        ["node", CHECK],
        input=json.dumps(custom),
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PATH": NODE_PATH},
    ).stdout


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("place", ["base", *(f"overlays/{name}" for name in OVERLAYS)])
def test_kubernetes_accepts_it(place: str, version: str, tmp_path: Path) -> None:
    assert core_faults(documents_of(place), version, tmp_path) == ""


def test_an_unknown_field_is_seen(tmp_path: Path) -> None:
    documents = copied(overlay("local"))
    named(documents, "Deployment")["spec"]["replcas"] = 2
    assert "replcas" in core_faults(documents, VERSIONS[-1], tmp_path)


@pytest.mark.parametrize("name", OVERLAYS)
def test_custom_resources_are_as_their_schemas_say(name: str) -> None:
    assert custom_faults(overlay(name)) == ""


def test_every_custom_resource_is_used() -> None:
    assert {one["kind"] for one in overlay("a10-guarded")} >= set(CUSTOM)


@pytest.mark.parametrize(
    ("kind", "path", "value", "told"),
    [
        ("ScaledObject", ("spec", "minReplicaCuont"), 1, "minReplicaCuont"),
        ("ScaledObject", ("spec", "minReplicaCount"), "one", "minReplicaCount"),
        ("GRPCRoute", ("spec", "hostname"), "x", "hostname"),
        ("PodMonitor", ("spec", "podMetricsEndpoint"), [], "podMetricsEndpoint"),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0, "expression"), "1", "expression"),
    ],
)
def test_a_fault_in_a_custom_resource_is_seen(
    kind: str, path: tuple[str | int, ...], value: object, told: str
) -> None:
    documents = copied(overlay("a10"))
    place = next(one for one in documents if one["kind"] == kind)
    for step in path[:-1]:
        place = place[step]  # type: ignore[index]
    place[path[-1]] = value  # type: ignore[index]
    assert told in custom_faults(documents)


def test_the_rules_are_those_of_deploy_monitoring() -> None:
    assert FILE.read_text() == rules_yaml()
