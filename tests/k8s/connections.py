"""Who may talk to whom, as the NetworkPolicies say it: an exact list, to be compared."""

from __future__ import annotations

from typing import Any

from k8s.manifests import Document, Workload, selected, workloads

# (from, to, port): a workload's name, or what is outside, in words.
Connection = tuple[str, str, str]


def denied_by_default(documents: list[Document]) -> bool:
    """Whether what no policy names is closed, in both directions, for every pod."""
    return any(
        one["kind"] == "NetworkPolicy"
        and one["spec"]["podSelector"] == {}
        and set(one["spec"].get("policyTypes", ())) == {"Ingress", "Egress"}
        and not one["spec"].get("ingress")
        and not one["spec"].get("egress")
        for one in documents
    )


def allowed(documents: list[Document]) -> set[Connection]:
    """Every connection that is let through. Between two of our own both sides must allow it."""
    named = {one.name for one in workloads(documents)}
    into, out = _side(documents, "ingress"), _side(documents, "egress")
    inside = {one for one in into if one[0] in named} & {one for one in out if one[1] in named}
    return (
        inside
        | {one for one in into if one[0] not in named}
        | {one for one in out if one[1] not in named}
    )


def _side(documents: list[Document], direction: str) -> set[Connection]:
    found = set()
    for policy in documents:
        if policy["kind"] != "NetworkPolicy":
            continue
        for ours in selected(documents, policy["spec"]["podSelector"]):
            for rule in policy["spec"].get(direction, ()):
                peers = rule.get("from" if direction == "ingress" else "to", [None])
                for peer in peers:
                    for name, workload in _peers(documents, peer):
                        listens = ours if direction == "ingress" else workload
                        for port in rule.get("ports", [None]):
                            ends = (
                                (name, ours.name) if direction == "ingress" else (ours.name, name)
                            )
                            found.add((*ends, _port(port, listens)))
    return found


def _peers(documents: list[Document], peer: Document | None) -> list[tuple[str, Workload | None]]:
    if peer is None or not peer:
        return [("anybody", None)]
    if "ipBlock" in peer:
        return [(str(peer["ipBlock"]["cidr"]), None)]
    if "namespaceSelector" in peer:
        parts = (peer.get("podSelector", {}), peer["namespaceSelector"])
        words = [
            " ".join(f"{k}={v}" for k, v in one.get("matchLabels", {}).items()) for one in parts
        ]
        return [(" in ".join(word for word in (words[0] or "any pod", words[1] or "any")), None)]
    return [(one.name, one) for one in selected(documents, peer["podSelector"])]


def _port(port: dict[str, Any] | None, listens: Workload | None) -> str:
    if port is None:
        return "any"
    number = port["port"]
    if isinstance(number, str) and listens is not None:
        number = listens.ports[number]
    protocol = port.get("protocol", "TCP")
    return f"{number}/{protocol}"
