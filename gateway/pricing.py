"""Tokens and seconds → money: ours and each closed baseline's. Pure.

All money is whole nano-dollars (1e-9 USD): one token at 0.05 USD per million is 50 of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal

NANO = Decimal(10**9)
TOKENS_PER_MTOK = Decimal(10**6)
SECONDS_PER_HOUR = Decimal(3600)


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """What a closed API charges, and how its tokens are counted from characters."""

    input_usd_per_mtok: Decimal
    output_usd_per_mtok: Decimal
    characters_per_token: Decimal = Decimal(4)

    def token_count(self, character_count: int) -> int:
        """Its tokens for a text of so many characters, rounded up."""
        tokens = Decimal(character_count) / self.characters_per_token
        return int(tokens.to_integral_value(ROUND_CEILING))

    def cost_nano_usd(self, prompt_token_count: int, output_token_count: int) -> int:
        """What it charges for so many of its own tokens."""
        usd = (
            prompt_token_count * self.input_usd_per_mtok
            + output_token_count * self.output_usd_per_mtok
        ) / TOKENS_PER_MTOK
        return to_nano_usd(usd)


def to_nano_usd(usd: Decimal) -> int:
    """USD as whole nano-dollars."""
    return int((usd * NANO).to_integral_value(ROUND_HALF_EVEN))


def to_usd(nano_usd: int) -> Decimal:
    """Nano-dollars as USD."""
    return Decimal(nano_usd) / NANO


def time_cost_nano_usd(seconds: float, price_nano_usd_per_hour: int) -> int:
    """What so many seconds of a worker cost."""
    cost = Decimal(seconds) * price_nano_usd_per_hour / SECONDS_PER_HOUR
    return int(cost.to_integral_value(ROUND_HALF_EVEN))


def baseline_costs_nano_usd(
    baselines: Mapping[str, TokenPrice], prompt_character_count: int, output_character_count: int
) -> dict[str, int]:
    """What each baseline would have charged for the same prompt and answer."""
    return {
        name: price.cost_nano_usd(
            price.token_count(prompt_character_count), price.token_count(output_character_count)
        )
        for name, price in baselines.items()
    }
