"""deltafleet plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from gateway.commands import plan_capacity, plan_traffic
from gateway.commands.connection import json_option
from gateway.commands.plan_fleet import fleet_of, preset_of, repeated
from gateway.commands.plan_question import LEDGER, read_question
from model_pool import capacity
from model_pool.capacity import CARDS, GIB, PRESETS, Limits
from model_pool.settings import SettingsError

FLEET = click.Path(exists=True, dir_okay=False, path_type=Path)


def traffic_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What only --traffic asks for."""
    for option in reversed(
        [
            click.option(
                "--traffic",
                metavar="T",
                help="Plan for it: requests a day, spread evenly; a traffic file (see README); or "
                f"'{LEDGER}', what FLEET's ledger saw.",
            ),
            click.option(
                "--days",
                type=click.IntRange(1),
                default=7,
                show_default=True,
                help="Of the ledger.",
            ),
            click.option(
                "--peak", type=click.FloatRange(1), help="Busiest time over average.  [T's; 3]"
            ),
            click.option(
                "--usd-per-hour",
                "hourly",
                multiple=True,
                metavar="GPU=USD",
                help="May be repeated.  [FLEET's hardware; else a typical price, which is told]",
            ),
            click.option(
                "--headroom",
                type=click.FloatRange(0),
                default=0.25,
                show_default=True,
                help="Accelerators beyond those planned, as a share.",
            ),
            click.option(
                "--baseline",
                "baselines",
                multiple=True,
                metavar="PRICE",
                help="A key of the price file, to compare with; may be repeated.  [FLEET's]",
            ),
            click.option(
                "--plot",
                type=click.Path(dir_okay=False, path_type=Path),
                help="Draw USD a month by requests a day, as .svg, .png or .pdf.",
            ),
        ]
    ):
        command = option(command)
    return command


@click.command(
    epilog="Example: deltafleet plan fleet.yaml, or: deltafleet plan --model mistral-7b "
    "--specialists 100"
)
@click.argument("fleet", type=FLEET, required=False)
@click.option("--model", type=click.Choice(list(PRESETS)), help="A shape, in place of FLEET.")
@click.option(
    "--codec",
    help="Of the deltas of --model, as pack takes it, such as sparse:keep=32.  [onebit]",
)
@click.option("--specialists", type=click.IntRange(1), help="How many.  [FLEET's; 20 with --model]")
@click.option(
    "--gpu",
    "gpus",
    multiple=True,
    type=click.Choice(list(CARDS), case_sensitive=False),
    help="May be repeated.  [all]",
)
@click.option(
    "--context", type=click.IntRange(2), help="Tokens.  [FLEET's or its base's; 4096 with --model]"
)
@click.option(
    "--contexts",
    type=click.IntRange(1),
    help="Full contexts for which the KV cache is to have room, before base and deltas.  [8]",
)
@click.option(
    "--host-memory",
    type=click.FloatRange(0),
    default=capacity.DEFAULT_HOST_MEMORY_BYTES / GIB,
    show_default=True,
    help="GiB that base and deltas may take.",
)
@traffic_options
@json_option
def plan(
    fleet: Path | None,
    model: str | None,
    codec: str | None,
    specialists: int | None,
    gpus: tuple[str, ...],
    context: int | None,
    contexts: int | None,
    host_memory: float,
    as_json: bool,
    traffic: str | None,
    days: int,
    peak: float | None,
    hourly: tuple[str, ...],
    headroom: float,
    baselines: tuple[str, ...],
    plot: Path | None,
) -> None:
    """Say how many specialists fit on an accelerator with vLLM; start nothing.

    Sizes are those of FLEET's files, or of a model's shape. With --traffic: how many accelerators
    it needs, which specialists share one, and what that costs beside closed APIs.
    """
    if (fleet is None) == (model is None):
        raise click.UsageError("give either FLEET or --model")
    if fleet and codec:
        raise click.UsageError("--codec is for --model: a delta in FLEET has its own")
    wanted = fleet_of(fleet) if fleet else preset_of(str(model), codec or "onebit")
    deltas = repeated(wanted.deltas, specialists or wanted.specialist_count)
    limits = Limits(
        context_token_count=context or wanted.context_token_count,
        context_count=contexts or wanted.context_count or capacity.DEFAULT_CONTEXT_COUNT,
        host_memory_bytes=int(host_memory * GIB),
        share=wanted.share,
    )
    cards = [CARDS[gpu.lower()] for gpu in gpus or tuple(CARDS)]
    if traffic is None:
        plans = [capacity.plan(card, wanted.model, deltas, limits) for card in cards]
        if as_json:
            click.echo(json.dumps(plan_capacity.as_dict(wanted, deltas, plans)))
        else:
            click.echo("\n".join(plan_capacity.in_words(wanted, deltas, plans)))
        return
    try:
        question = read_question(
            wanted,
            deltas,
            limits,
            traffic=traffic,
            days=days,
            peak_factor=peak,
            hourly=hourly,
            headroom=headroom,
            baselines=baselines,
        )
    except SettingsError as error:
        raise click.ClickException(str(error)) from None
    made = plan_traffic.bills(question, cards)
    if plot:
        plan_traffic.draw(question, made, plot)
    if as_json:
        click.echo(json.dumps(plan_traffic.as_dict(question, made)))
    else:
        console = Console(soft_wrap=False)
        for line in plan_traffic.in_words(question, made):
            console.print(line, highlight=False)
