"""deltafleet router fit, router eval, router predict."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from gateway.routing.head import BadRouter, Head
from gateway.routing.labelled import OUT_OF_SCOPE, BadLabels, read_labelled, read_texts

if TYPE_CHECKING:
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
    default=0.15,
    type=click.FloatRange(0, 1),
    show_default=True,
    help="The share of requests that no task is for.",
)
def fit_command(
    labelled: Path, out: Path, encoder: str | None, library: bool, expected_out_of_scope: float
) -> None:
    """Fit a router to LABELLED, lines of {"text": ..., "task": ...}."""
    from gateway.encoder import SentenceModel
    from gateway.routing.gloss import Gloss
    from gateway.routing.task_router import TaskRouter
    from merge_on_load.aside import written_aside
    from merge_on_load.errors import MergeError

    try:
        made = TaskRouter.fit(
            read_labelled(labelled),
            _embedding(SentenceModel, encoder),
            Gloss(),
            with_library=library,
            expected_out_of_scope=expected_out_of_scope,
        )
        is_local = encoder is not None and Path(encoder).is_dir()
        made.head.facts["encoder"] = str(Path(encoder or "").absolute()) if is_local else encoder
        with written_aside(out) as directory:
            made.head.save(directory)
    except (BadLabels, BadRouter, MergeError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{out}: {len(made.head.tasks)} tasks")
    _show(made.head.facts["held_out"])


@router.command("eval", epilog="Example: deltafleet router eval router unseen.jsonl --json")
@click.argument("router_dir", type=_DIRECTORY)
@click.argument("labelled", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Figures and the reliability diagram.")
def eval_command(router_dir: Path, labelled: Path, as_json: bool) -> None:
    """Measure a router on labelled prompts that it has not seen."""
    from gateway.routing.fitting import measured
    from gateway.routing.scoring import reliability

    try:
        made = _open(router_dir)
        prompts = read_labelled(labelled)
        unknown = {one.task for one in prompts} - {*made.head.tasks, OUT_OF_SCOPE}
        if unknown:
            raise BadLabels(f"{labelled}: tasks that the router does not know: {sorted(unknown)}")
    except (BadLabels, BadRouter, OSError) as error:
        raise click.ClickException(str(error)) from error
    tasks = made.head.tasks
    truth = np.array([tasks.index(one.task) if one.task in tasks else -1 for one in prompts])
    probabilities = made.probabilities([one.text for one in prompts])
    found = measured(tasks, probabilities, truth, made.head.scope_threshold)
    if not as_json:
        _show(found)
        return
    is_right = probabilities.argmax(1) == truth
    bins = reliability(probabilities.max(1).astype(np.float64), is_right)
    diagram = [
        {"low": b.low, "high": b.high, "count": b.count, "confidence": b.confidence}
        | {"accuracy": b.accuracy}
        for b in bins
    ]
    click.echo(json.dumps({**found, "reliability": diagram}, indent=1))


@router.command("predict", epilog="Example: deltafleet router predict router prompts.jsonl")
@click.argument("router_dir", type=_DIRECTORY)
@click.argument("prompts", type=_FILE)
def predict_command(router_dir: Path, prompts: Path) -> None:
    """Decide on each line of PROMPTS, {"text": ...}, one after the other."""
    try:
        made, texts = _open(router_dir), read_texts(prompts)
    except (BadLabels, BadRouter, OSError) as error:
        raise click.ClickException(str(error)) from error
    for text in texts:
        began = time.perf_counter()
        decision = made.decide(text)
        taken = time.perf_counter() - began
        told = {
            "task": decision.task,
            "probability": round(decision.probability, 6),
            "runner_up": decision.runner_up,
            "in_scope": decision.is_in_scope,
            "decision_us": round(taken * 1e6, 1),
        }
        click.echo(json.dumps(told, ensure_ascii=False))


def _open(directory: Path) -> TaskRouter:
    from gateway.encoder import SentenceModel
    from gateway.routing.gloss import Gloss
    from gateway.routing.task_router import TaskRouter

    head = Head.load(directory)
    return TaskRouter(head, _embedding(SentenceModel, head.facts.get("encoder")), Gloss())


def _embedding(kind: Any, name: str | None) -> Any:
    try:
        return kind(name)
    except (OSError, ValueError, ImportError) as error:
        raise BadRouter(f"the encoder cannot be loaded: {error}") from error


def _show(found: dict[str, Any]) -> None:
    for name, value in found.items():
        shown = f"{value:.3f}" if isinstance(value, float) else str(value)
        click.echo(f"{name.replace('_', ' '):20} {shown}")


import gateway.commands.router_quality  # noqa: E402, F401 - adds its commands to the group
