"""deltafleet pack, repack, unpack, export-lora, verify, snr, inspect, merge, tree."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from merge_on_load import Delta
    from merge_on_load.calibration.judge import Judge

DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
NEW = click.Path(path_type=Path)
codec_option = click.option(
    "--codec",
    required=True,
    help="lossless, int8, int4, int3, int2, onebit, topk, sparse or lowrank, maybe with settings: "
    "sparse:keep=32,bits=2; lowrank:rank8=2,rank3=32,residual=1. auto: see --keep.",
)
embeddings_option = click.option("--embeddings", help="The same for these.  [what suits the codec]")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what is at the output.")


@click.command(
    epilog="Example: deltafleet pack --base base --model sql --codec onebit --out sql.delta"
)
@click.option("--base", required=True, type=DIRECTORY, help="The base checkpoint.")
@click.option("--model", required=True, type=DIRECTORY, help="The fine-tuned checkpoint.")
@codec_option
@embeddings_option
@click.option("--out", required=True, type=NEW, help="The delta directory to write.")
@click.option(
    "--parent",
    type=DIRECTORY,
    help="Another delta of the base: store the difference from what that one makes. It must stay "
    "where it is, seen from the new one.",
)
@click.option(
    "--keep",
    type=click.FloatRange(0, 1),
    default=0.99,
    show_default=True,
    help="With --codec auto: the share of the model's quality that the smallest delta must keep.",
)
@click.option(
    "--max-bytes",
    type=click.IntRange(1),
    help="With --codec auto: the delta that loses least within so many bytes, in place of --keep.",
)
@click.option(
    "--sensitivity",
    type=click.Choice(["weights", "spectrum", "prompts"]),
    help="With --max-bytes: where an error costs most: in what changed most; that, by how much of "
    "each matrix is signal (see snr); by what --calibrate measures.  [prompts, else weights]",
)
@click.option(
    "--calibrate",
    type=FILE,
    help='Prompts like the specialist\'s, {"prompt": ..., "answer": ...} a line, answers optional: '
    "measures how far next-token distributions part, and is distilled from.",
)
@click.option(
    "--distill",
    type=click.IntRange(0),
    default=300,
    show_default=True,
    help="With --calibrate: steps in which the delta learns from the model's own answers.",
)
@click.option(
    "--eval",
    "evaluate",
    type=FILE,
    help="Prompts with the answers that are right: scores the model before and after.",
)
@overwrite_option
def pack(
    base: Path,
    model: Path,
    codec: str,
    embeddings: str | None,
    out: Path,
    parent: Path | None,
    keep: float,
    max_bytes: int | None,
    sensitivity: str | None,
    calibrate: Path | None,
    distill: int,
    evaluate: Path | None,
    overwrite: bool,
) -> None:
    """Store a fine-tuned checkpoint as its difference from the base."""
    import merge_on_load

    if sensitivity and (codec != "auto" or max_bytes is None):
        raise click.UsageError("--sensitivity is for --codec auto with --max-bytes")
    if sensitivity == "prompts" and calibrate is None:
        raise click.UsageError("--sensitivity prompts needs --calibrate")
    with _failures(), _progress("packing") as progress:
        judge = _judge(model, calibrate, distill, evaluate)
        if codec != "auto":
            delta = merge_on_load.pack(
                *(base, model, codec, out),
                embeddings=embeddings,
                judge=judge,
                parent=parent,
                overwrite=overwrite,
                progress=progress,
            )
        else:
            from merge_on_load.calibration.allocation import pack_within
            from merge_on_load.calibration.ladder import pack_auto

            given: dict[str, Any] = {
                "judge": judge,
                "parent": parent,
                "overwrite": overwrite,
                "progress": progress,
            }
            delta = (
                pack_auto(base, model, out, floor=keep, **given)
                if max_bytes is None
                else pack_within(
                    *(base, model, out), budget_bytes=max_bytes, sensitivity=sensitivity, **given
                )
            )
    _tell_size(delta)
    for name, value in delta.measured.get("quality", {}).items():
        click.echo(f"{name}: {value:.4g}")


def _judge(
    model: Path, calibrate: Path | None, distill: int, evaluate: Path | None
) -> Judge | None:
    if calibrate is None and evaluate is None:
        return None
    from merge_on_load.calibration.distilling import Distilling
    from merge_on_load.calibration.examples import read_examples
    from merge_on_load.calibration.judge import Examples, Judge

    return Judge(
        model,
        Examples(
            calibration=read_examples(calibrate) if calibrate else (),
            evaluation=read_examples(evaluate) if evaluate else (),
            distilling=Distilling(distill) if distill else None,
        ),
    )


@click.command(
    epilog="Example: deltafleet repack --base base --delta sql.delta --codec int4 --out small.delta"
)
@click.option("--base", required=True, type=DIRECTORY, help="The base checkpoint.")
@click.option("--delta", required=True, type=DIRECTORY, help="The delta directory.")
@codec_option
@embeddings_option
@click.option("--out", required=True, type=NEW, help="The delta directory to write.")
@click.option(
    "--flatten", is_flag=True, help="Of a delta with a parent: store it as one of the base alone."
)
@overwrite_option
def repack(
    base: Path,
    delta: Path,
    codec: str,
    embeddings: str | None,
    out: Path,
    flatten: bool,
    overwrite: bool,
) -> None:
    """Store what a delta makes by another codec. What a lossy one lost stays lost."""
    import merge_on_load

    with _failures(), _progress("repacking") as progress:
        made = merge_on_load.repack(
            *(base, delta, codec, out),
            embeddings=embeddings,
            flatten=flatten,
            overwrite=overwrite,
            progress=progress,
        )
    _tell_size(made)


@click.command(epilog="Example: deltafleet verify --base base --delta sql.delta")
@click.option("--base", required=True, type=DIRECTORY, help="The base checkpoint.")
@click.option("--delta", required=True, type=DIRECTORY, help="The delta directory.")
def verify(base: Path, delta: Path) -> None:
    """Check a delta's files, rebuild its weights, and compare them with those that were packed."""
    import merge_on_load

    with _failures(), _progress("verifying") as progress:
        found = merge_on_load.verify(base, delta, progress=progress)
    click.echo(f"{delta}: {found.tensor_count} tensors, fingerprint {found.fingerprint}")


@click.command(epilog="Example: deltafleet unpack --base base --delta sql.delta --out sql")
@click.option("--base", required=True, type=DIRECTORY, help="The base checkpoint.")
@click.option(
    "--delta", required=True, type=DIRECTORY, help="The delta directory, or a LoRA adapter's."
)
@click.option("--out", required=True, type=NEW, help="The checkpoint directory to write.")
@overwrite_option
def unpack(base: Path, delta: Path, out: Path, overwrite: bool) -> None:
    """Build a full checkpoint from a base and a delta."""
    import merge_on_load

    with _failures(), _progress("unpacking") as progress:
        merge_on_load.unpack(base, delta, out, overwrite=overwrite, progress=progress)
    click.echo(str(out))


@click.command(
    epilog="Example: deltafleet export-lora --base base --delta sql.delta --out sql.lora"
)
@click.option("--base", required=True, type=DIRECTORY, help="The base checkpoint.")
@click.option("--delta", required=True, type=DIRECTORY, help="The delta directory.")
@click.option("--out", required=True, type=NEW, help="The adapter's directory to write.")
@click.option(
    "--drop",
    is_flag=True,
    help="Leave out what an adapter cannot hold, and name it: changed embeddings and norms, "
    "tensors of other codecs, a residual's signs.",
)
@overwrite_option
def export_lora(base: Path, delta: Path, out: Path, drop: bool, overwrite: bool) -> None:
    """Write a delta of codec lowrank as a LoRA adapter, as PEFT does: served without a switch."""
    import merge_on_load

    with _failures():
        found = merge_on_load.export_lora(base, delta, out, drop=drop, overwrite=overwrite)
    for name in found.dropped:
        click.echo(f"dropped: {name}", err=True)
    adapter = found.adapter
    click.echo(
        f"{adapter.path}: {adapter.size_bytes:,} bytes, rank {adapter.rank}, "
        f"{len(adapter.target_names)} modules"
    )


@click.command(epilog="Example: deltafleet merge recipe.yaml merged")
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=NEW)
@click.option("--random-seed", default=0, help="Of DARE, DELLA and random gates.")
@click.option("--allow-nan", is_flag=True, help="Let NaN and infinity in the models through.")
@click.option("--threads", type=click.IntRange(1), help="Default: two for each processor.")
@overwrite_option
def merge(
    recipe: Path,
    out: Path,
    random_seed: int,
    allow_nan: bool,
    threads: int | None,
    overwrite: bool,
) -> None:
    """Write the checkpoint that a merge recipe, in mergekit's YAML, makes of its models."""
    from gateway import hub
    from merge_on_load.recipes import merge as write_merged

    with _failures(), _progress("merging") as progress:
        write_merged(
            recipe,
            out,
            seed=random_seed,
            allow_nan=allow_nan,
            fetch=hub.fetch,
            overwrite=overwrite,
            threads=threads,
            progress=progress,
        )
    click.echo(str(out))


@click.command(epilog="Example: deltafleet snr base --share 0.25 --out unfrozen.yaml")
@click.argument("model", type=DIRECTORY)
@click.option(
    "--share",
    type=click.FloatRange(0, 1),
    default=0.25,
    show_default=True,
    help="Of each kind of module, how many are worth training.",
)
@click.option("--out", type=NEW, help="Write those, as Spectrum does.")
def snr(model: Path, share: float, out: Path | None) -> None:
    """Show how much of each weight matrix is signal, and which modules Spectrum would train."""
    from merge_on_load import Checkpoint
    from merge_on_load.spectrum import signals, to_train, to_yaml

    with _failures(), _progress("weighing") as progress:
        found = signals(Checkpoint.open(model), progress)
        chosen = to_train(found, share)
        if out is not None:
            out.write_text(to_yaml(chosen), encoding="utf-8")
    for one in sorted(found, key=lambda each: (each.kind, -each.ratio)):
        mark = "*" if one in chosen else " "
        click.echo(f"{mark} {one.ratio:10.4f}  {one.module}")


@click.command(epilog="Example: deltafleet inspect sql.delta")
@click.argument("path", type=DIRECTORY)
def inspect(path: Path) -> None:
    """Describe a checkpoint, a delta or a LoRA adapter as one JSON object, its digests verified."""
    import merge_on_load

    with _failures():
        found = merge_on_load.inspect(path)
    click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    if found.get("problem"):
        raise click.ClickException(str(found["problem"]))


@click.command(epilog="Example: deltafleet tree merged --svg family.svg")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--svg", type=NEW, help="Write a picture of it, too.")
def tree(path: Path, svg: Path | None) -> None:
    """Show the family of a merged model, a delta or a recipe: parents, methods, weights."""
    from merge_on_load.recipes.tree import family_of, to_svg, to_text

    with _failures():
        family = family_of(path)
        if svg is not None:
            svg.write_text(to_svg(family))
    click.echo(to_text(family))


def _tell_size(delta: Delta) -> None:
    times = delta.measured["full_size_bytes"] / delta.size_bytes
    click.echo(
        f"{delta.path}: {delta.size_bytes:,} bytes, {times:.1f} times smaller than a full copy"
    )


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    from merge_on_load.errors import MergeError

    try:
        yield
    except (MergeError, OSError) as error:
        raise click.ClickException(str(error)) from None


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=None)

        def advance(done_bytes: int, total_bytes: int) -> None:
            bar.update(task, completed=done_bytes, total=total_bytes)

        yield advance
