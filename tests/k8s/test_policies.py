"""deploy/k8s keeps its policies, and each policy sees when it is broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from k8s.connections import allowed, denied_by_default
from k8s.manifests import (
    GPU_OVERLAYS,
    K8S,
    OVERLAYS,
    Document,
    Workload,
    copied,
    named,
    overlay,
    workloads,
)
from k8s.policies import POLICIES, SECRETS, embedded_fleet, faults

from gateway.settings import load_settings
from model_pool.settings import SettingsError
from support.fleet import DEMO

GATEWAY, WORKER = "deltafleet-gateway", "deltafleet-worker-a10"
DNS = "k8s-app=kube-dns in kubernetes.io/metadata.name=kube-system"
PROMETHEUS = "app.kubernetes.io/name=prometheus in kubernetes.io/metadata.name=monitoring"
CALLERS = "any pod in deltafleet.dev/client=true"
POSTGRES = "any pod in kubernetes.io/metadata.name=postgres"


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_keeps_every_policy(name: str) -> None:
    assert faults(overlay(name)) == []


def pod(documents: list[Document], name: str = WORKER) -> Document:
    kind = "Deployment" if name == GATEWAY else "StatefulSet"
    return Workload(named(documents, kind, name)).pod


def container(documents: list[Document], name: str = WORKER) -> Document:
    one: Document = pod(documents, name)["containers"][0]
    return one


def change_fleet(documents: list[Document], change: Callable[[Document], object]) -> None:
    config = named(documents, "ConfigMap", "deltafleet-fleet")
    fleet = yaml.safe_load(config["data"]["fleet.yaml"])
    change(fleet)
    config["data"]["fleet.yaml"] = yaml.safe_dump(fleet)


def drop(documents: list[Document], kind: str, name: str) -> None:
    documents.remove(named(documents, kind, name))


def scaler(documents: list[Document], name: str = WORKER) -> Document:
    return named(documents, "ScaledObject", name)


# What is done to the a10 overlay, and what some policy must then say.
BROKEN: dict[str, tuple[Callable[[list[Document]], object], str]] = {
    "root": (lambda d: pod(d)["securityContext"].update(runAsNonRoot=False), "may run as root"),
    "root in one container": (
        lambda d: container(d)["securityContext"].update(runAsUser=0),
        "runs as root",
    ),
    "no seccomp": (lambda d: pod(d)["securityContext"].pop("seccompProfile"), "no seccomp"),
    "host network": (lambda d: pod(d).update(hostNetwork=True), "hostNetwork"),
    "escalation": (
        lambda d: container(d)["securityContext"].pop("allowPrivilegeEscalation"),
        "may gain privileges",
    ),
    "a writable root, in an init container": (
        lambda d: pod(d)["initContainers"][0]["securityContext"].pop("readOnlyRootFilesystem"),
        "/base: writes to its root",
    ),
    "capabilities": (
        lambda d: container(d)["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]),
        "keeps capabilities",
    ),
    "a hostPath": (
        lambda d: pod(d)["volumes"][2].update(hostPath={"path": "/"}),
        "a volume of kind hostPath",
    ),
    "a namespace that enforces less": (
        lambda d: named(d, "Namespace")["metadata"]["labels"].update(
            {"pod-security.kubernetes.io/enforce": "baseline"}
        ),
        "does not enforce",
    ),
    "another namespace": (
        lambda d: named(d, "Service", GATEWAY)["metadata"].update(namespace="default"),
        "in another namespace",
    ),
    "no limit": (lambda d: container(d)["resources"]["limits"].pop("memory"), "limits of memory"),
    "no request": (lambda d: container(d)["resources"]["requests"].pop("cpu"), "requests of cpu"),
    "a volume without end": (
        lambda d: pod(d, GATEWAY)["volumes"][1].update(emptyDir={}),
        "may fill the node's disk",
    ),
    "no readiness": (lambda d: container(d).pop("readinessProbe"), "no readinessProbe"),
    "no startup probe": (lambda d: container(d, GATEWAY).pop("startupProbe"), "no startupProbe"),
    "a probe of another port": (
        lambda d: container(d)["readinessProbe"].update(grpc={"port": 7070}),
        "asks port 7070",
    ),
    "liveness by health": (
        lambda d: container(d).update(livenessProbe={"grpc": {"port": 7071}}),
        "killed while it drains",
    ),
    "latest": (lambda d: container(d).update(image="registry/worker:latest"), "is no version"),
    "no tag": (lambda d: container(d).update(image="registry:5000/worker"), "is no version"),
    "a token": (lambda d: pod(d).pop("automountServiceAccountToken"), "gets a token"),
    "an account that gives tokens": (
        lambda d: named(d, "ServiceAccount", GATEWAY).update(automountServiceAccountToken=True),
        "gives tokens",
    ),
    "variables of Services": (
        lambda d: pod(d, GATEWAY).pop("enableServiceLinks"),
        "variables of Services",
    ),
    "a Secret": (
        lambda d: d.append(
            {"kind": "Secret", "metadata": {"name": "s", "namespace": "deltafleet"}}
        ),
        "a Secret in the repository",
    ),
    "a key in the environment": (
        lambda d: container(d).update(env=[{"name": "API_KEY", "value": "a"}]),
        "is written down",
    ),
    "a password in fleet.yaml": (
        lambda d: change_fleet(d, lambda f: f["ledger"].update(url="postgresql://me:pw@host/l")),
        "a URL with a password",
    ),
    "pods of other labels": (
        lambda d: named(d, "StatefulSet", WORKER)["spec"]["template"]["metadata"]["labels"].update(
            {"app.kubernetes.io/name": "other"}
        ),
        "does not select its own pods",
    ),
    "a Service of nothing": (
        lambda d: named(d, "Service", GATEWAY)["spec"].update(selector={"app": "other"}),
        "selects nothing",
    ),
    "a budget of all workers": (
        lambda d: named(d, "PodDisruptionBudget", WORKER)["spec"]["selector"]["matchLabels"].pop(
            "deltafleet.dev/group"
        ),
        "several workloads share it",
    ),
    "a monitor of nothing": (
        lambda d: named(d, "PodMonitor")["spec"]["selector"]["matchLabels"].update(a="b"),
        "selects nothing",
    ),
    "a policy of nothing": (
        lambda d: named(d, "NetworkPolicy", "deltafleet-worker")["spec"]["podSelector"][
            "matchLabels"
        ].update(a="b"),
        "selects nothing",
    ),
    "a Service's port": (
        lambda d: named(d, "Service", WORKER)["spec"]["ports"][0].update(targetPort="grpc"),
        "has no port grpc",
    ),
    "a monitor's port": (
        lambda d: named(d, "PodMonitor")["spec"]["podMetricsEndpoints"][0].update(port="web"),
        "has no port web",
    ),
    "a route's port": (
        lambda d: named(d, "GRPCRoute")["spec"]["rules"][0]["backendRefs"][0].update(port=80),
        "no Service deltafleet-gateway:80",
    ),
    "a policy's port": (
        lambda d: named(d, "NetworkPolicy", "deltafleet-worker")["spec"]["ingress"][0]["ports"][
            0
        ].update(port="grpc"),
        "has no port grpc",
    ),
    "no ConfigMap": (
        lambda d: pod(d)["volumes"][0]["configMap"].update(name="other"),
        "no ConfigMap other",
    ),
    "no account": (lambda d: drop(d, "ServiceAccount", GATEWAY), "no ServiceAccount"),
    "no claim": (lambda d: drop(d, "PersistentVolumeClaim", "deltafleet-models"), "no claim"),
    "an unknown Secret": (
        lambda d: pod(d, GATEWAY)["volumes"][-1].update(secret={"secretName": "mystery"}),
        "how the Secret mystery is made",
    ),
    "a mount of nothing": (
        lambda d: container(d)["volumeMounts"][0].update(name="other"),
        "no volume other",
    ),
    "a scaler of nothing": (
        lambda d: named(d, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"].update(name="x"),
        "no Deployment x",
    ),
    "two scalers": (
        lambda d: scaler(d, f"{WORKER}-cold")["spec"]["scaleTargetRef"].update(name=WORKER),
        "two scale it",
    ),
    "no budget": (lambda d: drop(d, "PodDisruptionBudget", WORKER), "no PodDisruptionBudget"),
    "no headless Service": (
        lambda d: named(d, "Service", WORKER)["spec"].pop("clusterIP"),
        "no headless Service",
    ),
    "one gateway": (
        lambda d: named(d, "HorizontalPodAutoscaler")["spec"].update(minReplicas=1),
        "less than two",
    ),
    "a number that an apply sets": (
        lambda d: named(d, "Deployment")["spec"].update(replicas=2),
        "undoes what its autoscaler did",
    ),
    "gateways on one node": (
        lambda d: pod(d, GATEWAY).pop("topologySpreadConstraints"),
        "all may be on one node",
    ),
    "a gateway that stops at once": (
        lambda d: container(d, GATEWAY).pop("lifecycle"),
        "while proxies still send",
    ),
    "an update without surge": (
        lambda d: named(d, "Deployment")["spec"]["strategy"]["rollingUpdate"].update(
            maxUnavailable=1
        ),
        "takes one away",
    ),
    "no time to drain": (
        lambda d: change_fleet(d, lambda f: f["pool"].update(drain_limit_s=300)),
        "is killed before it has drained",
    ),
    "a group without workers": (
        lambda d: change_fleet(
            d, lambda f: f["pool"]["discovery"].update(lost={"dns": "lost:7071"})
        ),
        "lost: a group without workers",
    ),
    "a group of other workers": (
        lambda d: change_fleet(
            d, lambda f: f["pool"]["discovery"]["a10"].update(dns=f"{WORKER}-cold:7071")
        ),
        "leads elsewhere",
    ),
    "a group on another port": (
        lambda d: change_fleet(
            d, lambda f: f["pool"]["discovery"]["a10"].update(dns=f"{WORKER}:1")
        ),
        "do not listen on 1",
    ),
    "a scaler that counts others' workers": (
        lambda d: scaler(d)["spec"]["triggers"][1]["metadata"].update(
            query='avg(x{worker=~"deltafleet-worker-.*"})'
        ),
        "has workers of",
    ),
    "a scaler of others' models": (
        lambda d: change_fleet(
            d, lambda f: f["pool"]["discovery"]["a10"].update(models=["base", "sql"])
        ),
        "is not its models",
    ),
    "a scaler that sees nobody wait": (
        lambda d: scaler(d, f"{WORKER}-cold")["spec"]["triggers"].pop(0),
        "nobody who waits",
    ),
    "a fallback without workers": (
        lambda d: scaler(d)["spec"].update(minReplicaCount=0),
        "the fallback may have no worker",
    ),
    "no GPU": (
        lambda d: container(d)["resources"]["limits"].pop("nvidia.com/gpu"),
        "limits are not one GPU",
    ),
    "any node": (lambda d: pod(d).pop("nodeSelector"), "any node will do"),
    "any GPU": (lambda d: pod(d).pop("affinity"), "any GPU will do"),
    "no toleration": (lambda d: pod(d).pop("tolerations"), "GPU nodes keep it away"),
    "no time to build weights": (
        lambda d: container(d)["startupProbe"].update(failureThreshold=3),
        "minutes to build its weights",
    ),
    "a base that workers may change": (
        lambda d: container(d)["volumeMounts"][2].pop("readOnly"),
        "may change the node's copy",
    ),
    "a base elsewhere": (
        lambda d: change_fleet(d, lambda f: f["base"].update(path="/models/base")),
        "has its base at /models/base",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_policy_is_seen(name: str) -> None:
    documents = copied(overlay("a10"))
    change, told = BROKEN[name]
    change(documents)
    assert told in "\n".join(faults(documents))


def test_every_policy_is_broken_once() -> None:
    """A policy that nothing here breaks might see nothing at all."""
    seen = set()
    for change, told in BROKEN.values():
        documents = copied(overlay("a10"))
        change(documents)
        seen |= {one for one in POLICIES if told in "\n".join(one(documents))}
    assert seen == set(POLICIES)


@pytest.mark.parametrize("name", GPU_OVERLAYS)
def test_exactly_what_is_needed_is_let_through(name: str) -> None:
    documents = overlay(name)
    workers = [one.name for one in workloads(documents) if one.is_worker]

    assert denied_by_default(documents)
    assert allowed(documents) == {
        *((GATEWAY, worker, "7071/TCP") for worker in workers),
        (CALLERS, GATEWAY, "7070/TCP"),
        (PROMETHEUS, GATEWAY, "9090/TCP"),
        (GATEWAY, DNS, "53/UDP"),
        (GATEWAY, DNS, "53/TCP"),
        (GATEWAY, POSTGRES, "5432/TCP"),
    }


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: drop(d, "NetworkPolicy", "deltafleet-worker"), (GATEWAY, WORKER, "7071/TCP")),
        (
            lambda d: named(d, "NetworkPolicy", "deltafleet-worker")["spec"]["ingress"][0].pop(
                "from"
            ),
            ("anybody", WORKER, "7071/TCP"),
        ),
        (
            lambda d: named(d, "NetworkPolicy", GATEWAY)["spec"]["egress"].append({}),
            (GATEWAY, "anybody", "any"),
        ),
    ],
)
def test_a_change_of_what_is_let_through_is_seen(
    change: Callable[[list[Document]], object], told: tuple[str, str, str]
) -> None:
    documents = copied(overlay("a10"))
    before = allowed(documents)
    change(documents)
    assert told in before ^ allowed(documents)


def test_a_policy_that_lets_all_in_is_no_denial() -> None:
    documents = copied(overlay("a10"))
    named(documents, "NetworkPolicy", "default-deny")["spec"]["egress"] = [{}]
    assert not denied_by_default(documents)


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_gateway_accepts_the_fleet(name: str, tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump(embedded_fleet(overlay(name))))
    settings = load_settings(path)

    assert not any(worker.is_local for worker in settings.pool.workers)
    for group in settings.pool.discovery:
        settings.of_group(group)


def test_a_fleet_that_is_wrong_is_not_accepted(tmp_path: Path) -> None:
    fleet = embedded_fleet(overlay("a10"))
    fleet["pool"]["discovery"]["a10"]["modles"] = []
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump(fleet))
    with pytest.raises(SettingsError, match="modles"):
        load_settings(path)


def test_the_local_fleet_is_the_demo() -> None:
    """Two files say it: they may differ in places alone."""
    demo, local = yaml.safe_load(DEMO.read_text()), embedded_fleet(overlay("local"))
    shown = named(overlay("local"), "ConfigMap", "deltafleet-demo-examples")["data"]

    assert set(local["specialists"]) == set(demo["specialists"])
    for name, ours in local["specialists"].items():
        theirs = demo["specialists"][name]
        assert {key: ours[key] for key in ("description", "quality")} == {
            key: theirs[key] for key in ("description", "quality")
        }
        assert Path(ours["delta"]).name == theirs["delta"]
        prompts = shown[Path(ours["examples_file"]).name]
        assert prompts == (DEMO.parent / theirs["examples_file"]).read_text()


def test_the_readme_says_how_secrets_and_labels_are_made() -> None:
    text = (K8S / "README.md").read_text()
    wanted = {*SECRETS, "deltafleet.dev/client=true", "deltafleet.dev/accelerator"}
    wanted |= {"deltafleet-models"}
    assert {word for word in wanted if word not in text} == set()
