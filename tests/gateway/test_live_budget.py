"""A closed API whose settings change while it answers: what was spent today stays spent."""

from __future__ import annotations

import asyncio
from pathlib import Path

from deltafleet.v1 import inference_pb2
from support.closed_fleet import INPUT_NANO_USD, OUTPUT_NANO_USD
from support.fleet import first_text, refusal, rest
from support.live_fleet import LiveFleet, live_fleet, small_fleet
from support.openai_server import Call, openai_server

PROMPT = "Which glaciers of Patagonia calve into a lake?"
SPENT = 10 * INPUT_NANO_USD + 2 * OUTPUT_NANO_USD


async def answer(call: Call) -> None:
    await call.begin()
    await call.say("Some.")
    await call.end(prompt_tokens=10, completion_tokens=2)


def document_of(url: str) -> dict[str, object]:
    api = {"base_url": url, "model": "m", "price": "openai/gpt-5-mini", "max_retries": 0}
    document = small_fleet("arithmetic")
    document["closed_apis"] = {"mini": api | {"daily_budget_usd": "1"}}
    return document


async def test_a_budget_goes_on_over_a_change_and_a_stream_over_its_api_s_end(
    tmp_path: Path,
) -> None:
    goes_on = asyncio.Event()

    async def answer_in_two(call: Call) -> None:
        await call.begin()
        await call.say("Some")
        await goes_on.wait()
        await call.say(" more.")
        await call.end(prompt_tokens=10, completion_tokens=2)

    async with openai_server() as server:
        server.answer = answer
        async with live_fleet(tmp_path, document_of(server.url)) as live:
            asked = {"model": "mini", "max_output_token_count": 8}
            await live.fleet.ask(PROMPT, **asked)
            await live.change(_budget("0.5"))
            assert _money(live) == (SPENT, 500_000_000)
            await live.fleet.ask(PROMPT, **asked)
            await live.change(_budget(f"{(2 * SPENT + 1) / 1e9:.9f}"))
            failure = await refusal(live.fleet.ask(PROMPT, **asked))
            assert failure.reason == "ERROR_REASON_BUDGET_SPENT"
            assert _money(live) == (2 * SPENT, 2 * SPENT + 1)

            await live.change(_budget("1"))
            server.answer = answer_in_two
            call = live.fleet.inference.StreamGenerate(
                inference_pb2.GenerateRequest(prompt=PROMPT, **asked)
            )
            text = await first_text(call)
            await live.change(lambda document: document.pop("closed_apis"))
            gone = await refusal(live.fleet.ask(PROMPT, **asked))
            assert gone.reason == "ERROR_REASON_UNKNOWN_MODEL"
            goes_on.set()
            events = await rest(call)
            assert text + "".join(event.text for event in events) == "Some more."
            assert events[-1].summary.cost_nano_usd == SPENT

            server.answer = answer
            again = document_of(server.url)["closed_apis"]
            await live.change(lambda document: document.update(closed_apis=again))
            await live.fleet.ask(PROMPT, **asked)
            assert _money(live) == (4 * SPENT, 1_000_000_000), "it is the budget from before"


def _budget(usd: str):
    return lambda document: document["closed_apis"]["mini"].update(daily_budget_usd=usd)


def _money(live: LiveFleet) -> tuple[int, int]:
    """Billed, and the budget, in nano-dollars."""
    names = ("deltafleet_closed_api_spent_usd_total", "deltafleet_closed_api_daily_budget_usd")
    spent, budget = (round(live.metric(f'{name}{{api="mini"}}') * 1e9) for name in names)
    return spent, budget
