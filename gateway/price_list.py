"""The price file: what closed APIs charge, since when, and who says so.

Tokens are counted with the API's tokenizer where it is public, else by characters per token: each
price says which, and whether the ratio was measured or is a rule of thumb.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from gateway import pricing
from gateway.pricing import TokenPrice
from gateway.settings import Baseline, Settings
from gateway.token_counter import TokenCounter, Tokenizer
from model_pool.settings import Section, SettingsError

BUILT_IN_PRICES = Path(__file__).with_name("prices.yaml")
HEADER = """\
# List prices of closed APIs, in USD per million tokens. as_of and source hold for what has none of
# its own; each provider's own price page is the authority.
"""

UsdPerMtok = Annotated[Decimal, Field(ge=0, le=1_000_000, allow_inf_nan=False)]


class Rates(Section):
    """USD per million tokens. cached_input_usd_per_mtok: None where its cache saves nothing."""

    input_usd_per_mtok: UsdPerMtok
    output_usd_per_mtok: UsdPerMtok
    cached_input_usd_per_mtok: UsdPerMtok | None = None

    @model_validator(mode="after")
    def _a_cache_saves(self) -> Self:
        cached = self.cached_input_usd_per_mtok
        if cached is not None and cached > self.input_usd_per_mtok:
            raise ValueError("a cached token costs more than another")
        return self


class StandardRates(Rates):
    """Rates of a request that is answered at once; batch: those of one that may wait."""

    batch: Rates | None = None


class Tier(StandardRates):
    """What every token of a request costs where its prompt is longer than so many tokens."""

    above_prompt_token_count: int = Field(gt=0)


class Price(StandardRates):
    """One model's price. as_of, source: None where they are the whole list's."""

    tiers: tuple[Tier, ...] = ()
    tokenizer: Tokenizer | None = None  # else characters_per_token
    characters_per_token: Decimal = Field(Decimal(4), gt=0, allow_inf_nan=False)
    characters_per_token_is: Literal["measured", "rule of thumb"] = "rule of thumb"
    as_of: date | None = None
    source: str | None = None

    @model_validator(mode="after")
    def _tiers_rise(self) -> Self:
        starts = [tier.above_prompt_token_count for tier in self.tiers]
        if starts != sorted(set(starts)):
            raise ValueError("tiers: not by rising above_prompt_token_count")
        return self


class PriceList(Section):
    """Closed APIs' prices, dated and with their source."""

    as_of: date
    source: str
    prices: dict[str, Price]

    def as_of_price(self, name: str) -> date:
        """The day on which a price was true."""
        return self.prices[name].as_of or self.as_of

    def source_of(self, name: str) -> str:
        """Who says so."""
        return self.prices[name].source or self.source

    def token_price(self, name: str) -> TokenPrice:
        """What its API bills, for requests whose tokens it counted itself."""
        price = self.prices[name]
        return TokenPrice(
            price.input_usd_per_mtok,
            price.output_usd_per_mtok,
            price.characters_per_token,
            price.cached_input_usd_per_mtok,
            tuple(_tier(one.above_prompt_token_count, one) for one in price.tiers),
            tokenizer=price.tokenizer,
        )


@dataclass(frozen=True, slots=True)
class PricedBaseline:
    """A baseline of fleet.yaml with its price, and how each of its assumptions is known.

    max_age_days: an older price is stale.
    """

    price_name: str
    price: TokenPrice
    is_batch: bool
    characters_per_token_is: str
    as_of: date
    source: str
    max_age_days: int

    def age_s(self, now: datetime) -> float:
        """Seconds since the day on which the price was true; now: with its time zone."""
        return (now - datetime(*self.as_of.timetuple()[:3], tzinfo=UTC)).total_seconds()

    def is_stale(self, now: datetime) -> bool:
        """Whether the price is older than fleet.yaml allows."""
        return age_days(self.as_of, now) > self.max_age_days


def stale_names(baselines: Mapping[str, PricedBaseline], now: datetime) -> frozenset[str]:
    """The baselines whose prices are older than fleet.yaml allows."""
    return frozenset(name for name, one in baselines.items() if one.is_stale(now))


def age_days(as_of: date, now: datetime) -> int:
    """Whole days from then to now, in UTC."""
    return (now.astimezone(UTC).date() - as_of).days


def read_prices(path: Path) -> PriceList:
    """Read a price file. Raises SettingsError."""
    try:
        return PriceList.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise SettingsError(f"{path}: {error}") from None


def load_prices(settings: Settings) -> PriceList:
    """Read the price file that fleet.yaml names, and see that every price is there that it needs.

    Raises SettingsError.
    """
    path = settings.prices.file or BUILT_IN_PRICES
    prices = read_prices(path)
    wanted = {f"baselines.{name}": one.price for name, one in settings.baselines.items()}
    wanted |= {f"closed_apis.{name}": one.price for name, one in settings.closed_apis.items()}
    for place, price in wanted.items():
        if price not in prices.prices:
            raise SettingsError(f"{place}.price: {path.name} has no {price!r}")
    priced_baselines(settings, prices)
    return prices


def priced_baselines(settings: Settings, prices: PriceList) -> Mapping[str, PricedBaseline]:
    """The baselines of fleet.yaml, by name. Raises SettingsError where a batch has no price."""
    return {
        name: PricedBaseline(
            price_name=one.price,
            price=_baseline_price(name, one, prices.prices[one.price]),
            is_batch=one.batch,
            characters_per_token_is=(
                prices.prices[one.price].characters_per_token_is
                if one.characters_per_token is None
                else "set in fleet.yaml"
            ),
            as_of=prices.as_of_price(one.price),
            source=prices.source_of(one.price),
            max_age_days=settings.prices.max_age_days,
        )
        for name, one in settings.baselines.items()
    }


def make_counter(baselines: Mapping[str, PricedBaseline]) -> TokenCounter:
    """Counts with every tokenizer that a baseline names."""
    tokenizers = [one.price.tokenizer for one in baselines.values()]
    return TokenCounter(name for name in tokenizers if name)


def _baseline_price(name: str, baseline: Baseline, price: Price) -> TokenPrice:
    rates = _rates(name, baseline, price)
    return TokenPrice(
        rates.input_usd_per_mtok,
        rates.output_usd_per_mtok,
        baseline.characters_per_token or price.characters_per_token,
        rates.cached_input_usd_per_mtok,
        tuple(
            _tier(one.above_prompt_token_count, _rates(name, baseline, one)) for one in price.tiers
        ),
        cached_input_share=baseline.cached_input_share,
        reasoning_multiplier=baseline.reasoning_multiplier,
        tokenizer=None if baseline.characters_per_token else price.tokenizer,
    )


def _rates(name: str, baseline: Baseline, rates: StandardRates) -> Rates:
    if not baseline.batch:
        return rates
    if rates.batch is None:
        where = f" above {rates.above_prompt_token_count}" if isinstance(rates, Tier) else ""
        raise SettingsError(f"baselines.{name}.batch: {baseline.price} has no batch price{where}")
    return rates.batch


def _tier(above_prompt_token_count: int, rates: Rates) -> pricing.Tier:
    return pricing.Tier(
        above_prompt_token_count,
        rates.input_usd_per_mtok,
        rates.output_usd_per_mtok,
        rates.cached_input_usd_per_mtok,
    )


def with_imported(
    prices: PriceList | None, imported: Mapping[str, Price], as_of: date, source: str
) -> PriceList:
    """A list with imported prices; what is not imported stays, as does how tokens are counted.

    prices: None where there is no list yet.
    """
    kept = prices.prices if prices else {}
    dated = {
        name: price.model_copy(
            update={"as_of": as_of, "source": source, **_counting(kept.get(name))}
        )
        for name, price in imported.items()
    }
    return PriceList(
        as_of=prices.as_of if prices else as_of,
        source=prices.source if prices else source,
        prices=dict(sorted({**kept, **dated}.items())),
    )


def to_yaml(prices: PriceList) -> str:
    """A price file."""
    document = _plain(prices.model_dump(exclude_none=True))
    return HEADER + yaml.dump(document, Dumper=_WithoutAliases, sort_keys=False, allow_unicode=True)


class _WithoutAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def plain(amount: Decimal) -> str:
    """A decimal number without an exponent or idle zeros."""
    return format(amount.normalize(), "f")


def _counting(price: Price | None) -> dict[str, object]:
    counting = {"tokenizer", "characters_per_token", "characters_per_token_is"}
    if price is None or not counting & price.model_fields_set:
        return {}
    return price.model_dump(include=counting)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if one != ()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return plain(value) if isinstance(value, Decimal) else value
