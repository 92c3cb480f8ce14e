"""A plain OpenAI-compatible server as a member of the pool, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from pool.openai_members import (
    PRICE,
    Clock,
    answer_of,
    member_of,
    refusing,
    run_request,
    running_pool,
    until_ready,
)

from deltafleet.v1 import inference_pb2
from model_pool.engine_time import EngineTime
from model_pool.errors import (
    DeadlineExceeded,
    InvalidParameter,
    PoolSaturated,
    SpecialistUnloadable,
)
from model_pool.shared_time import SharedTime
from support.fleet import until
from support.openai_server import (
    OUTPUT_TOKEN_COUNT,
    PROMPT_TOKEN_COUNT,
    TEXTS,
    Call,
    OpenAIServer,
    openai_server,
    whole_answer,
)


@pytest_asyncio.fixture(loop_scope="session")
async def server() -> AsyncIterator[OpenAIServer]:
    """It serves `sql` as my-sql."""
    async with openai_server("my-sql", "other") as running:
        yield running


async def test_an_answer_comes_as_from_a_worker_of_ours(server: OpenAIServer) -> None:
    async with running_pool(member_of(server)) as pool:
        answer = await answer_of(
            pool, run_request(temperature=0.5, top_p=0.25, stop=["\n", ";"], seed=7)
        )

    assert tuple(one.text for one in answer) == (*TEXTS, "")
    assert not any(one.finish_reason for one in answer[:-1])
    assert [one.output_token_count for one in answer] == [1, 2, 3, OUTPUT_TOKEN_COUNT]
    assert answer[-1].prompt_token_count == PROMPT_TOKEN_COUNT
    assert answer[-1].finish_reason == inference_pb2.FINISH_REASON_STOP
    assert {one.weights_digest for one in answer} == {"openai:my-sql"}
    assert server.calls[0].body == {
        "model": "my-sql",
        "messages": [{"role": "user", "content": "How much is it?"}],
        "temperature": 0.5,
        "top_p": 0.25,
        "max_tokens": 9,
        "stop": ["\n", ";"],
        "seed": 7,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_an_answer_that_reached_its_longest_length_says_so(server: OpenAIServer) -> None:
    async def cut(call: Call) -> None:
        await call.begin()
        await call.say(*TEXTS)
        await call.end("length")

    server.answer = cut
    async with running_pool(member_of(server)) as pool:
        answer = await answer_of(pool, run_request())

    assert answer[-1].finish_reason == inference_pb2.FINISH_REASON_LENGTH
    assert not {"stop", "seed"} & set(server.calls[0].body)


async def test_no_more_tokens_are_asked_for_than_the_context_has(server: OpenAIServer) -> None:
    server.context_token_count = 5
    async with running_pool(member_of(server)) as pool:
        await answer_of(pool, run_request())

    assert server.calls[0].body["max_tokens"] == 5


def telling_probabilities(*groups: tuple[object, ...]):
    async def answer(call: Call) -> None:
        await call.begin()
        await call.say("It ")  # of this one nothing is told
        for group in groups:
            await call.tell("is.", *group)
        await call.end()

    return answer


async def say_in_old_words(call: Call) -> None:
    """As the completions that were no chats had it."""
    await call.begin()
    told = {"tokens": ["It"], "token_logprobs": [-1.0], "text_offset": [0]}
    await call.event({"choices": [{"index": 0, "delta": {"content": "It"}, "logprobs": told}]})
    await call.end()


PROBABILITIES: dict[str, tuple[Callable[[Call], Awaitable[None]], float | None]] = {
    "a token each": (telling_probabilities((-1.0,), (-2.5,)), -1.75),
    "several at once": (telling_probabilities((-1.0, -2.0, 0), (-1.0,)), -1.0),
    "above 0 by rounding": (telling_probabilities((1e-9,)), 0.0),
    "a stand-in for very improbable": (telling_probabilities((-9999.0,)), -9999.0),
    "null": (telling_probabilities((None,), (-1.0,)), None),
    "a text": (telling_probabilities(("no",)), None),
    "none of no token": (telling_probabilities(()), None),
    "other words": (say_in_old_words, None),
    "nothing": (whole_answer, None),
}


@pytest.mark.parametrize("name", sorted(PROBABILITIES))
async def test_what_a_server_tells_of_its_tokens(server: OpenAIServer, name: str) -> None:
    server.answer, expected = PROBABILITIES[name]
    async with running_pool(member_of(server)) as pool:
        told = (await answer_of(pool, run_request(wants_logprob=True)))[-1]
        untold = (await answer_of(pool, run_request()))[-1]

    assert told.finish_reason == untold.finish_reason == inference_pb2.FINISH_REASON_STOP
    assert (told.mean_logprob if told.HasField("mean_logprob") else None) == expected
    assert [call.body.get("logprobs") for call in server.calls] == [True, None]


async def test_a_server_that_refuses_logprobs_is_asked_without_them(
    server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(call: Call) -> None:
        if "logprobs" in call.body:
            await call.refuse(400, "Unrecognized request argument supplied: logprobs")
        else:
            await whole_answer(call)

    server.answer = refuse
    async with running_pool(member := member_of(server)) as pool:
        for _ in range(2):
            answer = await answer_of(pool, run_request(wants_logprob=True))
            assert "".join(one.text for one in answer) == "".join(TEXTS)
            assert not answer[-1].HasField("mean_logprob")
        assert ["logprobs" in call.body for call in server.calls] == [True, False, False]
        told = [one.model for one in caplog.records if one.message == "member_refuses_logprobs"]
        assert told == ["sql"]

        # In its next life it may know them.
        await server.stop()
        await until_ready(member, False)
        server.answer = telling_probabilities((-1.0,))
        await server.start()
        await until_ready(member)
        answer = await answer_of(pool, run_request(wants_logprob=True))
        assert answer[-1].mean_logprob == -1.0


async def test_another_refusal_is_told_as_it_is(server: OpenAIServer) -> None:
    server.answer = refusing(400, "top_p is odd; logprobs are not")
    async with running_pool(member_of(server)) as pool:
        with pytest.raises(InvalidParameter, match="top_p is odd"):
            await answer_of(pool, run_request(wants_logprob=True))
        server.answer = whole_answer
        await answer_of(pool, run_request(wants_logprob=True))

    assert ["logprobs" in call.body for call in server.calls] == [True, False, True]


async def test_the_deadline_ends_a_request_and_the_server_sees_it(server: OpenAIServer) -> None:
    gone = asyncio.Event()

    async def hang(call: Call) -> None:
        await call.until_gone()
        gone.set()

    server.answer = hang
    async with running_pool(member_of(server)) as pool:
        with pytest.raises(DeadlineExceeded):
            await answer_of(pool, run_request(), timeout_s=5)
        await gone.wait()


async def test_closing_a_stream_closes_it_on_the_server(server: OpenAIServer) -> None:
    gone = asyncio.Event()

    async def hang(call: Call) -> None:
        await call.begin()
        await call.say("It ")
        await call.until_gone()
        gone.set()

    server.answer = hang
    async with running_pool(member := member_of(server)) as pool:
        async with (
            pool.lease("sql") as lease,
            contextlib.aclosing(lease.generate(run_request(), 60)) as responses,
        ):
            assert (await anext(responses)).text == "It "
            assert member.status.running_count == 1
        await gone.wait()
        assert member.status.running_count == 0


async def test_requests_share_the_time_in_which_they_run(server: OpenAIServer) -> None:
    clock, goes_on = Clock(), asyncio.Event()

    async def wait(call: Call) -> None:
        await call.begin()
        await call.say("It ")
        await goes_on.wait()
        await call.end()

    server.answer = wait
    async with running_pool(member := member_of(server, clock=clock)) as pool:
        started_s = clock.now_s
        clock.now_s += 5  # idle
        async with pool.lease("sql") as first, pool.lease("sql") as second:
            one = first.generate(run_request(), 60)
            await anext(one)
            clock.now_s += 4  # alone
            other = second.generate(run_request(), 60)
            await anext(other)
            clock.now_s += 2  # together
            goes_on.set()
            ends = [[piece async for piece in stream][-1] for stream in (one, other)]
        clock.now_s += 1  # idle
        status = member.status

    assert [end.busy_s for end in ends] == [5, 1]
    assert status.busy_s == 6
    assert status.uptime_s == clock.now_s - started_s == 12
    assert status.price_nano_usd_per_hour == first.price_nano_usd_per_hour == PRICE


async def test_who_keeps_the_last_piece_for_long_pays_no_more(server: OpenAIServer) -> None:
    clock = Clock()
    async with running_pool(member := member_of(server, clock=clock)) as pool:
        async with pool.lease("sql") as lease:
            async for last in lease.generate(run_request(), 60):
                clock.now_s += 1 if not last.finish_reason else 100
        status = member.status

    assert status.busy_s == last.busy_s == len(TEXTS)
    assert status.uptime_s >= 100 + len(TEXTS)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1000)), max_size=40))
def test_all_shares_add_up_to_the_busy_time(steps: list[tuple[int, int]]) -> None:
    clock, shares = Clock(), []
    time = EngineTime(clock)
    shared = SharedTime(time)
    running: dict[int, tuple[object, Callable[[], float]]] = {}

    def end(request: contextlib.AbstractContextManager, share_s: Callable[[], float]) -> None:
        shares.append(share_s())
        request.__exit__(None, None, None)

    for number, milliseconds in steps:
        if number in running:
            end(*running.pop(number))
        else:
            request = shared.request()
            running[number] = (request, request.__enter__())
        clock.now_s += milliseconds / 1000
    for one in running.values():
        end(*one)

    assert sum(shares) == pytest.approx(time.spent().busy_s)


async def test_a_server_that_goes_and_comes_back_begins_a_new_life(server: OpenAIServer) -> None:
    async with running_pool(member := member_of(server)):
        first = member.status
        await server.stop()
        await until_ready(member, False)
        assert member.status is None

        await server.start()
        await until_ready(member)
        second = member.status

    assert first.incarnation != second.incarnation
    assert second.start_time.ToNanoseconds() > first.start_time.ToNanoseconds()
    assert [one.model for one in second.loaded] == ["sql"]


@pytest.mark.parametrize("models", ["<html>", "{", "[]", '{"data": ["m"]}', '{"data": [{}]}'])
async def test_what_is_no_list_of_models_is_not_ready(server: OpenAIServer, models: str) -> None:
    async with running_pool(member := member_of(server)):
        server.models = models
        member.suspect()
        seen = server.poll_count

        async def is_polled_twice() -> bool:
            return server.poll_count >= seen + 2

        await until(is_polled_twice)
        assert not member.is_ready


async def test_a_model_that_the_server_does_not_list_is_not_served(
    server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_pool(member := member_of(server, "sql", "poetry")) as pool:
        assert member.serves == {"sql"}
        assert "my-poetry" in member.descriptions["poetry"].fault
        assert not member.descriptions["sql"].fault
        with pytest.raises(SpecialistUnloadable):
            await answer_of(pool, run_request("poetry"))

        for _ in range(2):
            member.suspect()
            await until_ready(member)
        told = [one.reason for one in caplog.records if one.message == "member_fault"]
        assert told == ["it does not list my-poetry"]

        server.models = ("my-sql", "my-poetry")
        member.suspect()
        await until_ready(member)
        assert (await answer_of(pool, run_request("poetry")))[-1].finish_reason


async def test_each_model_goes_where_it_is_served(server: OpenAIServer) -> None:
    async with (
        openai_server("my-poetry") as second,
        running_pool(
            member_of(server, name="left"), member_of(second, "poetry", name="right"), limit_count=1
        ) as pool,
        pool.lease("sql") as sql,
        pool.lease("poetry") as poetry,
    ):
        assert (sql.worker, poetry.worker) == ("left", "right")
        with pytest.raises(PoolSaturated):
            async with pool.lease("sql"):
                pass
