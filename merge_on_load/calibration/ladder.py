"""The smallest delta that keeps the quality asked: the first rung of a ladder that does."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_on_load.aside import check_output_apart, written_aside
from merge_on_load.calibration.judge import Judge
from merge_on_load.codecs import AUTO, CodecSettings, Coding
from merge_on_load.codecs.layout import is_embedding, is_lossy
from merge_on_load.delta import Delta
from merge_on_load.errors import OutputExists, QualityMissed
from merge_on_load.packing import pack
from merge_on_load.progress import Progress
from merge_on_load.specs import TensorSpec, row_count_and_width

log = logging.getLogger(__name__)
GROUP_SIZE = 256
LOSSLESS = Coding("lossless")


@dataclass(frozen=True)
class Rung:
    """What stores matrices, and what embeddings: a coding, or the bits per weight that a thin
    product of three-bit vectors may take.
    """

    matrices: Coding | float
    embeddings: Coding | float

    codec = AUTO

    def coding(self, name: str, base: TensorSpec, tuned: TensorSpec) -> Coding:
        """See `Layout.coding`."""
        if not is_lossy(base, tuned):
            return LOSSLESS
        chosen = self.embeddings if is_embedding(name) else self.matrices
        return chosen if isinstance(chosen, Coding) else thin(chosen, tuned)


def thin(bits: float, spec: TensorSpec, *, residual: int = 0) -> Coding:
    """A thin product that takes about so many bits per weight, one rank at least."""
    rows, width = row_count_and_width(spec.shape)
    per_rank = 3 * (rows + width)
    rank = max(1, min(round(bits * rows * width / max(1, per_rank)), rows, width))
    return Coding("lowrank", CodecSettings(group_size=GROUP_SIZE, rank3=rank, residual=residual))


def _coding(text: str) -> Coding:
    return Coding.parse(text, CodecSettings(group_size=GROUP_SIZE))


# From the smallest on. Bits per weight of a matrix: 0.06, 0.13, then as they say, 2, 3, 4, all.
LADDER = (
    Rung(_coding("sparse:keep=32"), 0.1),
    Rung(_coding("sparse:keep=16"), 0.15),
    Rung(0.2, 0.15),
    Rung(0.3, 0.2),
    Rung(0.45, 0.3),
    Rung(0.6, 0.4),
    Rung(0.9, 0.6),
    Rung(Coding.parse("int2:group_size=128"), Coding.parse("int4:group_size=128")),
    Rung(Coding.parse("int3:group_size=128"), Coding.parse("int4:group_size=128")),
    Rung(Coding.parse("int4:group_size=64"), Coding.parse("int4:group_size=64")),
    Rung(Coding.parse("int8"), Coding.parse("int8")),
    Rung(LOSSLESS, LOSSLESS),
)


def pack_auto(
    base: Path,
    model: Path,
    out: Path,
    *,
    floor: float,
    judge: Judge | None = None,
    parent: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    rungs: Sequence[Rung] = LADDER,
) -> Delta:
    """The smallest delta of LADDER that keeps `floor` of the model's quality, 0 to 1.

    Quality is the judge's evaluation score beside the tuned model's own; without an evaluation the
    share of held-out answers' tokens where both have the same likeliest one; without a judge one
    less the squared relative error of the weights. parent: see `pack`. Raises QualityMissed where
    no rung keeps it, else as `pack` does; then nothing stands under `out`.
    """
    base, model, out = Path(base), Path(model), Path(out)
    trial = out.with_name(f".{out.name}.trial")
    check_output_apart(out, (base, model))
    if out.exists() and not overwrite:
        raise OutputExists("something stands here", file=out)
    try:
        for rung in rungs:
            delta = pack(
                base,
                model,
                AUTO,
                trial,
                layout=rung,
                judge=judge,
                parent=parent,
                overwrite=True,
                progress=progress,
            )
            kept = quality_kept(delta.measured)
            log.info("rung_tried", extra={"bytes": delta.size_bytes, "kept": kept})
            if kept >= floor:
                return _moved(trial, out)
        raise QualityMissed(
            "no codec keeps that much", file=Path(model), expected=floor, found=kept
        )
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def quality_kept(measured: Mapping[str, Any]) -> float:
    """See `pack_auto`. measured: a delta's."""
    quality = measured.get("quality", {})
    if "score" in quality:
        return float(quality["score"] / quality["tuned_score"]) if quality["tuned_score"] else 1.0
    if "agreement" in quality:
        return float(quality["agreement"])
    return 1 - float(measured["relative_error"].get("lossy", 0.0)) ** 2


def _moved(trial: Path, out: Path) -> Delta:
    with written_aside(out, overwrite=True) as directory:
        directory.rmdir()
        trial.replace(directory)
    return Delta.open(out)
