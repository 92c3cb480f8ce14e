"""How a stub's answer comes, packed into the seed of a request, which every gateway passes on."""

from __future__ import annotations

from dataclasses import dataclass

TOKEN = " word"


@dataclass(frozen=True, slots=True)
class Pacing:
    """gap_s: seconds before each event, whole microseconds; 0: all at once."""

    tokens_per_event: int
    gap_s: float = 0.0

    @property
    def seed(self) -> int:
        """The same as one number."""
        return round(self.gap_s * 1e6) * 1000 + self.tokens_per_event


def unpacked(seed: int) -> Pacing:
    """What `Pacing.seed` packed."""
    gap_us, tokens_per_event = divmod(seed, 1000)
    return Pacing(tokens_per_event or 999, gap_us / 1e6)


def token_text(count: int) -> str:
    """Text of so many tokens."""
    return TOKEN * count
