"""Tokens and seconds → money: ours and each closed baseline's. Pure.

All money is whole nano-dollars (1e-9 USD): one token at 0.05 USD per million is 50 of them. Sums
are of integers; a price is a Decimal, and each amount is rounded once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

NANO = Decimal(10**9)
TOKENS_PER_MTOK = Decimal(10**6)
SECONDS_PER_HOUR = 3600
US_PER_HOUR = 3_600_000_000


@dataclass(frozen=True, slots=True)
class TextSize:
    """How long a prompt or an answer is.

    token_counts: by tokenizer, those that were asked for.
    """

    character_count: int
    token_counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tier:
    """What every token of a request costs where its prompt is longer than so many tokens."""

    above_prompt_token_count: int
    input_usd_per_mtok: Decimal
    output_usd_per_mtok: Decimal
    cached_input_usd_per_mtok: Decimal | None = None


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """What a closed API charges, and how what it would have billed is estimated.

    cached_input_usd_per_mtok: None where its cache saves nothing. tiers: by rising prompt length.
    Of the estimate only: tokenizer (see token_counter.py; None: it is not public) and, where that
    did not count, characters_per_token; cached_input_share (0 to 1, of the prompt's tokens),
    reasoning_multiplier (output tokens billed per visible one, at least 1).
    """

    input_usd_per_mtok: Decimal
    output_usd_per_mtok: Decimal
    characters_per_token: Decimal = Decimal(4)
    cached_input_usd_per_mtok: Decimal | None = None
    tiers: tuple[Tier, ...] = ()
    cached_input_share: Decimal = Decimal(0)
    reasoning_multiplier: Decimal = Decimal(1)
    tokenizer: str | None = None

    def token_count(self, size: TextSize) -> int:
        """Its tokens for a text: as counted, else by characters, rounded up."""
        counted = size.token_counts.get(self.tokenizer or "")
        if counted is not None:
            return counted
        over, under = self.characters_per_token.as_integer_ratio()
        return -(-size.character_count * under // over)

    def cost_nano_usd(
        self, prompt_token_count: int, output_token_count: int, cached_token_count: int = 0
    ) -> int:
        """What it charges for so many of its own tokens, all of which it bills.

        cached_token_count: of the prompt's, those that its cache had.
        """
        rates = self._rates(prompt_token_count)
        cached = rates.cached_input_usd_per_mtok
        cached = rates.input_usd_per_mtok if cached is None else cached
        fresh_token_count = prompt_token_count - cached_token_count
        prompt = fresh_token_count * rates.input_usd_per_mtok + cached_token_count * cached
        output = output_token_count * rates.output_usd_per_mtok
        return to_nano_usd((prompt + output) / TOKENS_PER_MTOK)

    def estimated_cost_nano_usd(self, prompt: TextSize, output: TextSize) -> int:
        """What it would charge for texts of such sizes."""
        return self.likely_cost_nano_usd(self.token_count(prompt), self.token_count(output))

    def likely_cost_nano_usd(self, prompt_token_count: int, visible_token_count: int) -> int:
        """What it would charge for so many of its tokens, by the estimate's assumptions."""
        billed, per_visible = self.reasoning_multiplier.as_integer_ratio()
        cached, of_all = self.cached_input_share.as_integer_ratio()
        return self.cost_nano_usd(
            prompt_token_count,
            -(-visible_token_count * billed // per_visible),
            prompt_token_count * cached // of_all,
        )

    def _rates(self, prompt_token_count: int) -> TokenPrice | Tier:
        rates: TokenPrice | Tier = self
        for tier in self.tiers:
            if prompt_token_count > tier.above_prompt_token_count:
                rates = tier
        return rates


def to_nano_usd(usd: Decimal) -> int:
    """USD as whole nano-dollars."""
    return int((usd * NANO).to_integral_value(ROUND_HALF_EVEN))


def to_usd(nano_usd: int) -> Decimal:
    """Nano-dollars as USD."""
    return Decimal(nano_usd) / NANO


def time_cost_nano_usd(seconds: float, price_nano_usd_per_hour: int) -> int:
    """What so many seconds of a worker cost."""
    over, under = seconds.as_integer_ratio()
    under *= SECONDS_PER_HOUR
    whole, rest = divmod(over * price_nano_usd_per_hour, under)
    # To the nearest whole number, halves to the even one.
    return whole + (2 * rest > under or (2 * rest == under and whole % 2))


def span_cost_nano_usd(span_us: int, price_nano_usd_per_hour: int) -> int:
    """What so many microseconds of a worker cost."""
    return round(Fraction(span_us * price_nano_usd_per_hour, US_PER_HOUR))


def baseline_costs_nano_usd(
    baselines: Mapping[str, TokenPrice], prompt: TextSize, output: TextSize
) -> dict[str, int]:
    """What each baseline would have charged for the same prompt and answer."""
    return {
        name: price.estimated_cost_nano_usd(prompt, output) for name, price in baselines.items()
    }
