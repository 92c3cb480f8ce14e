"""fleet.yaml's section `ledger`: where it is, and that nobody sees its password."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from gateway.__main__ import main
from gateway.fleet_files import ledger_url
from gateway.settings import Settings, load_settings
from model_pool.settings import SettingsError
from support.fleet import DEMO

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def no_url_of_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DELTAFLEET_LEDGER_URL", raising=False)


def fleet(directory: Path, **ledger: object) -> Settings:
    document = {
        "base": {"path": "base"},
        "specialists": {"sql": {"description": "d", "delta": "sql.delta", "examples": ["a"]}},
        "ledger": ledger,
    }
    path = directory / "fleet.yaml"
    path.write_text(yaml.safe_dump(document))
    return load_settings(path)


def test_it_is_a_file_beside_fleet_yaml_unless_a_url_is_given(tmp_path: Path) -> None:
    url = ledger_url(fleet(tmp_path, path="money.sqlite3").ledger)
    assert (url.get_backend_name(), url.database) == ("sqlite", str(tmp_path / "money.sqlite3"))
    url = ledger_url(fleet(tmp_path, url="postgresql://me@host/ledger").ledger)
    assert str(url) == "postgresql+psycopg://me@host/ledger"


def test_the_password_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "url").write_text(f"postgresql+psycopg://me:{SECRET}@host/from-file\n")
    ledger = fleet(tmp_path, url_file="url").ledger
    assert (ledger_url(ledger).database, ledger_url(ledger).password) == ("from-file", SECRET)
    monkeypatch.setenv("DELTAFLEET_LEDGER_URL", f"postgresql://me:{SECRET}@host/from-there")
    assert ledger_url(fleet(tmp_path, url_file="url").ledger).database == "from-there"
    assert SECRET not in f"{ledger!r} {ledger_url(ledger)} {ledger_url(ledger)!r}"


WRONG = {
    "a password": {"url": f"postgresql://me:{SECRET}@host/db"},
    "a password among the options": {"url": f"postgresql://host/db?password={SECRET}"},
    "another database": {"url": f"mysql://me:{SECRET}@host/db"},
    "no URL": {"url": f"me:{SECRET}@host"},
    "url and url_file": {"url": "postgresql://host/db", "url_file": "url"},
    "no days": {"keep_days": 0},
    "less than no patience": {"retry_s": -1},
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_refused_and_no_password_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="ledger") as refusal:
        fleet(tmp_path, **WRONG[name])
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("text", [f"me:{SECRET}@host", f"oracle://me:{SECRET}@host/db"])
def test_a_wrong_variable_or_file_is_refused_and_nothing_of_it_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "url").write_text(text)
    ledger = fleet(tmp_path, url_file="url").ledger
    with pytest.raises(SettingsError, match=r"^ledger.url_file") as refusal:
        ledger_url(ledger)
    assert SECRET not in str(refusal.value)
    monkeypatch.setenv("DELTAFLEET_LEDGER_URL", text)
    with pytest.raises(SettingsError, match=r"^DELTAFLEET_LEDGER_URL") as refusal:
        ledger_url(ledger)
    assert SECRET not in str(refusal.value)
    monkeypatch.delenv("DELTAFLEET_LEDGER_URL")
    (tmp_path / "url").unlink()
    with pytest.raises(SettingsError, match=r"^ledger\.url_file"):
        ledger_url(ledger)


def test_deltafleet_check_reads_the_url_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CliRunner().invoke(main, ["check", str(DEMO)]).exit_code == 0
    monkeypatch.setenv("DELTAFLEET_LEDGER_URL", f"mysql://me:{SECRET}@host/db")
    found = CliRunner().invoke(main, ["check", str(DEMO)])
    assert found.exit_code == 1
    assert "DELTAFLEET_LEDGER_URL: postgresql+psycopg://..." in found.output
    assert SECRET not in found.output
