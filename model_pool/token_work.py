"""How fast an engine reads prompts and answers them: seconds and tokens, the two apart."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class TokenWork:
    """Sums since the start: what went into prompts (prefill) and into answers (decode).

    An answer's first token comes out of reading its prompt and is no decoded one. What was broken
    off, or failed, is in neither. All 0: not known. A rate is a difference of tokens over one of
    seconds.
    """

    prefill_s: float = 0.0
    prefill_token_count: int = 0
    decode_s: float = 0.0
    decode_token_count: int = 0

    def read(self, seconds: float, token_count: int) -> None:
        """Prompts' tokens were computed."""
        self.prefill_s += seconds
        self.prefill_token_count += token_count

    def answered(self, seconds: float, token_count: int) -> None:
        """Answers' tokens were computed."""
        self.decode_s += seconds
        self.decode_token_count += token_count


@dataclass(slots=True)
class TokenTime:
    """Measured seconds of one token, the newest steps counting most. 0: not measured yet."""

    forgetting: float
    seconds: float = 0.0
    token_count: float = 0.0

    @property
    def s(self) -> float:
        """Of one token."""
        return self.seconds / self.token_count if self.token_count else 0.0

    def add(self, seconds: float, token_count: int) -> None:
        """One more step. forgetting: the share of what was known that each step takes away."""
        self.seconds += seconds - self.forgetting * self.seconds
        self.token_count += token_count - self.forgetting * self.token_count
