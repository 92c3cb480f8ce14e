"""Closed APIs over real sockets, in both protocols: what is asked, heard, billed and refused."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltafleet.v1 import inference_pb2, routing_pb2, worker_pb2
from gateway.answer import AnswerPiece
from gateway.closed_apis.apis import open_closed_api
from gateway.closed_apis.client import ClosedApiClient, most_nano_usd
from gateway.closed_apis.configuration import ClosedApi
from gateway.errors import BudgetSpent, ClosedApiFailed, RedactionFailed
from gateway.pricing import Tier, TokenPrice
from gateway.spending import Budget
from model_pool.errors import PromptTooLong
from support import anthropic_server as messages
from support.openai_server import (
    OUTPUT_TOKEN_COUNT,
    PROMPT_TOKEN_COUNT,
    TEXTS,
    Call,
    OpenAIServer,
    openai_server,
    whole_answer,
)

# Ten nano-dollars per token of prompt, a hundred per token of answer, and one per cached one.
PRICE = TokenPrice(Decimal("0.01"), Decimal("0.1"), cached_input_usd_per_mtok=Decimal("0.001"))
COST = 10 * PROMPT_TOKEN_COUNT + 100 * OUTPUT_TOKEN_COUNT
KINDS = ("openai", "anthropic")
KEY = "sk-very-secret"


@contextlib.asynccontextmanager
async def asking(
    kind: str,
    budget_nano_usd: int = 10**9,
    time_left_s: float | None = None,
    **settings: object,
) -> AsyncIterator[tuple[OpenAIServer, ClosedApiClient]]:
    """A server and a client of it."""
    opened = openai_server(key=KEY) if kind == "openai" else messages.anthropic_server(KEY)
    async with opened as server:
        url = server.url if kind == "openai" else server.origin
        section = ClosedApi(
            **{"kind": kind, "base_url": url, "model": "theirs", "price": "p"}
            | {"daily_budget_usd": "1", "timeout_s": 20}
            | settings
        )
        budget = Budget("api", budget_nano_usd)
        client = open_closed_api("api", section, KEY, PRICE, budget, time_left=lambda: time_left_s)
        try:
            yield server, client
        finally:
            await client.stop()


def request(text: str = "What is it?", longest: int = 20, **fields: object):
    message = routing_pb2.ChatMessage(role=routing_pb2.ROLE_USER, content=text)
    return worker_pb2.RunRequest(
        model="api", messages=[message], max_output_token_count=longest, **fields
    )


MOST = most_nano_usd(PRICE, request().messages, 20)


async def run(client: ClosedApiClient, asked: worker_pb2.RunRequest) -> list[AnswerPiece]:
    """Every piece of an answer, or what was heard before it failed, in the failure's notes."""
    with client.reserve(asked) as reservation:
        pieces: list[AnswerPiece] = []
        try:
            async with contextlib.aclosing(client.generate(asked, reservation)) as stream:
                async for piece in stream:
                    pieces.append(piece)
        except Exception as error:
            error.pieces = pieces
            raise
    return pieces


async def failure_of(client: ClosedApiClient, asked: worker_pb2.RunRequest | None = None):
    with pytest.raises(ClosedApiFailed) as caught:
        await run(client, asked or request())
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_streams_and_costs_what_the_api_says(kind: str) -> None:
    async with asking(kind) as (server, client):
        asked = request(temperature=0.5, stop=["END"])
        pieces = await run(client, asked)
        body = server.calls[0].body

    assert [piece.text for piece in pieces if piece.text] == list(TEXTS)
    last = pieces[-1]
    assert last.finish_reason == inference_pb2.FINISH_REASON_STOP
    assert (last.prompt_token_count, last.output_token_count) == (
        PROMPT_TOKEN_COUNT,
        OUTPUT_TOKEN_COUNT,
    )
    assert last.cost_nano_usd == client.budget.spent_nano_usd == COST
    assert client.budget.held_nano_usd == 0
    # Until the bill comes, the ledger is told the most that it may be.
    assert {piece.cost_nano_usd for piece in pieces[:-1]} == {MOST}
    assert body["model"] == "theirs"
    assert body["messages"] == [{"role": "user", "content": "What is it?"}]
    if kind == "openai":
        assert (body["temperature"], body["max_completion_tokens"]) == (0.5, 20)
    else:
        assert "temperature" not in body
        assert (body["max_tokens"], body["stop_sequences"]) == (20, ["END"])


async def test_sampling_is_left_out_where_the_model_refuses_it() -> None:
    async with asking("openai", takes_sampling=False) as (server, client):
        await run(client, request(temperature=0.5, seed=1))
    assert not {"temperature", "top_p", "seed"} & set(server.calls[0].body)


async def test_a_system_message_has_a_place_of_its_own_with_anthropic() -> None:
    asked = request()
    asked.messages.insert(
        0, routing_pb2.ChatMessage(role=routing_pb2.ROLE_SYSTEM, content="Be short.")
    )
    async with asking("anthropic") as (server, client):
        await run(client, asked)
    assert server.calls[0].body["system"] == "Be short."
    assert len(server.calls[0].body["messages"]) == 1


async def cached_chat(call: Call) -> None:
    await call.begin()
    await call.say("x")
    await call.end("length", prompt_tokens_details={"cached_tokens": 8})


async def cached_message(call: Call) -> None:
    await messages.start(call, input_tokens=3, cache_read_input_tokens=8)
    await messages.say(call, "x")
    await messages.end(call, "max_tokens")


@pytest.mark.parametrize(
    ("kind", "answer"), [("openai", cached_chat), ("anthropic", cached_message)]
)
async def test_what_the_api_had_cached_is_cheaper(kind: str, answer) -> None:
    async with asking(kind) as (server, client):
        server.answer = answer
        last = (await run(client, request()))[-1]
    assert last.finish_reason == inference_pb2.FINISH_REASON_LENGTH
    assert last.prompt_token_count == 11
    assert last.cost_nano_usd == 3 * 10 + 8 * 1 + OUTPUT_TOKEN_COUNT * 100


def then(*answers: Callable[[Call], Awaitable[None]]) -> Callable[[Call], Awaitable[None]]:
    """One answer after the other."""
    left = list(answers)

    async def answer(call: Call) -> None:
        await left.pop(0)(call)

    return answer


def refusing(status: int, **headers: str) -> Callable[[Call], Awaitable[None]]:
    return lambda call: call.refuse(status, **headers)


async def dropping(call: Call) -> None:
    await call.drop()


WHOLE = {"openai": whole_answer, "anthropic": messages.whole_message}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [429, 500, 503, 529])
async def test_a_passing_refusal_is_tried_again_and_costs_nothing(kind: str, status: int) -> None:
    async with asking(kind) as (server, client):
        server.answer = then(refusing(status, retry_after="0.01"), WHOLE[kind])
        pieces = await run(client, request())
    assert len(server.calls) == 2
    assert pieces[-1].cost_nano_usd == client.budget.spent_nano_usd == COST


@pytest.mark.parametrize("kind", KINDS)
async def test_a_connection_that_breaks_before_the_first_token_is_tried_again(kind: str) -> None:
    async with asking(kind) as (server, client):
        server.answer = then(dropping, WHOLE[kind])
        pieces = await run(client, request())
    assert len(server.calls) == 2
    # Nobody knows whether the first try was billed: it is taken for billed.
    lost = MOST
    assert pieces[-1].cost_nano_usd == client.budget.spent_nano_usd == COST + lost


@pytest.mark.parametrize("kind", KINDS)
async def test_retries_end(kind: str) -> None:
    async with asking(kind, max_retries=1) as (server, client):
        server.answer = refusing(503)
        error = await failure_of(client)
    assert len(server.calls) == 2
    assert error.retry_after_s == 1.0
    assert client.budget.spent_nano_usd == client.budget.held_nano_usd == 0
    assert error.pieces[-1].cost_nano_usd == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_retry_that_the_deadline_does_not_allow_is_left_to_the_caller(kind: str) -> None:
    async with asking(kind, time_left_s=30) as (server, client):
        server.answer = refusing(429, retry_after="77")
        error = await failure_of(client)
    assert len(server.calls) == 1
    assert error.retry_after_s == 77


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_lasting_refusal_is_final_and_tells_no_secret(kind, status, caplog) -> None:
    async with asking(kind) as (server, client):
        server.answer = refusing(status, error=f"{KEY} What is it?")
        error = await failure_of(client)
    assert len(server.calls) == 1
    assert error.retry_after_s is None
    for told in (error.message, str(error.metadata), caplog.text):
        assert KEY not in told
        assert "What is it?" not in told


@pytest.mark.parametrize("kind", KINDS)
async def test_a_prompt_does_not_follow_a_redirect(kind: str) -> None:
    async with asking(kind) as (elsewhere, _), asking(kind) as (server, client):
        server.answer = refusing(307, location=f"{elsewhere.origin}{elsewhere.path}")
        error = await failure_of(client)
    assert not elsewhere.calls
    assert "status 307" in error.message
    assert client.budget.spent_nano_usd == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_prompt_that_is_too_large_is_the_callers_fault(kind: str) -> None:
    async with asking(kind) as (server, client):
        server.answer = refusing(413)
        with pytest.raises(PromptTooLong):
            await run(client, request())


async def half_chat(call: Call) -> None:
    await call.begin()
    await call.say("half")
    await call.drop()


async def half_message(call: Call) -> None:
    await messages.start(call)
    await messages.say(call, "half")
    await call.drop()


async def endless_chat(call: Call) -> None:
    await call.begin()
    await call.say("half")
    await call.close()


async def endless_message(call: Call) -> None:
    await messages.start(call)
    await messages.say(call, "half")
    await call.close()


async def overloaded_message(call: Call) -> None:
    await messages.start(call)
    await messages.say(call, "half")
    await messages.event(call, "error", error={"type": "overloaded_error", "message": "x"})
    await call.close()


async def faulty_chat(call: Call) -> None:
    await call.begin()
    await call.say("half")
    await call.event({"error": {"message": "x", "type": "server_error"}})
    await call.close()


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        *(("openai", one) for one in (half_chat, endless_chat, faulty_chat)),
        *(("anthropic", one) for one in (half_message, endless_message, overloaded_message)),
    ],
)
async def test_a_stream_that_breaks_is_no_answer_and_may_have_been_billed(kind, answer) -> None:
    async with asking(kind) as (server, client):
        server.answer = answer
        error = await failure_of(client)
    assert len(server.calls) == 1, "what has begun is not begun again"
    assert [piece.text for piece in error.pieces if piece.text] == ["half"]
    most = MOST
    assert error.pieces[-1].cost_nano_usd == client.budget.spent_nano_usd == most


def chat_usage(**usage: object) -> Callable[[Call], Awaitable[None]]:
    async def answer(call: Call) -> None:
        await call.begin()
        await call.say(*TEXTS)
        await call.end("stop", **usage)

    return answer


def message_usage(**usage: object) -> Callable[[Call], Awaitable[None]]:
    async def answer(call: Call) -> None:
        await messages.start(call)
        await messages.say(call, *TEXTS)
        await messages.end(call, **usage)

    return answer


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("openai", chat_usage(completion_tokens=None)),
        ("openai", chat_usage(prompt_tokens=-1)),
        ("openai", chat_usage(prompt_tokens="many")),
        ("openai", chat_usage(prompt_tokens_details={"cached_tokens": 12})),
        ("anthropic", message_usage(output_tokens="five")),
        ("anthropic", message_usage(output_tokens=-5)),
        ("anthropic", message_usage(input_tokens=2.5)),
    ],
)
async def test_usage_that_makes_no_sense_is_billed_at_most(kind, answer) -> None:
    async with asking(kind) as (server, client):
        server.answer = answer
        pieces = await run(client, request())
    assert "".join(piece.text for piece in pieces) == "".join(TEXTS)
    most = MOST
    assert pieces[-1].cost_nano_usd == client.budget.spent_nano_usd == most
    assert pieces[-1].output_token_count == len(TEXTS)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_api_that_says_nothing_is_given_up(kind: str) -> None:
    async with asking(kind, timeout_s=0.05, max_retries=0) as (server, client):
        server.answer = Call.until_gone
        error = await failure_of(client)
    assert "Timeout" in error.message


@pytest.mark.parametrize("kind", KINDS)
async def test_nobody_there_costs_nothing(kind: str) -> None:
    async with asking(kind, max_retries=0) as (server, client):
        await server.stop()
        await failure_of(client)
    assert client.budget.spent_nano_usd == client.budget.held_nano_usd == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_caller_who_leaves_is_billed_at_most_and_the_api_is_told(kind: str) -> None:
    async with asking(kind) as (server, client):
        gone = asyncio.Event()

        async def answer(call: Call) -> None:
            await call.begin() if kind == "openai" else await messages.start(call)
            await (call.say("x") if kind == "openai" else messages.say(call, "x"))
            await call.until_gone()
            gone.set()

        server.answer = answer
        asked = request()
        with client.reserve(asked) as reservation:
            stream = client.generate(asked, reservation)
            async with contextlib.aclosing(stream) as pieces:
                async for piece in pieces:
                    if piece.text:
                        break
        await gone.wait()
    most = MOST
    assert piece.cost_nano_usd == client.budget.spent_nano_usd == most


async def shouting(text: str) -> str:
    return text.upper()


def failing(text: str) -> str:
    raise ValueError(text)


def no_text(text: str) -> None:
    return None


async def test_what_is_redacted_never_leaves() -> None:
    patterns = [{"pattern": r"\b\d{4}\b", "with": "####"}, {"pattern": "(?i)alice", "with": "A."}]
    hook = f"{__name__}:shouting"
    async with asking("openai", redact=patterns, redact_hook=hook) as (server, client):
        asked = request("alice has 1234 marbles")
        await run(client, asked)
    assert server.calls[0].body["messages"][0]["content"] == "A. HAS #### MARBLES"
    assert asked.messages[0].content == "alice has 1234 marbles"


@pytest.mark.parametrize("hook", ["failing", "no_text"])
async def test_nothing_leaves_where_redacting_fails(hook: str) -> None:
    async with asking("openai", redact_hook=f"{__name__}:{hook}") as (server, client):
        with pytest.raises(RedactionFailed) as caught:
            await run(client, request("my secret"))
    assert not server.calls
    assert "my secret" not in caught.value.message
    assert client.budget.spent_nano_usd == client.budget.held_nano_usd == 0


async def test_redacting_may_make_a_request_too_dear() -> None:
    most = most_nano_usd(PRICE, request("a").messages, 20)
    longer = [{"pattern": "a", "with": "b" * 100}]
    async with asking("openai", budget_nano_usd=most, redact=longer) as (server, client):
        with pytest.raises(BudgetSpent):
            await run(client, request("a"))
    assert not server.calls


RATES = st.integers(0, 10**9).map(lambda units: Decimal(units).scaleb(-4))


@given(
    rates=st.lists(st.tuples(RATES, RATES, RATES), min_size=1, max_size=4),
    ends=st.sets(st.integers(1, 400), min_size=3, max_size=3),
    text=st.text(max_size=200),
    data=st.data(),
)
def test_no_bill_is_above_what_is_held(rates, ends, text: str, data) -> None:
    first, *others = [(*sorted(one[:2], reverse=True), one[2]) for one in rates]
    tiers = tuple(
        Tier(end, fresh, output, cached)
        for end, (fresh, cached, output) in zip(sorted(ends), others, strict=False)
    )
    price = TokenPrice(first[0], first[2], cached_input_usd_per_mtok=first[1], tiers=tiers)
    prompt = data.draw(st.integers(0, len(text.encode())))
    cached, output = data.draw(st.integers(0, prompt)), data.draw(st.integers(0, 20))
    most = most_nano_usd(price, request(text).messages, 20)
    assert price.cost_nano_usd(prompt, output, cached) <= most


@pytest.mark.parametrize("kind", KINDS)
async def test_256_requests_at_once_never_spend_more_than_the_budget(kind: str) -> None:
    """The server's own sum of its bills, whatever becomes of the answers."""
    most = MOST
    budget_nano_usd = 40 * most
    draw, billed = random.Random(7), [0]

    async def answer(call: Call) -> None:
        prompt, output = draw.randint(1, 60), draw.randint(1, 20)
        fate = draw.random()
        if fate < 0.1:
            await call.refuse(429, retry_after="0")
            return
        billed[0] += 10 * prompt + 100 * output
        await asyncio.sleep(draw.random() / 50)
        if kind == "openai":
            await call.begin()
            await call.say("x")
            if fate < 0.2:
                await call.drop()
                return
            await call.end(prompt_tokens=prompt, completion_tokens=output)
        else:
            await messages.start(call, input_tokens=prompt)
            await messages.say(call, "x")
            if fate < 0.2:
                await call.drop()
                return
            await messages.end(call, output_tokens=output)

    async with asking(kind, budget_nano_usd=budget_nano_usd, max_retries=1) as (server, client):
        server.answer = answer
        found = await asyncio.gather(
            *(run(client, request()) for _ in range(256)), return_exceptions=True
        )
    refused = sum(isinstance(one, BudgetSpent) for one in found)
    answered = sum(isinstance(one, list) for one in found)
    assert refused > 100
    assert answered > 20
    assert {type(one) for one in found} <= {list, BudgetSpent, ClosedApiFailed}
    assert billed[0] <= client.budget.spent_nano_usd <= budget_nano_usd
    assert client.budget.held_nano_usd == 0
    told = [one if isinstance(one, list) else getattr(one, "pieces", []) for one in found]
    assert client.budget.spent_nano_usd == sum(one[-1].cost_nano_usd for one in told if one)
