"""deltafleet ask, deltafleet route."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import click
import grpc

from deltafleet.v1 import inference_pb2, inference_pb2_grpc, routing_pb2, routing_pb2_grpc
from gateway.commands.connection import call, json_option, plain_usd, saving, server_option, usd
from gateway.commands.decision import (
    as_dict,
    constraint_options,
    explained,
    show,
    to_constraints,
)


@click.command(epilog='Example: deltafleet ask "What is 37 plus 45?"')
@server_option
@click.option("--model", default="", help="Use this model instead of the one that fits.")
@click.option("--max-tokens", type=int, default=0, help="Longest answer, in tokens.")
@constraint_options
@click.option("--explain", is_flag=True, help="Say which models were weighed.")
@json_option
@click.argument("text")
def ask(
    server: str,
    model: str,
    max_tokens: int,
    min_quality: float | None,
    max_cost_usd: Decimal | None,
    accepts_less: bool,
    explain: bool,
    as_json: bool,
    text: str,
) -> None:
    """Answer TEXT, streaming, with the model that fits it."""
    request = inference_pb2.GenerateRequest(
        prompt=text,
        model=model,
        max_output_token_count=max_tokens,
        constraints=to_constraints(min_quality, max_cost_usd, accepts_less=accepts_less),
        explain=explain,
    )

    async def stream(channel: grpc.aio.Channel) -> dict[str, Any]:
        answer: dict[str, Any] = {"text": ""}
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        async for event in stub.StreamGenerate(request):
            _take(event, answer, explain=explain, is_quiet=as_json)
        return answer

    answer = call(server, stream)
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False))
    else:
        click.echo()
        click.echo(_in_short(answer), err=True)


def _take(
    event: inference_pb2.StreamGenerateResponse,
    answer: dict[str, Any],
    *,
    explain: bool,
    is_quiet: bool,
) -> None:
    if event.HasField("decision"):
        answer |= explained(event.decision) if explain else as_dict(event.decision)
        if explain and not is_quiet:
            show(event.decision, to_errors=True)
    elif event.HasField("summary"):
        answer |= _summarised(event.summary)
    else:
        answer["text"] += event.text
        if not is_quiet:
            click.echo(event.text, nl=False)


def _summarised(summary: inference_pb2.Summary) -> dict[str, Any]:
    return {
        "request_id": summary.request_id,
        "prompt_token_count": summary.prompt_token_count,
        "output_token_count": summary.output_token_count,
        "cost_usd": plain_usd(summary.cost_nano_usd),
        "baseline_usd": {one.baseline: plain_usd(one.cost_nano_usd) for one in summary.baselines},
        "stale_baselines": [one.baseline for one in summary.baselines if one.price_is_stale],
        "ttft_s": summary.time_to_first_token.ToNanoseconds() / 1e9,
        "total_s": summary.total_time.ToNanoseconds() / 1e9,
    }


def _flag(answer: dict[str, Any], baseline: str) -> str:
    return " (STALE price)" if baseline in answer["stale_baselines"] else ""


def _in_short(answer: dict[str, Any]) -> str:
    cost = round(answer["cost_usd"] * 1e9)
    savings = ", ".join(
        f"{saving(cost, round(theirs * 1e9))} less than {name}{_flag(answer, name)}"
        for name, theirs in answer["baseline_usd"].items()
    )
    return (
        f"[{answer['model']}, {answer['output_token_count']} tokens in {answer['total_s']:.2f} s, "
        f"{usd(cost)} USD{': ' if savings else ''}{savings}]"
    )


@click.command(epilog='Example: deltafleet route "Translate into Spanish: the red house"')
@server_option
@constraint_options
@json_option
@click.argument("text")
def route(
    server: str,
    min_quality: float | None,
    max_cost_usd: Decimal | None,
    accepts_less: bool,
    as_json: bool,
    text: str,
) -> None:
    """Say which model TEXT would go to, and why, without answering it."""
    request = routing_pb2.RouteRequest(
        prompt=text,
        constraints=to_constraints(min_quality, max_cost_usd, accepts_less=accepts_less),
    )

    async def decide(channel: grpc.aio.Channel) -> routing_pb2.Decision:
        return (await routing_pb2_grpc.RoutingServiceStub(channel).Route(request)).decision

    decision = call(server, decide)
    if as_json:
        click.echo(json.dumps(explained(decision), ensure_ascii=False))
    else:
        show(decision)
