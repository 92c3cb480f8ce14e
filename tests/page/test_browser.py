"""The page of a fleet that answers, in a real browser."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import urllib.request
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest
import pytest_asyncio
import yaml
from page.browser import Look, looking

from deltafleet.v1 import cost_pb2, inference_pb2
from examples.demo import plan
from examples.demo.tasks import TASKS
from merge_on_load import Delta
from support.fleet import REPO, Fleet, first_text, running_fleet

HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=alert(1)>"
CALLER = "<b>shop</b> & \"sons\" <script src='//evil.example'></script>"
# Words that nothing else on the page has; no number, for the page's hold any digits.
SECRET = "Zanzibar quokka marzipan"
REQUEST_COUNT = 3 * len(TASKS) + 3
# By the plot of requests, and by the last row of the table of money.
COUNTED = "Chart.getChart('routing-models').data.datasets.flatMap((one) => one.data)"
COUNTED += ".reduce((sum, one) => sum + one, 0)"
PAID = "document.querySelector('#money-models tr:last-child td')?.textContent"
PLOTS = {
    *("money-hour", "money-hour-parts", "money-days", "money-day-parts"),
    *("routing-models", "routing-similarity"),
    *("latency-first", "latency-total", "throughput"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def seen(
    tmp_path_factory: pytest.TempPathFactory, long_request: inference_pb2.GenerateRequest
) -> AsyncIterator[tuple[Fleet, Look]]:
    """A fleet of this module's own after all kinds of requests, and a browser that saw them."""
    directory = tmp_path_factory.mktemp("page")
    async with (
        running_fleet(
            directory,
            specialists__sql__description=HOSTILE,
            prices__file=str(old_prices(directory)),
        ) as fleet,
        looking(fleet.metrics) as look,
    ):
        await look.until("document.querySelector('#recent .empty')")
        await look.until("document.querySelector('#money-models .empty')")  # a moment later
        look.at_first = await look.page.locator("main").inner_text()
        look.answers = await traffic(fleet, long_request)
        await look.until(f"({COUNTED}) === {REQUEST_COUNT}")
        await look.until(f"document.querySelector('#recent').rows.length > {REQUEST_COUNT}")
        await look.until(f"({PAID}) === '{REQUEST_COUNT}'")
        yield fleet, look
        assert await fleet.stop() == 0, "somebody who looks does not keep it from stopping"


def old_prices(directory: Path) -> Path:
    """The price list, with one price that nobody has looked at for years."""
    prices = yaml.safe_load((REPO / "gateway" / "prices.yaml").read_text())
    prices["prices"]["openai/gpt-5-mini"]["as_of"] = "2020-01-01"
    file = directory / "prices.yaml"
    file.write_text(yaml.safe_dump(prices))
    return file


async def traffic(fleet: Fleet, long_request: inference_pb2.GenerateRequest) -> list[str]:
    """Requests of every task, one out of scope, one from a strange caller, one that is cancelled.

    Returns the answers' texts.
    """
    rng = random.Random(6)
    prompts = [TASKS[task].generate(rng).prompt for task in sorted(TASKS) for _ in range(3)]
    answers = await asyncio.gather(*map(fleet.ask, [*prompts, f"Write a poem about the {SECRET}"]))
    request = inference_pb2.GenerateRequest(prompt=f"Translate into Spanish: the red {SECRET}")
    await fleet.inference.Generate(request, metadata=(("deltafleet-caller", CALLER),))
    call = fleet.inference.StreamGenerate(long_request)
    await first_text(call)
    call.cancel()
    return [one.text for one in answers]


async def told(fleet: Fleet, path: str) -> str:
    def read() -> str:
        with urllib.request.urlopen(f"http://{fleet.metrics}/page/{path}") as answer:
            return answer.read().decode()

    return await asyncio.to_thread(read)


async def test_before_the_first_request_it_says_what_to_do(seen: tuple[Fleet, Look]) -> None:
    _, look = seen
    assert look.at_first.count('No requests yet: deltafleet ask "What is 37 plus 45?"') >= 4
    assert "NaN" not in look.at_first and "undefined" not in look.at_first


async def test_every_plot_is_drawn(seen: tuple[Fleet, Look]) -> None:
    _, look = seen
    plots = await look.plots()

    assert set(plots) == PLOTS
    for name, plot in plots.items():
        assert plot["valueCount"] > 0, name
        assert plot["colorCount"] > 5, f"{name} is blank"
        assert plot["told"], f"{name} says nothing to a screen reader"


async def test_plots_compare_with_every_baseline(seen: tuple[Fleet, Look]) -> None:
    _, look = seen
    plots = await look.plots()
    ours = ["ours, requests", "ours, with idle and loading"]

    for name in ("money-hour", "money-days"):
        assert plots[name]["series"] == [
            *ours,
            "claude-haiku-4-5",
            "gpt-5-mini (STALE)",
        ]
    for name in ("money-hour-parts", "money-day-parts"):
        assert {"requests", "loading weights", "idle"} <= set(plots[name]["series"])
    assert set(plots["routing-models"]["series"]) == {"base", *TASKS}


async def test_the_tables_have_the_fleet(seen: tuple[Fleet, Look]) -> None:
    _, look = seen
    models = {row[0]: row for row in await look.table("models")}
    (worker,) = await look.table("workers")

    assert set(models) == {"base", *TASKS}
    assert models["sql"][1] == Delta.open(plan.delta_dir("sql")).codec
    stored_kib = Delta.open(plan.delta_dir("triage")).size_bytes / 1024
    assert models["triage"][2] == f"{stored_kib:.1f} KiB of 5.8 MiB"
    assert all(row[3] == "worker-0" for row in models.values())
    assert worker[:4] == ["worker-0", "ready", "transformers", "$0.05/h"]


async def test_the_family_is_drawn(seen: tuple[Fleet, Look]) -> None:
    _, look = seen
    boxes = await look.page.locator("#family .node.live title").all_text_contents()
    lines = await look.page.locator("#family li").all_text_contents()

    assert {one.partition(":")[0] for one in boxes} == {"base", *TASKS}
    codec = Delta.open(plan.delta_dir("sql")).codec
    assert f"sql: made from base, {codec}" in lines and len(lines) == len(TASKS)
    assert await look.page.locator("#family path").count() == len(TASKS)


async def test_money_is_the_ledgers(seen: tuple[Fleet, Look]) -> None:
    fleet, look = seen
    state = json.loads(await told(fleet, "state.json"))
    rows = {row[0]: row for row in await look.table("money-models")}
    report = await fleet.costs.GetCostReport(cost_pb2.GetCostReportRequest())

    assert set(rows) == {"base", "all", *TASKS}
    total = state["money"]["total"]
    assert total["requests"] == report.total.request_count == int(rows["all"][1])
    assert Decimal(total["cost_usd"]) * 10**9 == report.total.cost_nano_usd
    assert await _title(look, "#money-models tr:last-child td:nth-child(4)") == (
        f"{total['cost_usd']} USD"
    )


async def _title(look: Look, selector: str) -> str | None:
    return await look.page.locator(selector).get_attribute("title")


async def test_an_old_price_is_flagged(seen: tuple[Fleet, Look]) -> None:
    _, look = seen
    tiles = look.page.locator("#tiles li")
    stale = tiles.filter(has=look.page.locator(".stale:visible"))
    ages = {row[0]: row[3] for row in await look.table("money-baselines")}

    assert await stale.locator(".name").all_text_contents() == ["Saved on gpt-5-mini" + "STALE"]
    assert ages["gpt-5-mini"].endswith(", STALE")
    assert "STALE" not in ages["claude-haiku-4-5"]
    for table in ("money-models", "recent"):
        titles = await look.page.locator(f"#{table} thead").inner_text()
        assert "gpt-5-mini (STALE)" in titles and "haiku-4-5 (STALE)" not in titles


async def test_recent_requests_say_how_they_were_routed(seen: tuple[Fleet, Look]) -> None:
    _, look = seen
    rows = await look.table("recent")
    ends = {row[8] for row in rows}

    assert len(rows) == REQUEST_COUNT
    assert {row[4] for row in rows} == {"base", *TASKS}
    assert {"classified", "out of scope", "pinned"} <= {row[5] for row in rows}
    assert {"static"} <= {row[6] for row in rows}
    assert ends == {"answered", "cancelled"}


async def test_no_prompt_and_no_answer_is_anywhere(
    seen: tuple[Fleet, Look], long_request: inference_pb2.GenerateRequest
) -> None:
    fleet, look = seen
    everything = [await told(fleet, "state.json"), await told(fleet, "history.json")]
    everything.append(await look.page.content())
    long_answers = [one for one in look.answers if len(one) > 12]

    assert long_answers
    for text in everything:
        prompts = (long_request.prompt[:9], "Translate into Spanish")  # not even their begin
        for word in (*SECRET.split(), *prompts, *long_answers):
            assert word not in text


async def test_hostile_names_are_text(seen: tuple[Fleet, Look]) -> None:
    _, look = seen
    models = {row[0]: row for row in await look.table("models")}
    callers = {row[2] for row in await look.table("recent")}

    assert models["sql"][6] == HOSTILE
    assert CALLER[:80] in callers
    assert await look.page.title() == "deltafleet"
    assert await look.page.locator("main script, main img, main b:not(figcaption b)").count() == 0


async def test_nobody_else_is_asked_and_nothing_is_complained_of(
    seen: tuple[Fleet, Look],
) -> None:
    fleet, look = seen
    assert {one.split("/")[2] for one in look.asked} == {fleet.metrics}
    assert look.said == []


async def test_nobody_is_asked_while_nobody_looks(seen: tuple[Fleet, Look]) -> None:
    fleet, _ = seen
    async with looking(fleet.metrics) as look:
        page = look.page
        await page.evaluate("Object.defineProperty(document, 'hidden', {get: () => window.away})")
        await page.evaluate(
            "window.away = true; document.dispatchEvent(new Event('visibilitychange'))"
        )
        await page.clock.install()  # only now: what it brings cannot clear the timers before it
        await page.wait_for_load_state("networkidle")
        before = len(look.asked)
        await page.clock.run_for(60_000)
        assert len(look.asked) == before
        async with page.expect_request("**/page/state.json"):
            await page.evaluate(
                "window.away = false; document.dispatchEvent(new Event('visibilitychange'))"
            )


async def test_a_gateway_that_is_out_of_reach_is_said_to_be(seen: tuple[Fleet, Look]) -> None:
    fleet, _ = seen
    async with looking(fleet.metrics) as look:
        await look.page.context.set_offline(True)
        await look.until("!document.getElementById('banner').hidden")
        assert "has not answered since" in await look.page.locator("#banner").inner_text()
        assert len(await look.table("models")) == len(TASKS) + 1
        await look.page.context.set_offline(False)
        await look.until("document.getElementById('banner').hidden")


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1440, "dark")])
async def test_it_fits_a_phone_and_the_night(
    seen: tuple[Fleet, Look], width: int, scheme: str
) -> None:
    fleet, _ = seen
    async with looking(fleet.metrics, width=width, scheme=scheme) as look:
        await look.until("Chart.getChart('throughput').data.datasets[0]?.data.length")
        wide = await look.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width
        dark = await look.page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every((c) => c < 64)"
        )
        assert dark == (scheme == "dark")
        assert look.said == []


async def test_every_text_can_be_read_by_eye(seen: tuple[Fleet, Look]) -> None:
    """WCAG's contrast of 4.5, for every colour of text on every ground that it stands on."""
    fleet, _ = seen
    for scheme in ("light", "dark"):
        async with looking(fleet.metrics, scheme=scheme) as look:
            weak = await look.page.evaluate(CONTRAST)
            assert weak == []


CONTRAST = """() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (text) => {
    const [r, g, b] = numbers(text).map((part) => part / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const color = getComputedStyle(one).backgroundColor;
      if ((numbers(color)[3] ?? 1) > 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const weak = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim();
    const element = walker.currentNode.parentElement;
    if (!text || element.closest("script, noscript, svg, .skip")) continue;
    const pair = [light(getComputedStyle(element).color), light(ground(element))];
    const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (contrast < 4.5) weak.add(`${text.slice(0, 30)}: ${contrast.toFixed(2)}`);
  }
  return [...weak];
}"""


async def test_everything_can_be_reached_by_keyboard(seen: tuple[Fleet, Look]) -> None:
    _, look = seen
    await look.page.locator("body").focus()
    reached = []
    for _ in range(14):
        await look.page.keyboard.press("Tab")
        reached.append(
            await look.page.evaluate(
                "document.activeElement.ariaLabel || document.activeElement.textContent"
            )
        )
    assert reached[0] == "To the content"
    assert {"Money", "Workers", "Models", "Family tree", "Recent requests"} <= set(reached)


async def test_a_killed_worker_is_shown_and_comes_back(seen: tuple[Fleet, Look]) -> None:
    fleet, look = seen
    state = "document.querySelector('#workers tbody td')"
    (pid,) = fleet.worker_pids()
    os.kill(pid, signal.SIGKILL)

    await look.until(f"{state}.textContent === 'out of reach'")
    await look.until(
        "document.querySelector('#models tbody').rows[0].cells[3].textContent.length === 1"
    )
    assert await look.page.locator("#tiles li").last.locator(".value").inner_text() == "0 of 1"
    await look.until(f"{state}.textContent === 'ready'")
    assert look.said == []
