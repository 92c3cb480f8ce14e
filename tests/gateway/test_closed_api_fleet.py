"""A closed API as a fleet's fallback, over real gRPC and HTTP: its answers, failures and budget."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from grpc import StatusCode
from prometheus_client.parser import text_string_to_metric_families

from deltafleet.v1 import inference_pb2, routing_pb2
from support.closed_fleet import CACHED_NANO_USD, INPUT_NANO_USD, OUTPUT_NANO_USD, with_closed_api
from support.fleet import Fleet, refusal, running_fleet
from support.openai_server import Call, openai_server

OUT_OF_SCOPE = "Which glaciers of Patagonia calve into a lake?"
LONGEST = 8
CACHED_COUNT = 3


def asking(fleet: Fleet) -> Callable[[Call], Awaitable[None]]:
    """Answers with what the base of a running fleet says."""

    async def answer(call: Call) -> None:
        found = await fleet.ask(
            call.body["messages"][-1]["content"],
            model="base",
            max_output_token_count=call.body["max_completion_tokens"],
        )
        used = found.summary
        await call.begin()
        await call.say(*found.text)
        await call.end(
            "length",
            prompt_tokens=used.prompt_token_count,
            completion_tokens=used.output_token_count,
            prompt_tokens_details={"cached_tokens": CACHED_COUNT},
        )

    return answer


async def unavailable(call: Call) -> None:
    await call.refuse(503)


@pytest.mark.parametrize("is_broken", [False, True], ids=["answering", "broken"])
async def test_what_is_out_of_scope_goes_to_the_closed_api(
    fleet: Fleet, tmp_path: Path, is_broken: bool
) -> None:
    async with openai_server() as server:
        server.answer = unavailable if is_broken else asking(fleet)
        async with running_fleet(tmp_path, with_closed_api(tmp_path, server.url)) as escalating:
            asked = escalating.ask(OUT_OF_SCOPE, max_output_token_count=LONGEST)
            if is_broken:
                failure = await refusal(asked)
                assert failure.code is StatusCode.UNAVAILABLE
                assert failure.reason == "ERROR_REASON_CLOSED_API_FAILED"
                assert failure.metadata == {"closed_api": "mini"}
                return
            answer = await asked
            expected = await fleet.ask(OUT_OF_SCOPE, model="base", max_output_token_count=LONGEST)

    assert answer.decision.model == "mini"
    assert answer.decision.kind == routing_pb2.MODEL_KIND_CLOSED_API
    assert answer.decision.reason == routing_pb2.ROUTE_REASON_OUT_OF_SCOPE
    assert answer.text == expected.text
    used = answer.summary
    assert used.finish_reason == inference_pb2.FINISH_REASON_LENGTH
    prompt_cost = INPUT_NANO_USD * (used.prompt_token_count - CACHED_COUNT)
    prompt_cost += CACHED_NANO_USD * CACHED_COUNT
    assert used.cost_nano_usd == prompt_cost + OUTPUT_NANO_USD * used.output_token_count


async def test_256_callers_at_once_spend_at_most_the_budget_and_the_base_answers_the_rest(
    tmp_path: Path,
) -> None:
    billed = []

    async def answer(call: Call) -> None:
        tokens = 10 + len(billed) % 30, 1 + len(billed) % LONGEST
        billed.append(INPUT_NANO_USD * tokens[0] + OUTPUT_NANO_USD * tokens[1])
        await call.begin()
        await call.say("Some.")
        await call.end(prompt_tokens=tokens[0], completion_tokens=tokens[1])

    budget_nano_usd = 2_000_000
    async with openai_server() as server:
        server.answer = answer
        path = with_closed_api(tmp_path, server.url, daily_budget_usd=str(budget_nano_usd / 1e9))
        async with running_fleet(tmp_path, path, pool__max_queued_count=512) as escalating:
            asked = {"max_output_token_count": LONGEST}
            answers = await asyncio.gather(
                *(escalating.ask(OUT_OF_SCOPE, **asked) for _ in range(256))
            )
            pinned = await _until_refused(escalating)
            route = await escalating.routing.Route(routing_pb2.RouteRequest(prompt=OUT_OF_SCOPE))
            metrics = await asyncio.to_thread(_money, escalating.metrics)
        spent = sum(billed)
        async with running_fleet(tmp_path, path) as restarted:
            again = await refusal(restarted.ask(OUT_OF_SCOPE, model="mini"))

    told = [one for one in answers if one.decision.model == "mini"]
    fallen = [one for one in answers if one.decision.model == "base"]
    assert len(told) + len(fallen) == 256
    assert len(told) >= 20
    assert len(fallen) >= 20
    assert sum(one.summary.cost_nano_usd for one in told) <= spent <= budget_nano_usd
    assert len(billed) == len(server.calls)
    assert "mini is not asked" in fallen[0].decision.explanation
    assert fallen[0].decision.reason == routing_pb2.ROUTE_REASON_OUT_OF_SCOPE
    assert (route.decision.model, route.decision.reason) == ("base", fallen[0].decision.reason)
    assert metrics == {
        "deltafleet_closed_api_spent_usd_total": pytest.approx(spent / 1e9),
        "deltafleet_closed_api_held_usd": 0.0,
        "deltafleet_closed_api_daily_budget_usd": pytest.approx(budget_nano_usd / 1e9),
    }
    for failure in (pinned, again):
        assert failure.code is StatusCode.RESOURCE_EXHAUSTED
        assert failure.reason == "ERROR_REASON_BUDGET_SPENT"
        assert failure.metadata["limit_nano_usd"] == str(budget_nano_usd)
        assert 0 < failure.retry_after_s <= 86_400


def _money(address: str) -> dict[str, float]:
    """The API's metrics."""
    with urllib.request.urlopen(f"http://{address}/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
        samples = [one for family in families for one in family.samples]
    return {one.name: one.value for one in samples if one.labels == {"api": "mini"}}


async def _until_refused(fleet: Fleet):
    """Ask the API by its name for long answers until its budget is spent."""
    for _ in range(100):
        try:
            await fleet.ask(OUT_OF_SCOPE, model="mini", max_output_token_count=LONGEST)
        except grpc.aio.AioRpcError:
            break
    return await refusal(fleet.ask(OUT_OF_SCOPE, model="mini", max_output_token_count=LONGEST))
