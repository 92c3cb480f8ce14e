"""What kustomize makes of deploy/k8s, as documents, and what is asked of them again and again."""

from __future__ import annotations

import copy
import functools
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from support.fleet import REPO

K8S = REPO / "deploy" / "k8s"
BUILD = REPO / "build" / "k8s" / "bin" / "kustomize-build"
OVERLAYS = ("local", "a10", "h100", "a10-guarded")
GPU_OVERLAYS = ("a10", "h100")
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job")
Document = dict[str, Any]
Faults = Iterator[str]


@functools.cache
def _built(place: str) -> str:
    return subprocess.run([BUILD, K8S / place], capture_output=True, text=True, check=True).stdout


def documents_of(place: str) -> list[Document]:
    """kustomize build of a directory below deploy/k8s; the caller may change them."""
    return [one for one in yaml.safe_load_all(_built(place)) if one]


def overlay(name: str) -> list[Document]:
    """An overlay's documents."""
    return documents_of(f"overlays/{name}")


def named(documents: list[Document], kind: str, name: str | None = None) -> Document:
    """The only one of a kind, or of a kind and a name; a ConfigMap's may begin so."""
    found = [
        one
        for one in documents
        if one["kind"] == kind and (name is None or one["metadata"]["name"].startswith(name))
    ]
    exact = [one for one in found if one["metadata"]["name"] == name]
    (one,) = exact or found
    return one


@dataclass(frozen=True)
class Workload:
    """Pods of one template."""

    document: Document

    @property
    def name(self) -> str:
        name: str = self.document["metadata"]["name"]
        return name

    @property
    def pod(self) -> Document:
        spec: Document = self.document["spec"]["template"]["spec"]
        return spec

    @property
    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = self.document["spec"]["template"]["metadata"]["labels"]
        return labels

    @property
    def containers(self) -> list[Document]:
        """Those that go on running."""
        found: list[Document] = self.pod["containers"]
        return found

    @property
    def all_containers(self) -> list[Document]:
        """With those that run first."""
        return [*self.pod.get("initContainers", ()), *self.containers]

    @property
    def ports(self) -> dict[str, int]:
        """Named ports."""
        return {
            port["name"]: port["containerPort"]
            for container in self.containers
            for port in container.get("ports", ())
        }

    @property
    def pre_stop_s(self) -> int:
        """How long it waits before SIGTERM."""
        hook = self.containers[0].get("lifecycle", {}).get("preStop", {})
        seconds: int = hook.get("sleep", {}).get("seconds", 0)
        return seconds

    @property
    def is_worker(self) -> bool:
        return self.labels["app.kubernetes.io/name"] == "deltafleet-worker"


def workloads(documents: list[Document]) -> list[Workload]:
    """Everything that has pods."""
    return [Workload(one) for one in documents if one["kind"] in WORKLOADS]


def selects(selector: Document, labels: dict[str, str]) -> bool:
    """Whether a label selector, matchLabels alone, matches."""
    assert set(selector) <= {"matchLabels"}, f"not understood here: {selector}"
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return all(labels.get(key) == value for key, value in wanted.items())


def selected(documents: list[Document], selector: Document) -> list[Workload]:
    """The workloads whose pods a selector matches."""
    return [one for one in workloads(documents) if selects(selector, one.labels)]


def pods_of(documents: list[Document], service: Document) -> list[Workload]:
    """The workloads behind a Service."""
    selector = service["spec"].get("selector")
    return selected(documents, {"matchLabels": selector}) if selector else []


def find(documents: list[Document], kind: str, name: str) -> Document | None:
    """One of a kind and a name."""
    for one in documents:
        if one["kind"] == kind and one["metadata"]["name"] == name:
            return one
    return None


def embedded_fleet(documents: list[Document]) -> dict[str, Any]:
    """The overlay's fleet.yaml."""
    text = named(documents, "ConfigMap", "deltafleet-fleet")["data"]["fleet.yaml"]
    fleet: dict[str, Any] = yaml.safe_load(text)
    return fleet


def strings(value: Any) -> Iterator[str]:
    """Every text in a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from strings(key)
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def copied(documents: list[Document]) -> list[Document]:
    """To be changed."""
    return copy.deepcopy(documents)
