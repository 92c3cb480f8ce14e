"""deltafleet router fit-quality, router eval-quality."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from gateway.commands.router import router
from gateway.routing.head import BadRouter
from gateway.routing.quality.outcomes import BadOutcomes, Outcomes, read_outcomes

if TYPE_CHECKING:
    from gateway.routing.quality.model import Estimates, QualityModel

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@router.command(
    "fit-quality", epilog="Example: deltafleet router fit-quality outcomes.jsonl --out quality"
)
@click.argument("outcomes", type=_FILE)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new directory.")
@click.option("--encoder", help="A sentence-transformers name or path; default: MiniLM.")
def fit_quality_command(outcomes: Path, out: Path, encoder: str | None) -> None:
    """Learn from OUTCOMES how good each model's answer to a prompt would be, and its cost.

    Lines of {"prompt": ..., "model": ..., "score": 0 to 1, "cost_usd": ...}, or of {"prompt": ...,
    "scores": {model: score}, "cost_usd": {model: usd}}; costs may be left out. The figures are of
    prompts that were held out.
    """
    from gateway.routing.encoder_files import digest_of, kept
    from gateway.routing.quality.fitting import fit_quality
    from merge_on_load.aside import written_aside
    from merge_on_load.errors import MergeError

    try:
        told = read_outcomes(outcomes)
        place = kept(encoder)
        made = fit_quality(told, _embedded(told, place))
        is_local = encoder is not None and Path(encoder).is_dir()
        made.facts["encoder"] = str(Path(encoder or "").absolute()) if is_local else encoder
        made.facts["encoder_digest"] = digest_of(place)
        with written_aside(out) as directory:
            made.save(directory)
    except (BadOutcomes, BadRouter, MergeError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{out}: {len(made.models)} models, {len(told.prompts)} prompts")
    _show(made.facts["held_out"])


@router.command(
    "eval-quality", epilog="Example: deltafleet router eval-quality quality unseen.jsonl --json"
)
@click.argument("quality_dir", type=_DIRECTORY)
@click.argument("outcomes", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="The figures and the curves, as JSON.")
def eval_quality_command(quality_dir: Path, outcomes: Path, as_json: bool) -> None:
    """Measure routing by estimates on OUTCOMES that they were not fitted to."""
    from gateway.routing.quality.evaluation import drawn, measured
    from gateway.routing.quality.model import QualityModel

    try:
        made = QualityModel.load(quality_dir)
        told = _in_order(read_outcomes(outcomes), made.models, outcomes)
        estimates = _estimated(made, told)
    except (BadOutcomes, BadRouter, OSError) as error:
        raise click.ClickException(str(error)) from error
    found = measured(told, estimates)
    if as_json:
        click.echo(json.dumps({**found, "curves": drawn(told, estimates)}, indent=1))
    else:
        _show(found)


def _estimated(made: QualityModel, outcomes: Outcomes) -> Estimates:
    from gateway.routing.encoder_files import digest_of, kept

    place = kept(made.facts.get("encoder"))
    wanted, found = made.facts.get("encoder_digest"), digest_of(place)
    if wanted != found:
        raise BadRouter(f"it was fitted with the encoder {wanted}, and here is {found}")
    rows = _embedded(outcomes, place)
    made.check_width(rows.shape[1])
    return made.estimate_all(outcomes.prompts, rows)


def _in_order(outcomes: Outcomes, models: tuple[str, ...], path: Path) -> Outcomes:
    """Outcomes with the columns that estimates have."""
    unknown = set(outcomes.models) - set(models)
    if unknown:
        raise BadOutcomes(f"{path}: models that nothing was learned of: {sorted(unknown)}")
    scores, costs = (np.full((len(outcomes.prompts), len(models)), np.nan) for _ in range(2))
    places = [models.index(model) for model in outcomes.models]
    scores[:, places], costs[:, places] = outcomes.scores, outcomes.costs_usd
    return Outcomes(outcomes.prompts, models, scores, costs)


def _embedded(outcomes: Outcomes, encoder: Path) -> Any:
    """float32[prompts, dim]. Raises BadRouter."""
    from gateway.routing.gloss import Gloss
    from gateway.routing.onnx_encoder import OnnxEncoder
    from gateway.routing.reading import read_text

    gloss = Gloss()
    model = OnnxEncoder(encoder, os.cpu_count() or 1)
    return model.encode([read_text(prompt, gloss)[0] for prompt in outcomes.prompts])


def _show(found: dict[str, Any]) -> None:
    for name, value in found.items():
        shown = f"{value:.3f}" if isinstance(value, float) else "-" if value is None else str(value)
        click.echo(f"{name.replace('_', ' '):22} {shown}")
