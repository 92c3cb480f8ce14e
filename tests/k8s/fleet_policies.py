"""What is asked of every overlay in the words of its fleet.yaml, as in `policies.py`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from k8s.manifests import (
    Document,
    Faults,
    Workload,
    embedded_fleet,
    find,
    named,
    pods_of,
    strings,
    workloads,
)

from gateway.settings import Settings
from model_pool.settings import SettingsError
from model_pool.settings_file import load


def time_to_drain(documents: list[Document]) -> Faults:
    """Nobody is killed before what runs had the time that fleet.yaml gives it."""
    fleet = embedded_fleet(documents)
    for one in workloads(documents):
        section = "pool" if one.is_worker else "server"
        drain_s = fleet.get(section, {}).get("drain_limit_s", 30)
        needed_s = one.pre_stop_s + drain_s + 10
        if one.pod.get("terminationGracePeriodSeconds", 30) < needed_s:
            yield f"{one.name}: is killed before it has drained, which takes {needed_s} s"


def groups_are_found(documents: list[Document]) -> Faults:
    """fleet.yaml's groups are the workers' classes: by name, Service and port."""
    groups = embedded_fleet(documents)["pool"]["discovery"]
    workers = {
        one.labels["deltafleet.dev/group"]: one for one in workloads(documents) if one.is_worker
    }
    for name in sorted(set(groups) ^ set(workers)):
        yield f"{name}: a group without workers, or workers without a group"
    for name in sorted(set(groups) & set(workers)):
        host, _, port = groups[name]["dns"].rpartition(":")
        service = find(documents, "Service", host)
        if service is None or pods_of(documents, service) != [workers[name]]:
            yield f"{name}: {host} leads elsewhere"
        if int(port) != workers[name].ports["worker"]:
            yield f"{name}: its workers do not listen on {port}"
    for one in documents:
        if one["kind"] == "ScaledObject":
            yield from _strange_queries(documents, one, groups)


def _strange_queries(documents: list[Document], scaler: Document, groups: dict[str, Any]) -> Faults:
    """A scaler asks for the workers and the models of its own target alone."""
    target = Workload(named(documents, "StatefulSet", scaler["spec"]["scaleTargetRef"]["name"]))
    place, group = f"ScaledObject {target.name}", groups[target.labels["deltafleet.dev/group"]]
    others = [one.name for one in workloads(documents) if one.name != target.name]
    queries = [trigger["metadata"]["query"] for trigger in scaler["spec"]["triggers"]]
    for query in queries:
        for pattern in re.findall(r'worker=~"([^"]*)"', query):
            if not re.fullmatch(pattern, f"{target.name}-0"):
                yield f"{place}: {pattern} is not its workers"
            for name in (name for name in others if re.fullmatch(pattern, f"{name}-0")):
                yield f"{place}: {pattern} has workers of {name}"
        for pattern in re.findall(r'model=~"([^"]*)"', query):
            if set(pattern.split("|")) != set(group["models"]):
                yield f"{place}: {pattern} is not its models"
    if not any("oldest_wait" in query for query in queries):
        yield f"{place}: nobody who waits for the first worker is seen"
    if scaler["spec"].get("minReplicaCount") == 0 and set(group["models"]) & {"base"}:
        yield f"{place}: the fallback may have no worker"


def gpus_are_asked_for(documents: list[Document]) -> Faults:
    """A vLLM worker has one whole GPU, on a node of the kind that it is meant for."""
    if embedded_fleet(documents)["pool"].get("engine") != "vllm":
        return
    for one in workloads(documents):
        if not one.is_worker:
            continue
        for kind in ("requests", "limits"):
            if one.containers[0]["resources"][kind].get("nvidia.com/gpu") != "1":
                yield f"{one.name}: {kind} are not one GPU"
        if "deltafleet.dev/accelerator" not in one.pod.get("nodeSelector", {}):
            yield f"{one.name}: any node will do"
        if "nvidia.com/gpu.product" not in set(strings(one.pod.get("affinity", {}))):
            yield f"{one.name}: any GPU will do"
        if not any(one.get("key") == "nvidia.com/gpu" for one in one.pod.get("tolerations", ())):
            yield f"{one.name}: GPU nodes keep it away"
        minutes = _startup_s(one) / 60
        if minutes < 20:
            yield f"{one.name}: has {minutes:.0f} minutes to build its weights"


def _startup_s(one: Workload) -> float:
    probe = one.containers[0]["startupProbe"]
    seconds: float = probe["periodSeconds"] * probe["failureThreshold"]
    return seconds


def base_is_read_only(documents: list[Document]) -> Faults:
    """Workers read the node's copy of the base, which the init container alone writes."""
    base = embedded_fleet(documents)["base"]["path"]
    for one in workloads(documents):
        if not one.is_worker:
            continue
        (fill,) = one.pod["initContainers"]
        if fill["command"][-1] != base:
            yield f"{one.name}: fleet.yaml has its base at {base}"
        mounts = {mount["name"]: mount for mount in one.containers[0]["volumeMounts"]}
        if not mounts["node-cache"].get("readOnly"):
            yield f"{one.name}: may change the node's copy of the base"
        if not base.startswith(mounts["node-cache"]["mountPath"] + "/"):
            yield f"{one.name}: its base is not in the node's cache"


def settings_of(documents: list[Document], one: Workload) -> Settings:
    """What a container reads: fleet.yaml, and its own variables. Raises SettingsError."""
    environment = {
        variable["name"]: variable["value"]
        for variable in one.containers[0].get("env", ())
        if "value" in variable
    }
    text = named(documents, "ConfigMap", "deltafleet-fleet")["data"]["fleet.yaml"]
    return load(Settings, Path("/etc/deltafleet/fleet.yaml"), text=text, environment=environment)


def settings_are_read(documents: list[Document]) -> Faults:
    """fleet.yaml and the variables are what the program takes; files that they name are mounted."""
    for one in workloads(documents):
        try:
            settings = settings_of(documents, one)
        except SettingsError as error:
            yield f"{one.name}: does not start: {error}"
            continue
        mounts = {mount["mountPath"] for mount in one.containers[0]["volumeMounts"]}
        sections = [settings.pool.tls] if one.is_worker else _with_files(settings)
        for section in filter(None, sections):
            for path in (value for _, value in section if isinstance(value, Path)):
                if not any(path.is_relative_to(mount) for mount in mounts):
                    yield f"{one.name}: nothing is mounted at {path}"


def _readable(documents: list[Document], one: Workload) -> Settings | None:
    try:
        return settings_of(documents, one)
    except SettingsError:
        return None  # `settings_are_read` says why


def _with_files(settings: Settings) -> list[Any]:
    """Sections of the gateway's that name files of Secrets."""
    return [settings.server.tls, settings.pool.tls, settings.identity, settings.limits]


def doors_are_ports(documents: list[Document]) -> Faults:
    """What a container listens on is a port of it; probes ask where there is no TLS."""
    for one in workloads(documents):
        settings = _readable(documents, one)
        if settings is None:
            continue
        listens = _listens(one, settings)
        for door, address in listens.items():
            if int(address.rpartition(":")[2]) not in one.ports.values():
                yield f"{one.name}: {door} listens on {address}, which is no port of it"
        is_secret = settings.pool.tls if one.is_worker else settings.server.tls
        plain = int(listens["health"].rpartition(":")[2]) if "health" in listens else None
        for probe in ("startupProbe", "readinessProbe"):
            asked = one.containers[0].get(probe, {}).get("grpc", {}).get("port")
            if is_secret and asked is not None and asked != plain:
                yield f"{one.name}: {probe} would have to speak TLS at {asked}"


def _listens(one: Workload, settings: Settings) -> dict[str, str]:
    arguments = " ".join(one.containers[0]["args"])
    flags = dict(re.findall(r"--([a-z-]*listen|metrics)[= ](\S+)", arguments))
    own = {"health": flags.get("health-listen")}
    if not one.is_worker:
        own = {"health": settings.server.health_listen, "http": settings.server.http}
    found = {"main": flags["listen"], "metrics": flags.get("metrics"), **own}
    return {name: address for name, address in found.items() if address}


def links_are_mutual(documents: list[Document]) -> Faults:
    """Gateways and workers speak the same: all with TLS, by one name, or none."""
    said = {
        one.name: settings.pool.tls and settings.pool.tls.server_name
        for one in workloads(documents)
        if (settings := _readable(documents, one))
    }
    if len(set(said.values())) > 1:
        yield f"gateways and workers do not speak the same TLS: {said}"


def files_change_live(documents: list[Document]) -> Faults:
    """A changed ConfigMap or Secret arrives in the pods that run, under the same name."""
    fleet = named(documents, "ConfigMap", "deltafleet-fleet")
    if fleet["metadata"]["name"] != "deltafleet-fleet":
        yield "fleet.yaml: each change has a name of its own, and replaces every pod"
    if fleet.get("immutable"):
        yield "fleet.yaml: cannot be changed"
    for one in workloads(documents):
        for container in one.all_containers:
            for mount in container.get("volumeMounts", ()):
                if "subPath" in mount or "subPathExpr" in mount:
                    yield f"{one.name}: a change does not reach {mount['mountPath']}"


POLICIES: tuple[Callable[[list[Document]], Faults], ...] = (
    time_to_drain,
    groups_are_found,
    gpus_are_asked_for,
    base_is_read_only,
    settings_are_read,
    doors_are_ports,
    links_are_mutual,
    files_change_live,
)
