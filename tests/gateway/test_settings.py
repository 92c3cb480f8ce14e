"""fleet.yaml: what is wrong refuses to start, and says where."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from deltafleet.v1.error_reason_pb2 import ErrorReason
from gateway import errors as gateway_errors
from gateway.fleet_files import load_examples
from gateway.price_list import load_prices
from gateway.settings import Settings
from model_pool.errors import FleetError
from model_pool.rpc import STATUS_OF
from model_pool.settings import GATEWAY_SECTIONS, PoolSettings, SettingsError
from model_pool.settings_file import load
from support.fleet import DEMO


def changed(directory: Path, **sections: object) -> Path:
    """A small fleet.yaml with some sections replaced; None takes one away."""
    document: dict[str, object] = {
        "base": {"path": "base"},
        "specialists": {"sql": {"description": "d", "delta": "sql.delta", "examples": ["a"]}},
    }
    document |= sections
    path = directory / "fleet.yaml"
    path.write_text(yaml.safe_dump({key: one for key, one in document.items() if one is not None}))
    return path


def server(address: str | None = None, **changes: object) -> dict[str, object]:
    """A pool of nothing but an OpenAI-compatible server."""
    openai = {"url": "https://host/v1", "models": {"base": "m", "sql": "my-sql"}, **changes}
    return {"pool": {"workers": [{"name": "big-1", "address": address, "openai": openai}]}}


WRONG = {
    "unknown section": ({"rooting": {}}, "rooting"),
    "unknown key": ({"routing": {"encoder_budgt_s": 0.4}}, "routing.encoder_budgt_s"),
    "out of range": ({"routing": {"encoder_budget_s": 0}}, "routing.encoder_budget_s"),
    "two encoders": ({"routing": {"router": "r", "encoder": "e"}}, "leave encoder out"),
    "dangling fallback": ({"routing": {"fallback": "poetry"}}, "poetry"),
    "dangling preload": ({"pool": {"preload": ["poetry"]}}, "poetry"),
    "no base": ({"base": None}, "base"),
    "no specialists": ({"specialists": {}}, "specialists"),
    "no examples": ({"specialists": {"a": {"description": "d", "delta": "x"}}}, "examples"),
    "bad name": (
        {"specialists": {"A B": {"description": "d", "delta": "x", "examples": ["a"]}}},
        "A B",
    ),
    "reserved name": (
        {"specialists": {"base": {"description": "d", "delta": "x", "examples": ["a"]}}},
        "base",
    ),
    "same worker twice": (
        {"pool": {"workers": [{"name": "w"}, {"name": "w"}]}},
        "same name",
    ),
    "no workers": ({"pool": {"workers": []}}, "name one"),
    "a group without a port": ({"pool": {"discovery": {"a": {"dns": "host"}}}}, "discovery.a.dns"),
    "a group of a model that there is not": (
        {"pool": {"discovery": {"a": {"dns": "h:1", "models": ["poetry"]}}}},
        "poetry",
    ),
    "a model that no group has": (
        {"pool": {"discovery": {"a": {"dns": "h:1", "models": ["base"]}}}},
        "none of them serves sql",
    ),
    "a price below zero": ({"pool": {"hardware": {"usd_per_hour": -1}}}, "usd_per_hour"),
    "more than all of a machine": ({"pool": {"hardware": {"share": 1.5}}}, "hardware.share"),
    "a worker in two places": (server(address="h:1"), "not both"),
    "a server without models": (server(models={}), "openai.models"),
    "a server of a model that there is not": (server(models={"poetry": "m"}), "poetry"),
    "a server without http": (server(url="host:8000"), "openai.url"),
    "a server with a secret": (server(url="http://me:secret@host/v1"), "openai.url"),
    "a model that no server has": (server(models={"base": "m"}), "none of them serves sql"),
    "vllm's options for another engine": ({"pool": {"vllm": {"dtype": "auto"}}}, "another engine"),
    "an option that vllm does not have": (
        {"pool": {"engine": "vllm", "vllm": {"max_modle_len": 4}}},
        "pool.vllm.max_modle_len",
    ),
    "weights that cannot be switched": (
        {"pool": {"engine": "vllm", "vllm": {"quantization": "fp8"}}},
        "quantization fp8",
    ),
    "turns that cost more than they last": (
        {"pool": {"switching": {"amortisation": 0}}},
        "pool.switching.amortisation",
    ),
    "a breaker that waits less and less": (
        {"pool": {"breaker": {"pause_s": 2, "longest_pause_s": 1}}},
        "longest_pause_s is shorter",
    ),
    "a load below the mean": ({"pool": {"affinity": {"load_factor": 0.9}}}, "affinity.load_factor"),
    "a second run of nothing": ({"pool": {"hedging": {"most_share": 0.1}}}, "hedging.after_s"),
    "a quality that nobody asks for": ({"routing": {"quality": "q"}}, "say min_quality too"),
    "a caller's quality above 1": ({"callers": {"app": {"min_quality": 2}}}, "callers.app.min_q"),
    "a caller's budget below 0": ({"callers": {"app": {"max_cost_usd": -1}}}, "callers.app.max_c"),
    "unknown price": ({"baselines": {"x": {"price": "nobody/none"}}}, "nobody/none"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_wrong_file_is_refused(tmp_path: Path, name: str) -> None:
    sections, place = WRONG[name]
    with pytest.raises(SettingsError, match=place):
        load_prices(load(Settings, changed(tmp_path, **sections), environment={}))


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    settings = load(Settings, changed(tmp_path), environment={})
    assert settings.base.path == tmp_path / "base"


def test_a_variable_overrides_one_value(tmp_path: Path) -> None:
    environment = {"DELTAFLEET_ROUTING__ENCODER_BUDGET_S": "0.7", "HOME": "/"}
    settings = load(Settings, changed(tmp_path), environment=environment)
    assert settings.routing.encoder_budget_s == 0.7


@pytest.mark.parametrize(
    "variable", ["DELTAFLEET_ROOTING__X", "DELTAFLEET_ROUTING__X", "DELTAFLEET_BASE__PATH__X"]
)
def test_an_unknown_variable_is_refused(tmp_path: Path, variable: str) -> None:
    with pytest.raises(SettingsError):
        load(Settings, changed(tmp_path), environment={variable: "1"})


def test_secrets_are_no_settings(tmp_path: Path) -> None:
    load(Settings, changed(tmp_path), environment={"DELTAFLEET_CLOSED_API_KEY_MINI": "s"})


def test_the_key_of_a_server_is_a_secret_and_has_a_server(tmp_path: Path) -> None:
    path = changed(tmp_path, **server())
    settings = load(Settings, path, environment={"DELTAFLEET_MEMBER_KEY_BIG_1": "secret"})
    assert "secret" not in str(settings)
    with pytest.raises(SettingsError, match="DELTAFLEET_MEMBER_KEY_BIG") as caught:
        load(Settings, path, environment={"DELTAFLEET_MEMBER_KEY_BIG": "secret"})
    assert "secret" not in str(caught.value)


def test_a_file_that_is_missing_or_not_yaml(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load(Settings, tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(SettingsError, match="not YAML"):
        load(Settings, tmp_path / "bad.yaml")


def test_the_worker_ignores_exactly_the_gateways_sections(tmp_path: Path) -> None:
    assert set(GATEWAY_SECTIONS) == set(Settings.model_fields) - set(PoolSettings.model_fields)
    path = changed(tmp_path, routing={"anything": 1})
    assert load(PoolSettings, path, ignored=GATEWAY_SECTIONS, environment={}).base


def test_the_demo_fleet_loads() -> None:
    settings = load(Settings, DEMO, environment={})
    load_prices(settings)
    assert min(len(prompts) for prompts in load_examples(settings).values()) >= 8


def test_every_reason_has_one_status_and_one_exception() -> None:
    reasons = set(ErrorReason.values()) - {ErrorReason.ERROR_REASON_UNSPECIFIED}
    assert set(STATUS_OF) == reasons
    assert gateway_errors
    classes: list[type[FleetError]] = [FleetError]
    for kind in classes:
        classes += kind.__subclasses__()
    assert {kind.reason for kind in classes} == reasons


def test_a_worker_costs_its_share_of_its_hardware(tmp_path: Path) -> None:
    halves = {"accelerator": "a10g", "usd_per_hour": "1.006", "share": "0.5"}
    workers = [{"name": "left", "hardware": halves}, {"name": "right"}]
    pool = {"hardware": {"usd_per_hour": "0.05"}, "workers": workers}

    found = load(Settings, changed(tmp_path, pool=pool)).pool

    assert found.hardware_of("left").nano_usd_per_hour == 503_000_000
    assert found.hardware_of("right").nano_usd_per_hour == 50_000_000


def test_a_worker_of_a_group_has_its_models_and_its_price(tmp_path: Path) -> None:
    one = {"description": "d", "delta": "x.delta", "examples": ["a"]}
    hot = {"dns": "hot:7071"}
    cold = {"dns": "cold:7071", "models": ["triage"], "hardware": {"usd_per_hour": 2.5}}
    pool = {"preload": ["sql", "triage"], "discovery": {"hot": hot, "cold": cold}}
    settings = load(Settings, changed(tmp_path, specialists={"sql": one, "triage": one}, pool=pool))

    assert not settings.pool.workers, "the gateway starts none of its own"
    assert settings.of_group("hot").pool.preload == ("sql", "triage")
    theirs = settings.of_group("cold")
    assert set(theirs.specialists) == {"triage"}
    assert theirs.pool.preload == ("triage",)
    assert theirs.pool.hardware_of("any-0").nano_usd_per_hour == 2_500_000_000
    with pytest.raises(SettingsError, match="warm"):
        settings.of_group("warm")


def test_a_clients_key_is_no_setting(tmp_path: Path) -> None:
    path, environment = changed(tmp_path), {"DELTAFLEET_API_KEY": "dfk_0_1"}
    assert "dfk_0_1" not in load(Settings, path, environment=environment).model_dump_json()


def test_certificates_of_callers_need_somebody_who_asks_for_them(tmp_path: Path) -> None:
    identity = {"certificates": {"a.internal": {"caller": "a"}}}
    for tls in ({}, {"tls": {"certificate": "c", "key": "k"}}):
        path = changed(tmp_path, identity=identity, server=tls)
        with pytest.raises(SettingsError, match="client_ca"):
            load(Settings, path, environment={})
    identity = {"certificates": {"a.internal": {"caller": "a", "models": ["sql", "poetry"]}}}
    with pytest.raises(SettingsError, match="poetry"):
        load(Settings, changed(tmp_path, identity=identity), environment={})
    with pytest.raises(SettingsError, match="nobody could call"):
        load(Settings, changed(tmp_path, identity={}), environment={})
