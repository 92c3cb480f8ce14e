"""`closed_apis` of fleet.yaml, and decisions where one of them cannot be asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gateway.classifier import Classification
from gateway.closed_apis.apis import open_closed_api
from gateway.errors import BudgetSpent
from gateway.fleet_files import closed_api_key
from gateway.price_list import load_prices
from gateway.router import Constraints, Expectations, ModelKind, Route, Router, RouteReason, Target
from gateway.settings import Settings
from model_pool.settings import SettingsError
from model_pool.settings_file import load
from support.fleet import DEMO

API = {
    "base_url": "https://api.example/v1",
    "model": "m",
    "price": "openai/gpt-5-mini",
    "daily_budget_usd": "5",
}


def settings_with(tmp_path: Path, name: str = "mini", **changes: object) -> Settings:
    document = yaml.safe_load(DEMO.read_text())
    api = {key: value for key, value in (API | changes).items() if value is not None}
    document["closed_apis"] = {name: api}
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump(document))
    return load(Settings, path, environment={})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "base"}, "is taken"),
        ({"name": "sql"}, "is taken"),
        ({"daily_budget_usd": None}, "daily_budget_usd"),
        ({"daily_budget_usd": "0"}, "daily_budget_usd"),
        ({"daily_budget_usd": "NaN"}, "daily_budget_usd"),
        ({"kind": "smoke-signals"}, "kind"),
        ({"kind": "anthropic", "takes_sampling": True}, "takes_sampling"),
        ({"base_url": "https://user:secret@api.example"}, "base_url"),
        ({"key": "sk-1"}, "key"),
        ({"key_env": "A", "key_file": "b"}, "key_env or key_file"),
        ({"key_env": "DELTAFLEET_LEDGER__PATH"}, "sets a value of fleet.yaml"),
        ({"redact": [{"pattern": "("}]}, "not a regular expression"),
        ({"redact_hook": "module"}, "redact_hook"),
        ({"max_retries": 11}, "max_retries"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, changes, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings_with(tmp_path, **changes)


def test_a_price_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"closed_apis\.mini\.price"):
        load_prices(settings_with(tmp_path, price="nobody/none"))


@pytest.mark.parametrize("hook", ["no.such.module:redact", "json:nothing", "json:__name__"])
def test_a_hook_that_is_not_there_is_refused(tmp_path: Path, hook: str) -> None:
    api = settings_with(tmp_path, redact_hook=hook).closed_apis["mini"]
    with pytest.raises(SettingsError, match=r"closed_apis\.mini\.redact_hook"):
        open_closed_api("mini", api, "", None, None)


def test_a_key_comes_from_the_environment_or_a_file(tmp_path: Path, monkeypatch) -> None:
    by_variable = settings_with(tmp_path, key_env="THEIR_KEY").closed_apis["mini"]
    with pytest.raises(SettingsError, match="THEIR_KEY is not set"):
        closed_api_key("mini", by_variable)
    monkeypatch.setenv("THEIR_KEY", "secret")
    assert closed_api_key("mini", by_variable).get_secret_value() == "secret"

    by_file = settings_with(tmp_path, key_file="key").closed_apis["mini"]
    with pytest.raises(SettingsError, match="key_file"):
        closed_api_key("mini", by_file)
    (tmp_path / "key").write_text(" \n")
    with pytest.raises(SettingsError, match="is empty"):
        closed_api_key("mini", by_file)
    (tmp_path / "key").write_text("secret\n")
    assert closed_api_key("mini", by_file).get_secret_value() == "secret"
    assert "secret" not in repr(closed_api_key("mini", by_file))

    assert closed_api_key("mini", settings_with(tmp_path).closed_apis["mini"]) is not None


TARGETS = {
    "base": Target("base", ModelKind.BASE, 0.3),
    "sql": Target("sql", ModelKind.SPECIALIST, 0.9),
    "mini": Target("mini", ModelKind.CLOSED_API, 0.99),
}
SPENT = BudgetSpent("mini is not asked", retry_after_s=60.0)


def decide(*, is_in_scope: bool, qualities=None, **constraints: object) -> Route:
    """Where a prompt goes while mini's budget is spent."""
    router = Router(TARGETS, fallback="mini", min_quality=0)
    costs = {"base": 10, "sql": 12, "mini": 1000}
    return router.route(
        Classification("sql", 0.7, is_in_scope, (("sql", 0.7),)),
        Constraints(**constraints),
        Expectations(
            lambda target: costs[target.name],
            qualities,
            refusal=lambda model: SPENT if model == "mini" else None,
        ),
    )


def test_a_fallback_that_cannot_be_asked_leaves_its_prompts_to_the_base_and_says_so() -> None:
    found = decide(is_in_scope=False)
    assert (found.target.name, found.reason) == ("base", RouteReason.OUT_OF_SCOPE)
    assert "to base; mini is not asked" in found.explanation


def test_a_prompt_of_a_specialist_is_none_of_its_business() -> None:
    found = decide(is_in_scope=True)
    assert (found.target.name, found.reason) == ("sql", RouteReason.CLASSIFIED)
    assert "mini" not in found.explanation


def test_where_nothing_else_would_do_the_caller_is_told_when_to_come_back() -> None:
    with pytest.raises(BudgetSpent) as refused:
        decide(is_in_scope=False, min_quality=0.95)
    assert refused.value is SPENT


def test_where_only_a_default_asks_for_more_the_best_of_the_rest_answers() -> None:
    learned = {"base": 0.3, "sql": 0.6, "mini": 0.99}
    asked = {"min_quality": 0.95, "quality_is_default": True}
    found = decide(is_in_scope=True, qualities=learned, **asked)
    assert (found.target.name, found.reason) == ("sql", RouteReason.BEST)
    with pytest.raises(BudgetSpent):
        decide(is_in_scope=True, qualities=learned, min_quality=0.95)
