"""deltafleet escalation fit."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.confidence import BadConfidence, fit, read_scored, save


@click.group(epilog="Example: deltafleet escalation fit answers.jsonl --out confidence.json")
def escalation() -> None:
    """Learn how probably an answer is right, from how probable its tokens were."""


@escalation.command("fit")
@click.argument("scored", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path))
def fit_command(scored: Path, out: Path) -> None:
    """Fit a curve to SCORED, lines of {"mean_logprob": ..., "score": ...}.

    fleet.yaml names it as routing.escalation.confidence.
    """
    try:
        curve = fit(read_scored(scored))
        save(curve, out)
    except (BadConfidence, OSError) as error:
        raise click.ClickException(str(error)) from error
    facts = curve.facts
    click.echo(f"{out}: {facts['kept']}, of {facts['answer_count']} answers")
    for name, squared in facts["squared_error"].items():
        kind = "as it is" if name == "plain" else "on held-out folds"
        click.echo(f"  {name}: mean squared error {squared:.4f} {kind}")
