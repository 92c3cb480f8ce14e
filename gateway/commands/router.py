"""deltafleet router fit, router eval, router predict."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.routing.head import BadRouter
from gateway.routing.labelled import OUT_OF_SCOPE, BadLabels, read_labelled, read_texts

if TYPE_CHECKING:
    from gateway.routing.onnx_encoder import OnnxEncoder
    from gateway.routing.task_router import TaskRouter

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
_ENCODER = click.option("--encoder", help="A sentence-transformers name or path; default: MiniLM.")


@click.group(epilog="Example: deltafleet router fit prompts.jsonl --out router")
def router() -> None:
    """Learn which task a prompt belongs to, from labelled prompts."""


@router.command("fit", epilog="Example: deltafleet router fit prompts.jsonl --out router")
@click.argument("labelled", type=_FILE)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new directory.")
@_ENCODER
@click.option("--library/--no-library", default=True, help="Learn from ours for the usual tasks.")
@click.option(
    "--expected-out-of-scope",
    default=0.05,
    type=click.FloatRange(0, 1),
    show_default=True,
    help="The share of requests that no task is for.",
)
@click.option(
    "--static-accuracy",
    default=0.985,
    type=click.FloatRange(0, 1),
    show_default=True,
    help="Asked of what the static step decides alone; the rest goes to the encoder.",
)
def fit_command(
    labelled: Path,
    out: Path,
    encoder: str | None,
    library: bool,
    expected_out_of_scope: float,
    static_accuracy: float,
) -> None:
    """Fit a router to LABELLED, lines of {"text": ..., "task": ...}."""
    from gateway.routing.encoder_files import kept
    from gateway.routing.gloss import Gloss
    from gateway.routing.onnx_encoder import OnnxEncoder
    from gateway.routing.task_router import TaskRouter, static_of
    from merge_on_load.aside import written_aside
    from merge_on_load.errors import MergeError

    try:
        prompts = read_labelled(labelled)
        place = kept(encoder)
        fitted = TaskRouter.fit(
            prompts,
            OnnxEncoder(place, os.cpu_count() or 1),
            static_of(place),
            Gloss(),
            with_library=library,
            expected_out_of_scope=expected_out_of_scope,
            static_accuracy=static_accuracy,
        ).fitted
        with written_aside(out) as directory:
            fitted.save(directory, place)
    except (BadLabels, BadRouter, MergeError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{out}: {len(fitted.tasks)} tasks")
    show(fitted.facts["held_out"])


@router.command("eval", epilog="Example: deltafleet router eval router unseen.jsonl --json")
@click.argument("router_dir", type=_DIRECTORY)
@click.argument("labelled", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Figures and the reliability diagram.")
def eval_command(router_dir: Path, labelled: Path, as_json: bool) -> None:
    """Measure a router on labelled prompts that it has not seen."""
    from gateway.routing.scoring import bins_of

    try:
        made, encoder = _open(router_dir)
        prompts = read_labelled(labelled)
        unknown = {one.task for one in prompts} - {*made.fitted.tasks, OUT_OF_SCOPE}
        if unknown:
            raise BadLabels(f"{labelled}: tasks that the router does not know: {sorted(unknown)}")
    except (BadLabels, BadRouter, OSError) as error:
        raise click.ClickException(str(error)) from error
    decisions = made.decide_all([one.text for one in prompts], encoder)
    truth = [one.task for one in prompts]
    found = made.measure(decisions, truth)
    if as_json:
        diagram = [asdict(one) for one in bins_of(decisions, truth)]
        click.echo(json.dumps({**found, "reliability": diagram}, indent=1))
    else:
        show(found)


@router.command("predict", epilog="Example: deltafleet router predict router prompts.jsonl")
@click.argument("router_dir", type=_DIRECTORY)
@click.argument("prompts", type=_FILE)
def predict_command(router_dir: Path, prompts: Path) -> None:
    """Decide on each line of PROMPTS, {"text": ...}, one after the other."""
    try:
        (made, encoder), texts = _open(router_dir), read_texts(prompts)
    except (BadLabels, BadRouter, OSError) as error:
        raise click.ClickException(str(error)) from error
    for text in texts:
        began = time.perf_counter()
        decision = made.decide(text, encoder)
        taken = time.perf_counter() - began
        told = {
            "task": decision.task,
            "probability": round(decision.probability, 6),
            "runner_up": decision.runner_up,
            "in_scope": decision.is_in_scope,
            "decided_by": decision.decided_by,
            "decision_us": round(taken * 1e6, 1),
        }
        click.echo(json.dumps(told, ensure_ascii=False))


@router.command("encoder", epilog="Example: deltafleet router encoder --out encoder")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new directory.")
@_ENCODER
def encoder_command(out: Path, encoder: str | None) -> None:
    """Write the encoder's files, for a place that cannot prepare them: an image, or offline.

    `routing: {encoder: DIRECTORY}` uses them.
    """
    from gateway.routing.encoder_files import kept
    from merge_on_load.aside import written_aside
    from merge_on_load.errors import MergeError

    try:
        with written_aside(out) as directory:
            # Plain files: the kept ones may be for their owner alone.
            shutil.copytree(
                kept(encoder), directory, copy_function=shutil.copyfile, dirs_exist_ok=True
            )
    except (BadRouter, MergeError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _open(directory: Path) -> tuple[TaskRouter, OnnxEncoder]:
    from gateway.routing.onnx_encoder import OnnxEncoder
    from gateway.routing.opening import open_fitted

    opened = open_fitted(directory)
    return opened.router, OnnxEncoder(opened.encoder)


def show(found: dict[str, Any]) -> None:
    for name, value in found.items():
        shown = f"{value:.3f}" if isinstance(value, float) else str(value)
        click.echo(f"{name.replace('_', ' '):20} {shown}")


import gateway.commands.router_quality  # noqa: E402, F401 - adds its commands to the group
