"""fleet.yaml's section `limits`, and what it says of callers; nobody sees a password."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from gateway.__main__ import main
from gateway.caller import Limits
from gateway.fleet_files import redis_url
from gateway.fleet_models import named_limits
from gateway.settings import Settings, load_settings
from model_pool.settings import SettingsError
from support.fleet import DEMO

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def no_url_of_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DELTAFLEET_REDIS_URL", raising=False)


def fleet(directory: Path, caller: object = None, **limits: object) -> Settings:
    document = {
        "base": {"path": "base"},
        "specialists": {"sql": {"description": "d", "delta": "sql.delta", "examples": ["a"]}},
        "callers": {"shop": caller or {}},
        "limits": limits,
    }
    path = directory / "fleet.yaml"
    path.write_text(yaml.safe_dump(document))
    return load_settings(path)


def test_a_gateway_counts_alone_unless_a_redis_is_given(tmp_path: Path) -> None:
    assert redis_url(fleet(tmp_path).limits) is None
    assert redis_url(fleet(tmp_path, redis_url="redis://host/3").limits) == "redis://host/3"


def test_the_password_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "url").write_text(f"rediss://:{SECRET}@from-file:6380/0\n")
    limits = fleet(tmp_path, redis_url_file="url").limits
    assert redis_url(limits) == f"rediss://:{SECRET}@from-file:6380/0"
    assert SECRET not in repr(limits)
    monkeypatch.setenv("DELTAFLEET_REDIS_URL", f"redis://:{SECRET}@from-there")
    settings = fleet(tmp_path, redis_url_file="url")
    assert redis_url(settings.limits) == f"redis://:{SECRET}@from-there"
    assert SECRET not in settings.model_dump_json()


WRONG = {
    "a password": {"redis_url": f"redis://:{SECRET}@host"},
    "a password among the options": {"redis_url": f"redis://host?password={SECRET}"},
    "another option": {"redis_url": "redis://host?socket_timeout=0"},
    "another store": {"redis_url": f"memcached://:{SECRET}@host"},
    "no URL": {"redis_url": f"me:{SECRET}@host"},
    "no port": {"redis_url": f"redis://me:{SECRET}@host:port"},
    "both": {"redis_url": "redis://host", "redis_url_file": "url"},
    "no patience": {"operation_timeout_s": 0},
    "no prefix": {"prefix": ""},
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_refused_and_no_password_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="limits") as refusal:
        fleet(tmp_path, **WRONG[name])
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("text", [f"me:{SECRET}@host", f"redis://:{SECRET}@host?a=b"])
def test_a_wrong_variable_or_file_is_refused_and_nothing_of_it_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "url").write_text(text)
    limits = fleet(tmp_path, redis_url_file="url").limits
    with pytest.raises(SettingsError, match=r"^limits\.redis_url_file") as refusal:
        redis_url(limits)
    assert SECRET not in str(refusal.value)
    monkeypatch.setenv("DELTAFLEET_REDIS_URL", text)
    found = CliRunner().invoke(main, ["check", str(DEMO)])
    assert found.exit_code == 1
    assert "DELTAFLEET_REDIS_URL: redis://..." in found.output
    assert SECRET not in found.output
    monkeypatch.delenv("DELTAFLEET_REDIS_URL")
    (tmp_path / "url").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match=r"^limits\.redis_url_file"):
        redis_url(limits)
    (tmp_path / "url").unlink()
    with pytest.raises(SettingsError, match=r"^limits\.redis_url_file"):
        redis_url(limits)


def test_a_callers_limits_are_whole_nano_dollars(tmp_path: Path) -> None:
    said = {"requests_per_minute": 60, "daily_budget_usd": 0.000000001, "monthly_budget_usd": 20}
    found = named_limits(fleet(tmp_path, said))["shop"]
    assert found == Limits(60, None, None, 1, 20 * 10**9)


@pytest.mark.parametrize(
    "wrong",
    [{"requests_per_minute": 0}, {"daily_budget_usd": -1}, {"monthly_budget_usd": 10**7}],
)
def test_a_limit_that_is_none_is_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=r"callers\.shop"):
        fleet(tmp_path, wrong)
