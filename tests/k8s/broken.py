"""Each policy broken: what is done to an overlay, and what some policy must then say."""

from __future__ import annotations

from collections.abc import Callable

import yaml
from k8s.manifests import Document, Workload, named

GATEWAY, WORKER = "deltafleet-gateway", "deltafleet-worker-a10"


def pod(documents: list[Document], name: str = WORKER) -> Document:
    kind = "Deployment" if name == GATEWAY else "StatefulSet"
    return Workload(named(documents, kind, name)).pod


def container(documents: list[Document], name: str = WORKER) -> Document:
    one: Document = pod(documents, name)["containers"][0]
    return one


def volume(documents: list[Document], name: str, of: str = WORKER) -> Document:
    """One of a pod's."""
    return _one_called(name, pod(documents, of)["volumes"])


def mount(documents: list[Document], name: str) -> Document:
    """One of a worker's."""
    return _one_called(name, container(documents)["volumeMounts"])


def variable(documents: list[Document], name: str) -> Document:
    """Of the gateway's."""
    return _one_called(name, container(documents, GATEWAY)["env"])


def _one_called(name: str, among: list[Document]) -> Document:
    (one,) = [one for one in among if one["name"] == name]
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
        lambda d: volume(d, "node-cache").update(hostPath={"path": "/"}),
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
        lambda d: volume(d, "tmp", GATEWAY).update(emptyDir={}),
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
        lambda d: volume(d, "fleet")["configMap"].update(name="other"),
        "no ConfigMap other",
    ),
    "no account": (lambda d: drop(d, "ServiceAccount", GATEWAY), "no ServiceAccount"),
    "no claim": (lambda d: drop(d, "PersistentVolumeClaim", "deltafleet-models"), "no claim"),
    "an unknown Secret": (
        lambda d: volume(d, "ledger", GATEWAY).update(secret={"secretName": "mystery"}),
        "how the Secret mystery is made",
    ),
    "a mount of nothing": (
        lambda d: mount(d, "fleet").update(name="other"),
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
        lambda d: mount(d, "node-cache").pop("readOnly"),
        "may change the node's copy",
    ),
    "a base elsewhere": (
        lambda d: change_fleet(d, lambda f: f["base"].update(path="/models/base")),
        "has its base at /models/base",
    ),
    "a key that is written down beside its file": (
        lambda d: container(d, GATEWAY)["env"].append({"name": "API_KEY", "value": "dfk_x"}),
        "API_KEY is written down",
    ),
    "a variable that no program knows": (
        lambda d: container(d)["env"].append({"name": "DELTAFLEET_POOL__TLZ", "value": "1"}),
        "does not start",
    ),
    "keys that are not mounted": (
        lambda d: variable(d, "DELTAFLEET_IDENTITY__KEYS_FILE").update(value="/etc/keys.yaml"),
        "nothing is mounted at /etc/keys.yaml",
    ),
    "a door without a port": (
        lambda d: variable(d, "DELTAFLEET_SERVER__HTTP").update(value="0.0.0.0:8081"),
        "http listens on 0.0.0.0:8081",
    ),
    "a probe without TLS where there is TLS": (
        lambda d: container(d)["readinessProbe"].update(grpc={"port": 7071}),
        "would have to speak TLS at 7071",
    ),
    "gateways that call workers by another name": (
        lambda d: variable(d, "DELTAFLEET_POOL__TLS__SERVER_NAME").update(value="other"),
        "do not speak the same TLS",
    ),
    "a fleet that replaces pods": (
        lambda d: named(d, "ConfigMap", "deltafleet-fleet")["metadata"].update(
            name="deltafleet-fleet-5mk2"
        ),
        "replaces every pod",
    ),
    "a file that stays as it was": (
        lambda d: mount(d, "fleet").update(subPath="fleet.yaml"),
        "a change does not reach",
    ),
}
