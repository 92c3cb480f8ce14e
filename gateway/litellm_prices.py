"""LiteLLM's model_prices_and_context_window.json → prices of ours.

One object per model: USD per token, `litellm_provider`, `mode`. What starts at a prompt length ends
in `_above_200k_tokens`, what may wait in `_batches`. Its shape: BerriAI/litellm on GitHub.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from gateway.price_list import Price
from gateway.token_counter import openai_tokenizer

TOKENS_PER_MTOK = 10**6
EXAMPLE = "sample_spec"  # the file's own description of itself
TIER = re.compile(r"_cost(?:_per_token)?_above_(\d+)k_tokens$")
FIELDS = {
    "input_usd_per_mtok": "input_cost_per_token",
    "output_usd_per_mtok": "output_cost_per_token",
    "cached_input_usd_per_mtok": "cache_read_input_token_cost",
}


class BadPrices(Exception):
    """The file, or a price in it, is wrong; the text names each."""


@dataclass(frozen=True, slots=True)
class Read:
    """What a file says. left_out: what was asked for and is no chat model's price per token."""

    prices: dict[str, Price]
    left_out: dict[str, str]


def read_litellm(text: str, only: Sequence[str] = ()) -> Read:
    """Read the prices of chat models, by PROVIDER/MODEL.

    only: patterns (`gpt-5*`) of LiteLLM's names or ours; none: every model. Raises BadPrices where
    a chat model's price is nonsense, and where a pattern finds nothing or a plain name no price.
    """
    everyone = {name: model for name, model in _models(text).items() if name != EXAMPLE}
    found = {pattern: _matches(everyone, pattern) for pattern in only}
    wanted = set().union(*found.values()) if only else set(everyone)
    models = {name: model for name, model in everyone.items() if name in wanted}
    left_out = {name: reason for name, model in models.items() if (reason := _lacks(model))}
    prices, wrong = _prices({name: one for name, one in models.items() if name not in left_out})
    wrong |= {name: left_out[name] for name in only if name in left_out}
    wrong |= {pattern: "no such model" for pattern, names in found.items() if not names}
    if wrong:
        raise BadPrices("; ".join(f"{name}: {reason}" for name, reason in wrong.items()))
    if not prices:
        raise BadPrices("no chat model has a price per token")
    return Read(prices, left_out)


def _models(text: str) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(text, parse_float=Decimal, parse_constant=Decimal)
    except ValueError as error:
        raise BadPrices(f"not JSON: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise BadPrices("expected one object per model")
    return found


def _our_name(name: str, model: Mapping[str, Any]) -> str:
    provider = str(model.get("litellm_provider", ""))
    return name if not provider or name.startswith(f"{provider}/") else f"{provider}/{name}"


def _matches(models: Mapping[str, Mapping[str, Any]], pattern: str) -> set[str]:
    return {
        name
        for name, model in models.items()
        if any(fnmatch.fnmatchcase(one, pattern) for one in (name, _our_name(name, model)))
    }


def _lacks(model: Mapping[str, Any]) -> str:
    """Why no price of ours says what a model costs; empty where one does."""
    if model.get("mode") != "chat":
        return f"no chat model but {model.get('mode', 'of unknown mode')}"
    missing = [one for one in ("input_cost_per_token", "output_cost_per_token") if one not in model]
    if missing:
        return f"no {', '.join(missing)}"
    if "tiered_pricing" in model:
        return "its prices by length are in tiered_pricing, which is not read"
    if model.get("output_cost_per_reasoning_token") not in (None, model["output_cost_per_token"]):
        return "its thoughts have a price of their own"
    return ""


def _prices(models: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Price], dict[str, str]]:
    prices, wrong = {}, {}
    for name, model in models.items():
        try:
            read = _rates(model) | _tiers(model) | _tokenizer(name, model)
            prices[_our_name(name, model)] = Price.model_validate(read)
        except ValidationError as error:
            wrong[name] = ", ".join(
                f"{'.'.join(map(str, one['loc']))} {one['msg']}".strip() for one in error.errors()
            )
    return prices, wrong


def _tokenizer(name: str, model: Mapping[str, Any]) -> dict[str, Any]:
    if model.get("litellm_provider") not in ("openai", "azure"):
        return {}
    found = openai_tokenizer(name.rpartition("/")[2])
    return {"tokenizer": found} if found else {}


def _rates(model: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Rates from the fields that end in `above`, with those of batches where both are there."""
    rates = _per_mtok(model, above)
    batch = _per_mtok(model, f"{above}_batches")
    if {"input_usd_per_mtok", "output_usd_per_mtok"} <= set(batch):
        rates["batch"] = batch
    return rates


def _per_mtok(model: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    values = {ours: model.get(f"{theirs}{suffix}") for ours, theirs in FIELDS.items()}
    return {ours: _usd_per_mtok(value) for ours, value in values.items() if value is not None}


def _usd_per_mtok(value: object) -> object:
    """A price per token as one per million; what is no number stays, to be refused by name."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return f"{value!r} is no number"
    return value * TOKENS_PER_MTOK


def _tiers(model: Mapping[str, Any]) -> dict[str, Any]:
    starts = sorted({int(found[1]) for field in model if (found := TIER.search(field))})
    standard, tiers = _per_mtok(model, ""), []
    for start in starts:
        # What does not change at this length stays as it was.
        rates = standard | _rates(model, f"_above_{start}k_tokens")
        tiers.append({"above_prompt_token_count": start * 1000} | rates)
        standard = {key: value for key, value in rates.items() if key in FIELDS}
    return {"tiers": tiers}
