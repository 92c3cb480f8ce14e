"""What is asked of every overlay beyond its schema. Each policy yields its faults as text."""

from __future__ import annotations

import re
from collections.abc import Callable

from k8s import fleet_policies
from k8s.manifests import (
    Document,
    Faults,
    Workload,
    find,
    named,
    pods_of,
    selected,
    selects,
    strings,
    workloads,
)

RESTRICTED_VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
# Made by whoever installs it; deploy/k8s/README.md says how.
SECRETS = {
    *("deltafleet-ledger", "deltafleet-keys", "deltafleet-redis"),
    *("deltafleet-tls", "deltafleet-gateway-pool-tls", "deltafleet-worker-pool-tls"),
}
SECRET_WORDS = re.compile(r"(?i)(key|token|password|secret|credential)")
URL_WITH_PASSWORD = re.compile(r"://[^/\s:@]+:[^/\s@]+@")
CLUSTER_KINDS = {"Namespace", "PersistentVolume"}


def unprivileged(documents: list[Document]) -> Faults:
    """What the restricted Pod Security Standard asks, and a root filesystem for reading only."""
    for one in workloads(documents):
        pod = one.pod.get("securityContext", {})
        if pod.get("runAsNonRoot") is not True or not pod.get("runAsUser"):
            yield f"{one.name}: may run as root"
        if pod.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{one.name}: no seccomp profile"
        for switch in ("hostNetwork", "hostPID", "hostIPC"):
            if one.pod.get(switch):
                yield f"{one.name}: {switch}"
        for container in one.all_containers:
            place, context = f"{one.name}/{container['name']}", container.get("securityContext", {})
            if context.get("privileged") or context.get("allowPrivilegeEscalation") is not False:
                yield f"{place}: may gain privileges"
            if context.get("readOnlyRootFilesystem") is not True:
                yield f"{place}: writes to its root filesystem"
            capabilities = context.get("capabilities", {})
            if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
                yield f"{place}: keeps capabilities"
            if context.get("runAsUser") == 0 or context.get("runAsNonRoot") is False:
                yield f"{place}: runs as root"
        for volume in one.pod.get("volumes", ()):
            if strange := set(volume) - {"name"} - RESTRICTED_VOLUMES:
                yield f"{one.name}: a volume of kind {', '.join(strange)}"


def restricted_namespace(documents: list[Document]) -> Faults:
    """One namespace, that enforces it, for everything."""
    namespace = named(documents, "Namespace")
    for mode in ("enforce", "audit", "warn"):
        label = f"pod-security.kubernetes.io/{mode}"
        if namespace["metadata"].get("labels", {}).get(label) != "restricted":
            yield f"the namespace does not {mode} the restricted Pod Security"
    for one in documents:
        if one["kind"] in CLUSTER_KINDS:
            continue
        if one["metadata"].get("namespace") != namespace["metadata"]["name"]:
            yield f"{one['kind']} {one['metadata']['name']}: in another namespace"


def resources_set(documents: list[Document]) -> Faults:
    """Requests and limits of every container."""
    for one in workloads(documents):
        for container in one.all_containers:
            resources = container.get("resources", {})
            for kind in ("requests", "limits"):
                for name in ("cpu", "memory"):
                    if name not in resources.get(kind, {}):
                        yield f"{one.name}/{container['name']}: no {kind} of {name}"
        for volume in one.pod.get("volumes", ()):
            if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
                yield f"{one.name}: {volume['name']} may fill the node's disk"


def probes_set(documents: list[Document]) -> Faults:
    """Each program is asked whether it has started, takes requests, and lives."""
    for one in workloads(documents):
        numbers = {str(number) for number in one.ports.values()} | set(one.ports)
        for container in one.containers:
            place = f"{one.name}/{container['name']}"
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                asked = container.get(probe, {})
                how = asked.get("grpc") or asked.get("tcpSocket")
                if how is None:
                    yield f"{place}: no {probe}"
                elif str(how["port"]) not in numbers:
                    yield f"{place}: {probe} asks port {how['port']}, which it does not have"
            if "grpc" not in container.get("readinessProbe", {}):
                yield f"{place}: readiness is not its health"
            if "grpc" in container.get("livenessProbe", {}):
                yield f"{place}: would be killed while it drains"


def images_pinned(documents: list[Document]) -> Faults:
    """A version or a digest, never latest."""
    for one in workloads(documents):
        for container in one.all_containers:
            image = container["image"]
            version = image.rpartition("/")[2].partition(":")[2]
            if "@sha256:" not in image and (not version or version == "latest"):
                yield f"{one.name}/{container['name']}: {image} is no version"


def no_tokens(documents: list[Document]) -> Faults:
    """Nobody gets a token of the Kubernetes API, or its variables of Services."""
    for one in workloads(documents):
        if one.pod.get("automountServiceAccountToken") is not False:
            yield f"{one.name}: gets a token"
        # They would begin with DELTAFLEET_, and be refused as settings that nobody knows.
        if one.pod.get("enableServiceLinks") is not False:
            yield f"{one.name}: gets variables of Services"
    for one in documents:
        if one["kind"] == "ServiceAccount" and one.get("automountServiceAccountToken") is not False:
            yield f"ServiceAccount {one['metadata']['name']}: gives tokens"


def no_literal_secrets(documents: list[Document]) -> Faults:
    """Secrets are named, never written down."""
    for one in documents:
        place = f"{one['kind']} {one['metadata']['name']}"
        if one["kind"] == "Secret":
            yield f"{place}: a Secret in the repository"
        if any(URL_WITH_PASSWORD.search(text) for text in strings(one)):
            yield f"{place}: a URL with a password"
    for workload in workloads(documents):
        for container in workload.all_containers:
            files = tuple(mount["mountPath"] + "/" for mount in container.get("volumeMounts", ()))
            for variable in container.get("env", ()):
                value = variable.get("value", "")
                if not SECRET_WORDS.search(variable["name"]) or not value:
                    continue
                if not value.startswith(files):  # where it is may be told
                    yield f"{workload.name}/{container['name']}: {variable['name']} is written down"


def selectors_match(documents: list[Document]) -> Faults:
    """Whoever selects pods finds some."""
    for one in workloads(documents):
        if not selects(one.document["spec"]["selector"], one.labels):
            yield f"{one.name}: does not select its own pods"
        for spread in one.pod.get("topologySpreadConstraints", ()):
            if not selects(spread["labelSelector"], one.labels):
                yield f"{one.name}: is spread by other pods"
    for one in documents:
        place, spec = f"{one['kind']} {one['metadata']['name']}", one.get("spec", {})
        if one["kind"] == "Service" and not pods_of(documents, one):
            yield f"{place}: selects nothing"
        if one["kind"] in {"PodDisruptionBudget", "PodMonitor"} and (
            not spec["selector"].get("matchLabels") or not selected(documents, spec["selector"])
        ):
            yield f"{place}: selects nothing"
        if one["kind"] == "PodDisruptionBudget" and len(selected(documents, spec["selector"])) > 1:
            yield f"{place}: several workloads share it"
        if one["kind"] == "NetworkPolicy" and not selected(documents, spec["podSelector"]):
            yield f"{place}: selects nothing"


def ports_exist(documents: list[Document]) -> Faults:
    """Every port that is named is one of the pods that are meant."""
    for one in documents:
        place, spec = f"{one['kind']} {one['metadata']['name']}", one.get("spec", {})
        if one["kind"] == "Service":
            for port in spec["ports"]:
                for workload in pods_of(documents, one):
                    if port.get("targetPort", port["port"]) not in {
                        *workload.ports,
                        *workload.ports.values(),
                    }:
                        yield f"{place}: {workload.name} has no port {port['targetPort']}"
        if one["kind"] == "PodMonitor":
            for endpoint in spec["podMetricsEndpoints"]:
                for workload in selected(documents, spec["selector"]):
                    if endpoint["port"] not in workload.ports:
                        yield f"{place}: {workload.name} has no port {endpoint['port']}"
        if one["kind"] == "GRPCRoute":
            for rule in spec["rules"]:
                for backend in rule["backendRefs"]:
                    service = find(documents, "Service", backend["name"])
                    if service is None or backend["port"] not in [
                        port["port"] for port in service["spec"]["ports"]
                    ]:
                        yield f"{place}: no Service {backend['name']}:{backend['port']}"
        if one["kind"] == "NetworkPolicy":
            yield from _strange_ports(documents, one)


def _strange_ports(documents: list[Document], policy: Document) -> Faults:
    place, spec = f"NetworkPolicy {policy['metadata']['name']}", policy["spec"]
    for rule in spec.get("ingress", ()):
        for workload in selected(documents, spec["podSelector"]):
            for port in rule.get("ports", ()):
                if isinstance(port["port"], str) and port["port"] not in workload.ports:
                    yield f"{place}: {workload.name} has no port {port['port']}"
    for rule in spec.get("egress", ()):
        for peer in rule.get("to", ()):
            if "namespaceSelector" in peer or "ipBlock" in peer:
                continue
            for workload in selected(documents, peer["podSelector"]):
                for port in rule.get("ports", ()):
                    if isinstance(port["port"], str) and port["port"] not in workload.ports:
                        yield f"{place}: {workload.name} has no port {port['port']}"


def references_resolve(documents: list[Document]) -> Faults:
    """ConfigMaps, Secrets, ServiceAccounts, claims and mounts are there."""
    for one in workloads(documents):
        account = one.pod.get("serviceAccountName", "default")
        if find(documents, "ServiceAccount", account) is None:
            yield f"{one.name}: no ServiceAccount {account}"
        volumes = {volume["name"]: volume for volume in one.pod.get("volumes", ())}
        for volume in volumes.values():
            yield from _lost_volume(documents, one, volume)
        used = set()
        for container in one.all_containers:
            for mount in container.get("volumeMounts", ()):
                used.add(mount["name"])
                if mount["name"] not in volumes:
                    yield f"{one.name}/{container['name']}: no volume {mount['name']}"
            for variable in container.get("env", ()):
                secret = variable.get("valueFrom", {}).get("secretKeyRef")
                if secret and secret["name"] not in SECRETS:
                    yield f"{one.name}: nobody says how the Secret {secret['name']} is made"
        for name in set(volumes) - used:
            yield f"{one.name}: nobody mounts {name}"


def _lost_volume(documents: list[Document], one: Workload, volume: Document) -> Faults:
    if (wanted := volume.get("configMap")) and not find(documents, "ConfigMap", wanted["name"]):
        yield f"{one.name}: no ConfigMap {wanted['name']}"
    if (wanted := volume.get("secret")) and wanted["secretName"] not in SECRETS:
        yield f"{one.name}: nobody says how the Secret {wanted['secretName']} is made"
    claim = volume.get("persistentVolumeClaim")
    if claim and not find(documents, "PersistentVolumeClaim", claim["claimName"]):
        yield f"{one.name}: no claim {claim['claimName']}"


def targets_exist(documents: list[Document]) -> Faults:
    """What is scaled is there, by one scaler; every workload has a budget of disruptions."""
    scaled: list[str] = []
    for one in documents:
        if one["kind"] in {"HorizontalPodAutoscaler", "ScaledObject"}:
            target = one["spec"]["scaleTargetRef"]
            scaled.append(target["name"])
            if find(documents, target["kind"], target["name"]) is None:
                place = f"{one['kind']} {one['metadata']['name']}"
                yield f"{place}: no {target['kind']} {target['name']}"
    for name in {name for name in scaled if scaled.count(name) > 1}:
        yield f"{name}: two scale it"
    budgets = [one["spec"]["selector"] for one in documents if one["kind"] == "PodDisruptionBudget"]
    for one in workloads(documents):
        if not any(selects(selector, one.labels) for selector in budgets):
            yield f"{one.name}: no PodDisruptionBudget"
        if one.document["kind"] == "StatefulSet":
            service = find(documents, "Service", one.document["spec"]["serviceName"])
            if service is None or service["spec"].get("clusterIP") != "None":
                yield f"{one.name}: no headless Service"
            elif [one_pod.name for one_pod in pods_of(documents, service)] != [one.name]:
                yield f"{one.name}: its Service has other pods"


def gateways_survive(documents: list[Document]) -> Faults:
    """Two at least, apart, one at a time replaced, and rid of callers before they stop."""
    one = Workload(named(documents, "Deployment"))
    spec = one.document["spec"]
    scaler = named(documents, "HorizontalPodAutoscaler")["spec"]
    if scaler["minReplicas"] < 2:
        yield f"{one.name}: less than two"
    if "replicas" in spec:
        yield f"{one.name}: every apply undoes what its autoscaler did"
    if spec["strategy"]["rollingUpdate"]["maxUnavailable"] != 0:
        yield f"{one.name}: an update takes one away before another is there"
    keys = [spread["topologyKey"] for spread in one.pod.get("topologySpreadConstraints", ())]
    if not {"kubernetes.io/hostname", "topology.kubernetes.io/zone"} <= set(keys):
        yield f"{one.name}: all may be on one node, or in one zone"
    if not one.pre_stop_s:
        yield f"{one.name}: stops while proxies still send to it"


POLICIES: tuple[Callable[[list[Document]], Faults], ...] = (
    unprivileged,
    restricted_namespace,
    resources_set,
    probes_set,
    images_pinned,
    no_tokens,
    no_literal_secrets,
    selectors_match,
    ports_exist,
    references_resolve,
    targets_exist,
    gateways_survive,
    *fleet_policies.POLICIES,
)


def faults(documents: list[Document]) -> list[str]:
    """Of all policies."""
    return [fault for policy in POLICIES for fault in policy(documents)]
