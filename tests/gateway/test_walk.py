"""A request from the prompt to the bill, through the real door."""

from __future__ import annotations

import asyncio
import json
import random
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deltafleet.v1 import cost_pb2, fleet_pb2, inference_pb2, routing_pb2
from examples.demo.tasks import TASKS
from gateway.token_counter import TokenCounter
from merge_on_load.codecs import CODEC_NAMES
from support.fleet import Fleet, until

SEED = 4711


def problem_of(task: str) -> object:
    return TASKS[task].generate(random.Random(SEED))


@pytest.mark.parametrize("task", sorted(TASKS))
async def test_a_prompt_goes_to_the_specialist_of_its_task(fleet: Fleet, task: str) -> None:
    answer = await fleet.ask(problem_of(task).prompt)

    assert answer.decision.model == answer.decision.task == task
    assert answer.decision.kind == routing_pb2.MODEL_KIND_SPECIALIST
    assert answer.decision.reason == routing_pb2.ROUTE_REASON_CLASSIFIED
    assert answer.text


async def test_nine_in_ten_fresh_problems_are_answered_right(fleet: Fleet) -> None:
    rng = random.Random(SEED)
    problems = [(task, TASKS[task].generate(rng)) for task in sorted(TASKS) for _ in range(15)]
    answers = await asyncio.gather(*(fleet.ask(problem.prompt) for _, problem in problems))

    right = [
        TASKS[task].is_right(problem, answer.text)
        for (task, problem), answer in zip(problems, answers, strict=True)
    ]
    assert sum(right) >= 0.9 * len(right)


async def test_a_streamed_answer_is_the_unary_one_in_pieces(fleet: Fleet) -> None:
    prompt = problem_of("functions").prompt
    whole = await fleet.ask(prompt)
    streamed = await fleet.stream(prompt)

    assert streamed.text == whole.text
    assert len(streamed.texts) > 1
    assert streamed.decision.model == whole.decision.model
    assert streamed.summary.output_token_count == whole.summary.output_token_count
    assert streamed.summary.weights_digest == whole.summary.weights_digest


async def test_a_summary_says_what_was_used_and_what_it_cost(fleet: Fleet) -> None:
    prompt = problem_of("translation").prompt
    answer = await fleet.ask(prompt)
    summary = answer.summary

    assert summary.prompt_token_count > 0
    assert summary.output_token_count > 0
    assert summary.finish_reason == inference_pb2.FINISH_REASON_STOP
    assert summary.cost_nano_usd > 0
    assert summary.worker == "worker-0"
    assert 0 < summary.time_to_first_token.ToNanoseconds() <= summary.total_time.ToNanoseconds()
    baselines = {one.baseline: one.cost_nano_usd for one in summary.baselines}
    # 1 and 5 USD per million tokens of three and a half characters, rounded up.
    expected = -(-len(prompt) * 2 // 7) * 1000 + -(-len(answer.text) * 2 // 7) * 5000
    assert baselines["claude-haiku-4-5"] == expected
    # 0.25 and 2 USD per million tokens, counted with the tokenizer.
    counter = TokenCounter(["o200k_base"])
    asked = counter.prompt_size([prompt]).token_counts["o200k_base"]
    answered = counter.answer_size(answer.text).token_counts["o200k_base"]
    assert baselines["gpt-5-mini"] == asked * 250 + answered * 2000


async def test_a_pinned_model_answers_whatever_the_prompt(fleet: Fleet) -> None:
    answer = await fleet.ask(problem_of("sql").prompt, model="triage")

    assert answer.decision.model == "triage"
    assert answer.decision.reason == routing_pb2.ROUTE_REASON_PINNED


async def test_what_is_out_of_scope_goes_to_the_base(fleet: Fleet) -> None:
    answer = await fleet.ask(
        "Which glaciers of Patagonia calve into a lake?", max_output_token_count=8
    )

    assert answer.decision.model == "base"
    assert answer.decision.kind == routing_pb2.MODEL_KIND_BASE
    assert answer.decision.reason == routing_pb2.ROUTE_REASON_OUT_OF_SCOPE
    assert not answer.decision.task


async def test_a_chat_is_answered_like_a_prompt(fleet: Fleet) -> None:
    prompt = problem_of("sentiment").prompt
    by_prompt = await fleet.ask(prompt)
    by_chat = await fleet.ask(messages=[{"role": routing_pb2.ROLE_USER, "content": prompt}])

    assert by_chat.text == by_prompt.text
    assert by_chat.summary.prompt_token_count == by_prompt.summary.prompt_token_count


async def test_earlier_turns_reach_the_model(fleet: Fleet) -> None:
    prompt = problem_of("arithmetic").prompt
    alone = await fleet.ask(prompt)
    later = await fleet.ask(
        messages=[
            {"role": routing_pb2.ROLE_USER, "content": "What is 1 plus 1?"},
            {"role": routing_pb2.ROLE_ASSISTANT, "content": "1 + 1 = 2"},
            {"role": routing_pb2.ROLE_USER, "content": prompt},
        ]
    )

    assert later.decision.model == "arithmetic"
    assert later.summary.prompt_token_count > alone.summary.prompt_token_count


async def test_max_tokens_cut_the_answer(fleet: Fleet) -> None:
    answer = await fleet.ask(problem_of("functions").prompt, max_output_token_count=3)

    assert answer.summary.output_token_count == 3
    assert answer.summary.finish_reason == inference_pb2.FINISH_REASON_LENGTH


async def test_a_stop_text_ends_the_answer_before_it(fleet: Fleet) -> None:
    problem = problem_of("arithmetic")
    whole = (await fleet.ask(problem.prompt)).text
    cut = await fleet.ask(problem.prompt, stop=["="])

    assert cut.text == whole.partition("=")[0]
    assert cut.summary.finish_reason == inference_pb2.FINISH_REASON_STOP


async def test_a_seed_repeats_a_sampled_answer(fleet: Fleet) -> None:
    asked = {"model": "base", "temperature": 1.5, "max_output_token_count": 24}
    prompt = "The red house"
    first, again, other = [(await fleet.ask(prompt, seed=seed, **asked)).text for seed in (3, 3, 4)]

    assert first == again
    assert first != other


async def test_route_decides_and_explains_without_generating(fleet: Fleet) -> None:
    prompt = problem_of("sql").prompt
    decision = (await fleet.routing.Route(routing_pb2.RouteRequest(prompt=prompt))).decision

    assert decision.model == "sql"
    assert "sql" in decision.explanation
    assert decision.candidates[0].model == "sql"
    assert {one.model for one in decision.candidates} == {"base", *TASKS}
    assert [one.model for one in decision.candidates if one.qualifies] == ["sql", "base"]


async def test_generate_tells_what_was_weighed_where_asked(fleet: Fleet) -> None:
    prompt = problem_of("sql").prompt
    plain = (await fleet.ask(prompt)).decision
    told = (await fleet.ask(prompt, explain=True)).decision

    assert not plain.candidates
    assert {one.model for one in told.candidates} == {"base", *TASKS}
    assert told.candidates[0].quality > 0.9


async def test_a_quality_that_only_the_specialist_has_keeps_it(fleet: Fleet) -> None:
    request = routing_pb2.RouteRequest(
        prompt=problem_of("sql").prompt, constraints={"min_quality": 0.9}
    )
    decision = (await fleet.routing.Route(request)).decision

    assert decision.model == "sql"


async def test_models_say_how_they_are_stored_and_where_they_are_live(fleet: Fleet) -> None:
    await fleet.ask(problem_of("triage").prompt)

    async def is_live() -> bool:
        answer = await fleet.models.GetModel(fleet_pb2.GetModelRequest(model="triage"))
        return bool(answer.model.placements)

    await until(is_live)  # what a worker holds is told a moment after the answer
    answer = await fleet.models.GetModel(fleet_pb2.GetModelRequest(model="triage"))
    model = answer.model

    assert model.codec in CODEC_NAMES
    assert 0 < model.stored_size_bytes < model.full_size_bytes
    assert [place.worker for place in model.placements] == ["worker-0"]
    assert json.loads(model.lineage)
    assert not model.fault


async def test_models_come_in_pages(fleet: Fleet) -> None:
    names, token = [], ""
    while True:
        page = await fleet.models.ListModels(
            fleet_pb2.ListModelsRequest(page_size=3, page_token=token)
        )
        names += [model.name for model in page.models]
        token = page.next_page_token
        if not token:
            break

    assert names == sorted({"base", *TASKS})


async def test_the_report_is_the_sum_of_the_answers(fleet: Fleet) -> None:
    before = await _sums(fleet)
    answers = [await fleet.ask(problem_of(task).prompt) for task in sorted(TASKS)]
    after = await _sums(fleet)

    for task, answer in zip(sorted(TASKS), answers, strict=True):
        spent = answer.summary.cost_nano_usd
        assert after[task].cost_nano_usd == before[task].cost_nano_usd + spent
        assert after[task].answered_count == before[task].answered_count + 1


async def _sums(fleet: Fleet) -> dict[str, cost_pb2.CostGroup]:
    report = await fleet.costs.GetCostReport(cost_pb2.GetCostReportRequest())
    found = {task: cost_pb2.CostGroup() for task in TASKS}
    return found | {one.key["model"]: one for one in report.groups}


async def test_prometheus_is_told(fleet: Fleet) -> None:
    await fleet.ask(problem_of("entities").prompt)
    page = await asyncio.to_thread(_read, f"http://{fleet.metrics}/metrics")
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }

    def value(name: str, **labels: str) -> float:
        return samples[f"deltafleet_{name}", tuple(sorted(labels.items()))]

    labels = {"model": "entities", "reason": "classified", "outcome": "answered"}
    assert value("requests_total", **labels) >= 1
    assert value("output_tokens_total", model="entities") > 0
    assert value("cost_usd_total", model="entities") > 0
    assert value("baseline_cost_usd_total", model="entities", baseline="gpt-5-mini") > 0
    assert value("time_to_first_token_seconds_count", model="entities") >= 1
    assert value("worker_up", worker="worker-0") == 1
    states = [value("worker_seconds_total", worker="worker-0", state=state) for state in STATES]
    assert min(states) >= 0
    assert states[0] > 0


STATES = ("busy", "idle", "load")


def _read(url: str) -> str:
    with urllib.request.urlopen(url) as page:
        return page.read().decode()
