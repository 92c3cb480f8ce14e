"""The price file: read, refused, and old."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from gateway.price_list import (
    BUILT_IN_PRICES,
    load_prices,
    make_counter,
    priced_baselines,
    read_prices,
)
from gateway.settings import Settings
from model_pool.settings import SettingsError
from model_pool.settings_file import load

RATES = {"input_usd_per_mtok": "1", "output_usd_per_mtok": "5"}
HALF = {"input_usd_per_mtok": "0.5", "output_usd_per_mtok": "2.5"}
TIER = {"above_prompt_token_count": 100, "input_usd_per_mtok": "2", "output_usd_per_mtok": "9"}


def listed(directory: Path, **price: object) -> Path:
    """A price file with one price, `a/b`."""
    path = directory / "prices.yaml"
    document = {"as_of": "2026-01-01", "source": "a page", "prices": {"a/b": RATES | price}}
    path.write_text(yaml.safe_dump(document))
    return path


def fleet(directory: Path, baseline: dict[str, object], **prices: object) -> Settings:
    """A fleet that is compared with a/b of that price file."""
    path = directory / "fleet.yaml"
    document = {
        "base": {"path": "base"},
        "specialists": {"sql": {"description": "d", "delta": "sql.delta", "examples": ["a"]}},
        "baselines": {"b": {"price": "a/b", **baseline}},
        "prices": {"file": "prices.yaml", **prices},
    }
    path.write_text(yaml.safe_dump(document))
    return load(Settings, path, environment={})


def test_a_baseline_has_its_price_and_its_habits(tmp_path: Path) -> None:
    listed(tmp_path, batch=HALF, tiers=[TIER | {"batch": HALF}], characters_per_token="3.5")
    settings = fleet(tmp_path, {"batch": True, "reasoning_multiplier": 3})
    baseline = priced_baselines(settings, load_prices(settings))["b"]

    assert baseline.is_batch
    assert baseline.price.input_usd_per_mtok == Decimal("0.5")
    assert baseline.price.tiers[0].output_usd_per_mtok == Decimal("2.5")
    assert baseline.price.characters_per_token == Decimal("3.5")
    assert baseline.price.reasoning_multiplier == 3
    assert baseline.characters_per_token_is == "rule of thumb"
    assert baseline.source == "a page"


def test_a_ratio_of_fleet_yaml_is_told_from_the_price_files(tmp_path: Path) -> None:
    listed(tmp_path, characters_per_token_is="measured")
    measured = fleet(tmp_path, {})
    own = fleet(tmp_path, {"characters_per_token": "3"})

    assert priced_baselines(measured, load_prices(measured))["b"].characters_per_token_is == (
        "measured"
    )
    found = priced_baselines(own, load_prices(own))["b"]
    assert (found.price.characters_per_token, found.characters_per_token_is) == (
        Decimal(3),
        "set in fleet.yaml",
    )


def test_a_ratio_of_fleet_yaml_comes_before_the_price_files_tokenizer(tmp_path: Path) -> None:
    listed(tmp_path, tokenizer="o200k_base")
    counted = fleet(tmp_path, {})
    found = priced_baselines(counted, load_prices(counted))
    assert found["b"].price.tokenizer == "o200k_base"
    assert make_counter(found).answer_size("a b").token_counts == {"o200k_base": 2}

    own = fleet(tmp_path, {"characters_per_token": "3"})
    found = priced_baselines(own, load_prices(own))
    assert found["b"].price.tokenizer is None
    assert make_counter(found).answer_size("a b").token_counts == {}


@pytest.mark.parametrize(("day", "is_stale"), [(11, False), (12, True)])
def test_a_price_goes_stale_after_so_many_days(tmp_path: Path, day: int, is_stale: bool) -> None:
    listed(tmp_path)
    settings = fleet(tmp_path, {}, max_age_days=10)
    baseline = priced_baselines(settings, load_prices(settings))["b"]
    now = datetime(2026, 1, day, 23, 59, tzinfo=UTC)

    assert baseline.is_stale(now) is is_stale
    assert baseline.age_s(now) == (day - 1) * 86400 + 86340


WRONG = {
    "below zero": ({"input_usd_per_mtok": "-1"}, "input_usd_per_mtok"),
    "no number": ({"output_usd_per_mtok": "nan"}, "output_usd_per_mtok"),
    "infinite": ({"output_usd_per_mtok": "inf"}, "output_usd_per_mtok"),
    "a cache that costs": ({"cached_input_usd_per_mtok": "2"}, "a cached token costs more"),
    "tiers that fall": ({"tiers": [TIER, TIER]}, "not by rising"),
    "tokens of no length": ({"characters_per_token": "0"}, "characters_per_token"),
    "a tokenizer that is not public": ({"tokenizer": "claude"}, "tokenizer"),
    "a ratio known otherwise": ({"characters_per_token_is": "guessed"}, "characters_per_token_is"),
    "an unknown key": ({"price": "1"}, "price"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_wrong_price_is_refused(tmp_path: Path, name: str) -> None:
    price, reason = WRONG[name]
    with pytest.raises(SettingsError, match=reason):
        read_prices(listed(tmp_path, **price))


@pytest.mark.parametrize(
    ("price", "reason"),
    [
        ({}, "a/b has no batch price$"),
        ({"batch": HALF, "tiers": [TIER]}, "no batch price above 100"),
    ],
)
def test_a_batch_without_a_price_is_refused(
    tmp_path: Path, price: dict[str, object], reason: str
) -> None:
    listed(tmp_path, **price)
    with pytest.raises(SettingsError, match=rf"baselines\.b\.batch: .*{reason}"):
        load_prices(fleet(tmp_path, {"batch": True}))


@pytest.mark.parametrize("wrong", [{"cached_input_share": 1.1}, {"reasoning_multiplier": "0.5"}])
def test_a_baseline_out_of_range_is_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        fleet(tmp_path, wrong)


def test_a_missing_price_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"prices\.yaml"):
        load_prices(fleet(tmp_path, {}))


def test_every_built_in_price_is_read_and_has_a_source() -> None:
    prices = read_prices(BUILT_IN_PRICES)
    for name in prices.prices:
        assert prices.source_of(name)
        assert prices.token_price(name).cost_nano_usd(10**6, 0) > 0
