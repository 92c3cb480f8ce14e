"""LiteLLM's price file: read exactly, and refused by name where it is nonsense."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.litellm_prices import BadPrices, read_litellm
from gateway.price_list import BUILT_IN_PRICES, PriceList, read_prices, to_yaml, with_imported

EXCERPT = Path(__file__).with_name("data") / "litellm_prices.json"


def one_model(**fields: object) -> str:
    """A file of one model, `m` of `p`."""
    model = {"litellm_provider": "p", "mode": "chat", "input_cost_per_token": 1e-6}
    return json.dumps({"m": model | {"output_cost_per_token": 5e-6} | fields})


def test_the_excerpt_agrees_with_the_built_in_prices() -> None:
    theirs = read_litellm(EXCERPT.read_text(), ["gpt-*", "claude-*"]).prices
    ours = read_prices(BUILT_IN_PRICES).prices

    assert set(theirs) == {"openai/gpt-5-mini", "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"}
    for name, price in theirs.items():
        assert price.input_usd_per_mtok == ours[name].input_usd_per_mtok
        assert price.output_usd_per_mtok == ours[name].output_usd_per_mtok
        assert price.cached_input_usd_per_mtok == ours[name].cached_input_usd_per_mtok
        assert price.tokenizer == ours[name].tokenizer
        assert price.batch is not None
        assert price.batch.output_usd_per_mtok == ours[name].batch.output_usd_per_mtok


def test_what_starts_at_a_length_becomes_a_tier() -> None:
    price = read_litellm(EXCERPT.read_text(), ["gemini/*"]).prices["gemini/gemini-2.5-pro"]
    (tier,) = price.tiers

    assert tier.above_prompt_token_count == 200_000
    assert tier.input_usd_per_mtok == Decimal("2.5")
    assert tier.cached_input_usd_per_mtok == Decimal("0.25")
    assert tier.batch is not None
    assert tier.batch.output_usd_per_mtok == Decimal("7.5")


def test_every_length_has_its_tier_and_keeps_what_does_not_change() -> None:
    text = one_model(
        input_cost_per_token_above_128k_tokens=2e-6,
        output_cost_per_token_above_272k_tokens=9e-6,
        input_cost_per_token_above_200k_tokens_priority=8e-6,
    )
    tiers = read_litellm(text).prices["p/m"].tiers

    assert [
        (one.above_prompt_token_count, one.input_usd_per_mtok, one.output_usd_per_mtok)
        for one in tiers
    ] == [(128_000, 2, 5), (272_000, 2, 9)]


def test_what_is_no_chat_model_is_left_out_and_named() -> None:
    found = read_litellm(EXCERPT.read_text())
    assert "openai/text-embedding-3-large" not in found.prices
    assert "embedding" in found.left_out["text-embedding-3-large"]
    assert len(found.prices) == 4


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"output_cost_per_reasoning_token": 6e-6}, "thoughts have a price of their own"),
        ({"tiered_pricing": [{"range": [0, 1000]}]}, "tiered_pricing"),
        ({"mode": "responses"}, "no chat model but responses"),
    ],
)
def test_a_price_that_would_be_wrong_is_not_taken(fields: dict[str, object], reason: str) -> None:
    other = {"n": json.loads(one_model(output_cost_per_reasoning_token=5e-6))["m"]}
    text = json.dumps(json.loads(one_model(**fields)) | other)
    found = read_litellm(text)
    assert set(found.prices) == {"p/n"}
    assert reason in found.left_out["m"]


NONSENSE = {
    "below zero": ({"input_cost_per_token": -1e-6}, "m: input_usd_per_mtok"),
    "not a number": ({"output_cost_per_token": float("nan")}, "m: output_usd_per_mtok"),
    "without end": ({"output_cost_per_token": float("inf")}, "m: output_usd_per_mtok"),
    "a text": ({"output_cost_per_token": "cheap"}, "m: output_usd_per_mtok"),
    "a truth": ({"output_cost_per_token": True}, "m: output_usd_per_mtok"),
    "a dollar for a word": ({"input_cost_per_token": 2}, "m: input_usd_per_mtok"),
    "a dear cache": ({"cache_read_input_token_cost": 2e-6}, "m: .*a cached token costs more"),
    "a tier below zero": (
        {"input_cost_per_token_above_200k_tokens": -1e-6},
        r"m: tiers\.0\.input_usd_per_mtok",
    ),
}


@pytest.mark.parametrize("name", sorted(NONSENSE))
def test_nonsense_is_refused_by_name(name: str) -> None:
    fields, reason = NONSENSE[name]
    with pytest.raises(BadPrices, match=reason):
        read_litellm(one_model(**fields))


@pytest.mark.parametrize(
    ("only", "reason"),
    [
        (["text-embedding-3-large"], "no chat model but embedding"),
        (["gpt-5-mini", "gpt-6-*"], "gpt-6-.: no such model"),
        (["text-*"], "no chat model has a price"),
    ],
)
def test_what_is_asked_for_must_be_there(only: list[str], reason: str) -> None:
    with pytest.raises(BadPrices, match=reason):
        read_litellm(EXCERPT.read_text(), only)


@pytest.mark.parametrize("text", ["{", "[]", '{"m": 1}'])
def test_another_file_is_refused(text: str) -> None:
    with pytest.raises(BadPrices):
        read_litellm(text)


@given(st.decimals(0, Decimal("0.9"), places=12))
def test_prices_are_read_to_the_last_digit(usd_per_token: Decimal) -> None:
    text = one_model().replace("1e-06", f"{usd_per_token:e}")
    found = read_litellm(text).prices["p/m"].input_usd_per_mtok
    assert found == usd_per_token * 10**6


def test_importing_keeps_what_is_not_imported_and_how_tokens_are_counted() -> None:
    old = PriceList.model_validate(
        {
            "as_of": "2026-01-01",
            "source": "a page",
            "prices": {
                "p/m": {
                    "input_usd_per_mtok": "7",
                    "output_usd_per_mtok": "8",
                    "characters_per_token": "3.1",
                    "characters_per_token_is": "measured",
                },
                "q/n": {"input_usd_per_mtok": "2", "output_usd_per_mtok": "3"},
            },
        }
    )
    made = with_imported(old, read_litellm(one_model()).prices, date(2026, 6, 1), "LiteLLM")

    assert made.prices["q/n"] == old.prices["q/n"]
    assert (made.as_of_price("q/n"), made.source_of("q/n")) == (date(2026, 1, 1), "a page")
    assert (made.as_of_price("p/m"), made.source_of("p/m")) == (date(2026, 6, 1), "LiteLLM")
    assert made.prices["p/m"].input_usd_per_mtok == 1
    assert made.prices["p/m"].characters_per_token == Decimal("3.1")
    assert made.prices["p/m"].characters_per_token_is == "measured"


def test_a_price_file_survives_being_written() -> None:
    prices = read_prices(BUILT_IN_PRICES)
    imported = read_litellm(EXCERPT.read_text()).prices
    for one in (prices, with_imported(prices, imported, date(2026, 6, 1), "LiteLLM: ä")):
        assert PriceList.model_validate(yaml.safe_load(to_yaml(one))) == one


@pytest.mark.parametrize(
    ("kept", "tokenizer"), [({}, "o200k_base"), ({"characters_per_token": "3.1"}, None)]
)
def test_an_openai_models_tokenizer_is_known_unless_a_ratio_is_kept(
    kept: dict[str, object], tokenizer: str | None
) -> None:
    rates = {"input_usd_per_mtok": "7", "output_usd_per_mtok": "8"}
    old = PriceList.model_validate(
        {"as_of": "2026-01-01", "source": "a page", "prices": {"openai/gpt-5-m": rates | kept}}
    )
    model = json.loads(one_model(litellm_provider="openai"))["m"]
    imported = read_litellm(json.dumps({"gpt-5-m": model})).prices

    made = with_imported(old, imported, date(2026, 6, 1), "LiteLLM").prices["openai/gpt-5-m"]
    assert (made.tokenizer, made.input_usd_per_mtok) == (tokenizer, 1)
