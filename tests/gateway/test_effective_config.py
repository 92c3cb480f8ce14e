"""What AdminService tells of the configuration: all of it, but for what is secret."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr

from gateway.configuration.effective_config import SET, to_yaml, without_secrets
from gateway.settings import Settings, load_settings
from support.fleet import DEMO


def test_it_is_a_fleet_yaml_again(tmp_path: Path) -> None:
    redact = {"pattern": "a", "with": "b"}
    closed = {"base_url": "https://host/v1", "model": "m", "price": "p", "daily_budget_usd": 1}
    document = load_settings(DEMO).model_dump(mode="json", exclude_none=True)
    document["closed_apis"] = {"elsewhere": closed | {"redact": [redact]}}
    settings = Settings.model_validate(document)
    again = tmp_path / "fleet.yaml"
    again.write_text(to_yaml(settings))
    assert load_settings(again) == settings


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"password": "x", "ledger_password": "x", "key_hash": "x"}, {SET}),
        ({"secret": SecretStr("x"), "anything": SecretStr("x"), "api_key": 3}, {SET}),
        ({"url": "redis://user:x@host/0"}, {f"redis://{SET}@host/0"}),
        ({"urls": ["redis://:x@host"]}, {f"['redis://{SET}@host']"}),
        ({"password": None, "hash": None}, {"None"}),
        ({"key_file": Path("/run/x"), "key_env": "X"}, {"/run/x", "X"}),
        ({"characters_per_token": 4, "max_token_count": 7}, {"4", "7"}),
    ],
)
def test_secrets_are_left_out(value: dict[str, object], told: set[str]) -> None:
    assert {str(one) for one in without_secrets(value).values()} == told


def test_certificates_of_callers_are_told(tmp_path: Path) -> None:
    document = yaml.safe_load(DEMO.read_text())
    tls = {"certificate": "c.pem", "key": "k.pem", "client_ca": "a.pem"}
    batch = {"caller": "batch", "scopes": ["infer", "administer"], "daily_budget_usd": 0.5}
    document |= {"server": {"tls": tls}, "identity": {"certificates": {"b": batch}}}
    settings = Settings.model_validate(document)
    told = yaml.safe_load(to_yaml(settings))
    assert told["identity"]["certificates"]["b"]["scopes"] == ["administer", "infer"]
    assert told["server"]["tls"]["key"] == "k.pem"
