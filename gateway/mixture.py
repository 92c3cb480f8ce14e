"""Several specialists answer one prompt at once; a vote, or an aggregator, makes one answer of it.

The second is a layer of a mixture of agents (Wang et al. 2024, arXiv:2406.04692).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from deltafleet.v1 import inference_pb2, worker_pb2
from gateway.answer import AnswerPiece
from gateway.errors import BudgetSpent
from gateway.held_answer import HeldAnswer
from gateway.router import Contribution, Route
from model_pool.errors import WorkerLost

VOTE = "vote"
QUESTION, ANSWERS = "{question}", "{answers}"
DEFAULT_PROMPT = (
    f"{QUESTION}\n\nOthers have answered this as follows; some of them may be wrong.\n"
    f"{ANSWERS}\n\nGive the one best answer, and nothing else."
)
# What an answer's last character may be without making it another answer.
CLOSING = " \t\r\n.,;:!?\"'"
Ask = Callable[[worker_pb2.RunRequest], AsyncGenerator[AnswerPiece, None]]


@dataclass(frozen=True, slots=True)
class Mixture:
    """specialists: two or more; a closed API may be one. aggregator: None for a vote.

    prompt: what the aggregator is asked.
    """

    specialists: tuple[str, ...]
    aggregator: str | None
    prompt: str = DEFAULT_PROMPT


def normalised(text: str) -> str:
    """Two answers are the same where this is: case, spaces and closing marks do not count."""
    return " ".join(text.casefold().split()).strip(CLOSING)


def vote(answers: Sequence[str]) -> int:
    """The place of the answer that most gave, in the words of the first who did.

    Between answers with as many voices the one that was given first in the list wins.
    """
    voices = [normalised(text) for text in answers]
    return max(range(len(voices)), key=lambda place: (voices.count(voices[place]), -place))


def aggregating(
    request: worker_pb2.RunRequest, mixture: Mixture, answers: Sequence[str]
) -> worker_pb2.RunRequest:
    """The request to the aggregator: the last turn holds the question and the answers."""
    assert mixture.aggregator is not None, "no vote"
    asked = for_model(request, mixture.aggregator)
    numbered = "\n".join(f"{place}. {text}" for place, text in enumerate(answers, 1))
    last = asked.messages[-1]
    # Each part of the template once: a question may hold braces, or the name of a part.
    before, _, after = mixture.prompt.partition(QUESTION)
    parts = (part.replace(ANSWERS, numbered) for part in (before, after))
    last.content = last.content.join(parts)
    return asked


def mixed(route: Route, held: Mapping[str, HeldAnswer], refusals: Sequence[BudgetSpent]) -> Route:
    """The route, with who answered, and why others did not."""
    told = [Contribution(name, one.cost_nano_usd) for name, one in held.items()]
    explanation = "; ".join([route.explanation, *map(str, refusals)])
    return replace(route, explanation=explanation, contributions=tuple(told))


def for_model(request: worker_pb2.RunRequest, model: str) -> worker_pb2.RunRequest:
    """A copy of it for another model."""
    asked = worker_pb2.RunRequest()
    asked.CopyFrom(request)
    asked.model = model
    return asked


async def ask_all(
    ask: Ask, request: worker_pb2.RunRequest, held: Mapping[str, HeldAnswer]
) -> AsyncGenerator[AnswerPiece, None]:
    """Ask each model that is a key of `held` at once, and fill it.

    Yields what all of them cost so far, without text. The first failure ends the others and is
    raised, as WorkerLost where an answer has no end.
    """
    heard = asyncio.Event()

    async def hear(model: str, answer: HeldAnswer) -> None:
        async with contextlib.aclosing(ask(for_model(request, model))) as pieces:
            async for piece in pieces:
                answer.add(piece)
                heard.set()
        if not answer.is_whole:
            raise WorkerLost(f"the answer of {model} broke off before its end")

    tasks = [asyncio.create_task(hear(*one), name=f"ask {one[0]}") for one in held.items()]
    for task in tasks:
        task.add_done_callback(lambda _: heard.set())
    try:
        while not all(task.done() for task in tasks):
            await heard.wait()
            heard.clear()
            yield costs_of(held)
            for task in tasks:
                if task.done():
                    task.result()
        for task in tasks:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def costs_of(held: Mapping[str, HeldAnswer]) -> AnswerPiece:
    """What these answers cost so far, and nothing else of them."""
    return AnswerPiece(
        text="",
        prompt_token_count=0,
        output_token_count=0,
        cost_nano_usd=sum(one.cost_nano_usd for one in held.values()),
        finish_reason=inference_pb2.FINISH_REASON_UNSPECIFIED,
        busy_s=sum(one.busy_s for one in held.values()),
    )
