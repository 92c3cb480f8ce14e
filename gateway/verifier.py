"""A model that is asked whether another one's answer is right."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from deltafleet.v1 import worker_pb2
from gateway.answer import AnswerPiece
from gateway.held_answer import HeldAnswer, besides
from gateway.mixture import CLOSING, QUESTION, Ask, for_model
from model_pool.errors import DeadlineExceeded, FleetError

ANSWER = "{answer}"
DEFAULT_PROMPT = (
    f"{QUESTION}\n\nSomebody has answered this as follows.\n{ANSWER}\n\n"
    "Is that answer right? Say yes or no, and nothing else."
)
LONGEST_TOKEN_COUNT = 16  # of what it says; only how that begins counts


@dataclass(frozen=True, slots=True)
class Verifier:
    """model: a specialist, or the base. accepts: what it says first of an answer that is right."""

    model: str
    prompt: str = DEFAULT_PROMPT
    accepts: Sequence[str] = ("yes",)

    def finds_right(self, text: str) -> bool:
        """Whether what it said begins with a word that accepts; case and punctuation do not count.

        Anything else, be it no verdict at all, does not.
        """
        said = _words(text)
        return any(said[: len(words)] == words for words in map(_words, self.accepts))

    def verifying(self, request: worker_pb2.RunRequest, answer: str) -> worker_pb2.RunRequest:
        """The request to the verifier: the last turn holds the question and the answer."""
        asked = for_model(request, self.model)
        asked.max_output_token_count = LONGEST_TOKEN_COUNT
        asked.temperature, asked.top_p = 0.0, 1.0
        asked.ClearField("stop")
        asked.ClearField("seed")
        asked.wants_logprob = False
        last = asked.messages[-1]
        # Each part of the template once: a question or an answer may hold the name of a part.
        before, _, after = self.prompt.partition(QUESTION)
        last.content = last.content.join(part.replace(ANSWER, answer) for part in (before, after))
        return asked


@dataclass(slots=True)
class Verification:
    """What the verifier says, or why it cannot."""

    answer: HeldAnswer = field(default_factory=HeldAnswer)
    fault: str = "it was not asked"

    async def ask(
        self, verifier: Verifier, request: worker_pb2.RunRequest, first: HeldAnswer, ask: Ask
    ) -> AsyncGenerator[AnswerPiece, None]:
        """Fill it; yields what both answers cost so far. Raises DeadlineExceeded."""
        self.fault = "its answer broke off before its end"
        try:
            asked = verifier.verifying(request, first.text)
            async with contextlib.aclosing(ask(asked)) as pieces:
                async for piece in pieces:
                    yield besides(self.answer.add(piece), first)
        except DeadlineExceeded:
            raise
        except FleetError as error:
            self.fault = str(error)
        else:
            self.fault = "" if self.answer.is_whole else self.fault


def _words(text: str) -> list[str]:
    stripped = (word.strip(CLOSING) for word in text.casefold().split())
    return [word for word in stripped if word]
