"""deploy/k8s keeps its policies, and each policy sees when it is broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from k8s.broken import BROKEN, GATEWAY, WORKER, drop
from k8s.connections import allowed, denied_by_default
from k8s.fleet_policies import settings_of
from k8s.manifests import (
    GPU_OVERLAYS,
    K8S,
    OVERLAYS,
    Document,
    copied,
    embedded_fleet,
    named,
    overlay,
    workloads,
)
from k8s.policies import POLICIES, SECRETS, faults

from gateway.settings import load_settings
from model_pool.settings import SettingsError
from support.fleet import DEMO

DNS = "k8s-app=kube-dns in kubernetes.io/metadata.name=kube-system"
PROMETHEUS = "app.kubernetes.io/name=prometheus in kubernetes.io/metadata.name=monitoring"
CALLERS = "any pod in deltafleet.dev/client=true"
REDIS = "any pod in kubernetes.io/metadata.name=redis"
POSTGRES = "any pod in kubernetes.io/metadata.name=postgres"


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_keeps_every_policy(name: str) -> None:
    assert faults(overlay(name)) == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_policy_is_seen(name: str) -> None:
    change, told = BROKEN[name]
    documents = copied(overlay("a10-guarded"))
    change(documents)
    assert told in "\n".join(faults(documents))


def test_every_policy_is_broken_once() -> None:
    """A policy that nothing here breaks might see nothing at all."""
    seen = set()
    for change, told in BROKEN.values():
        documents = copied(overlay("a10-guarded"))
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


def test_guarded_gateways_are_reached_over_http_and_reach_redis() -> None:
    guarded = overlay("a10-guarded")
    assert denied_by_default(guarded)
    assert allowed(guarded) - allowed(overlay("a10")) == {
        (CALLERS, GATEWAY, "8080/TCP"),
        (GATEWAY, REDIS, "6379/TCP"),
    }
    assert allowed(overlay("a10")) - allowed(guarded) == set()


def test_guarded_gateways_ask_for_keys_speak_tls_and_count_together() -> None:
    guarded = overlay("a10-guarded")
    for one in workloads(guarded):
        settings = settings_of(guarded, one)
        assert settings.pool.tls and settings.pool.tls.server_name == "deltafleet-worker"
        if not one.is_worker:
            assert settings.identity and settings.identity.keys_file
            assert settings.server.tls and settings.server.http
            assert settings.limits.redis_url_file


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
