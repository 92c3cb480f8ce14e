"""An answer that the caller does not see yet."""

from __future__ import annotations

from dataclasses import replace

from deltafleet.v1 import inference_pb2
from gateway.answer import AnswerPiece


class HeldAnswer:
    """Pieces of an answer as they come."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self.last: AnswerPiece | None = None

    def add(self, piece: AnswerPiece) -> AnswerPiece:
        """Take a piece; returns what all cost so far, for the ledger, and nothing else of it."""
        self._texts.append(piece.text)
        self.last = piece
        return AnswerPiece(
            text="",
            prompt_token_count=0,
            output_token_count=0,
            cost_nano_usd=piece.cost_nano_usd,
            finish_reason=inference_pb2.FINISH_REASON_UNSPECIFIED,
            busy_s=piece.busy_s,
        )

    @property
    def is_whole(self) -> bool:
        """Whether its end has come."""
        return self.last is not None and bool(self.last.finish_reason)

    @property
    def text(self) -> str:
        """All of it up to now."""
        return "".join(self._texts)

    @property
    def cost_nano_usd(self) -> int:
        """What it cost up to now."""
        return self.last.cost_nano_usd if self.last else 0

    @property
    def busy_s(self) -> float:
        """What it computed up to now."""
        return self.last.busy_s if self.last else 0.0

    def released(self) -> AnswerPiece:
        """The whole answer as one piece."""
        assert self.last is not None, "it is whole"
        return replace(self.last, text=self.text)


def besides(piece: AnswerPiece, *others: HeldAnswer) -> AnswerPiece:
    """The piece, charged with what other answers to the same request cost."""
    return replace(
        piece,
        cost_nano_usd=piece.cost_nano_usd + sum(one.cost_nano_usd for one in others),
        busy_s=piece.busy_s + sum(one.busy_s for one in others),
    )
