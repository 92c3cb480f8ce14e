"""The delta that loses least within a budget of bytes: a codec, at settings, for each tensor."""

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from merge_on_load.built_model import BuiltModel
from merge_on_load.calibration.judge import Judge
from merge_on_load.calibration.ladder import LADDER, LOSSLESS, thin
from merge_on_load.checkpoint import Checkpoint
from merge_on_load.codecs import AUTO, Coding, make_codec
from merge_on_load.codecs.layout import is_lossy
from merge_on_load.delta import Delta
from merge_on_load.errors import QualityMissed
from merge_on_load.measure import squared_distance
from merge_on_load.packing import Start, is_unchanged, pack, twins
from merge_on_load.progress import Progress
from merge_on_load.specs import TensorSpec
from merge_on_load.spectrum import signals
from merge_on_load.tensors import spec_of

SENSITIVITIES = ("weights", "spectrum", "prompts")
_THIN_BITS = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.9)  # per weight


@dataclass(frozen=True)
class Chosen:
    """A coding for each tensor by name."""

    codings: Mapping[str, Coding]

    codec = AUTO

    def coding(self, name: str, base: TensorSpec, tuned: TensorSpec) -> Coding:
        """See `Layout.coding`."""
        return self.codings[name]


def pack_within(
    base: Path,
    model: Path,
    out: Path,
    *,
    budget_bytes: int,
    judge: Judge | None = None,
    sensitivity: str | None = None,
    parent: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Delta:
    """The delta of at most so many bytes, manifest and headers besides, that loses least.

    sensitivity: one of SENSITIVITIES, what an error in a tensor costs, times its square relative to
    the tensor's whole difference. "weights": the square of that difference. "spectrum": the same
    times how much of the tuned matrix is signal (see `spectrum`); of matrices that have no such
    ratio, as much as of the mean one. "prompts": the judge's divergence where each alone is the
    base's. None: "prompts" with a judge, else "weights". Raises QualityMissed where the budget is
    too small, ValueError for "prompts" without a judge, and as `pack` does. parent: see there.
    """
    if sensitivity not in (None, *SENSITIVITIES) or (sensitivity == "prompts" and not judge):
        raise ValueError(f"sensitivity {sensitivity!r}, judge {judge!r}")
    start = Start.open(Path(base), parent, Path(out))
    opened = Checkpoint.open(Path(model))
    chosen = allocate(
        *(start.model, opened),
        budget_bytes=budget_bytes,
        judge=judge if sensitivity in (None, "prompts") else None,
        sensitivities=by_spectrum(start.model, opened) if sensitivity == "spectrum" else None,
    )
    return pack(
        *(base, model, AUTO, out),
        layout=chosen,
        judge=judge,
        parent=parent,
        overwrite=overwrite,
        progress=progress,
    )


def by_spectrum(base: Checkpoint | BuiltModel, model: Checkpoint) -> dict[str, float]:
    """Of each tensor that a lossy codec may store: see `pack_within`."""
    ratios = {one.name: one.ratio for one in signals(model)}
    finite = [ratio for ratio in ratios.values() if math.isfinite(ratio)] or [1.0]
    mean = sum(finite) / len(finite)
    return {
        name: squared_distance(model.read(name), base.read(name))
        * min(ratios.get(name, mean), max(finite))
        for name in base.names
        if is_lossy(base.spec(name), model.spec(name))
    }


@dataclass(frozen=True)
class _Option:
    coding: Coding
    size_bytes: int
    error: float  # squared, relative to the whole difference


def allocate(
    base: Checkpoint | BuiltModel,
    model: Checkpoint,
    *,
    budget_bytes: int,
    judge: Judge | None = None,
    sensitivities: Mapping[str, float] | None = None,
) -> Chosen:
    """See `pack_within`. sensitivities: by tensor; of others the judge's, or the weights' own.

    Greedy: the step that wins most for each byte comes first.
    """
    fixed, options, weights = {}, {}, dict(sensitivities or {})
    copies = twins(base, model)
    for name in base.names:
        if name in copies or is_unchanged(base, model, name):
            fixed[name] = LOSSLESS  # nothing is stored
            continue
        before, after = base.read(name), model.read(name)
        if not is_lossy(base.spec(name), model.spec(name)):
            fixed[name] = LOSSLESS
            payload = make_codec("lossless", LOSSLESS.settings).encode(name, before, after)
            budget_bytes -= sum(part.nbytes for part in payload.values())
            continue
        options[name] = _options(name, before, after)
        if name not in weights:
            alone = judge.divergence_without(name, before) if judge else None
            weights[name] = squared_distance(after, before) if alone is None else alone
    taken = dict.fromkeys(options, 0)
    budget_bytes -= sum(found[0].size_bytes for found in options.values())
    if budget_bytes < 0:
        raise QualityMissed("the budget is below the smallest delta", found=f"{-budget_bytes} over")
    waiting = [_next_step(name, options[name], 0, weights[name]) for name in options]
    heapq.heapify(waiting)
    while waiting:
        _, name, to = heapq.heappop(waiting)
        if to == 0:
            continue
        cost = options[name][to].size_bytes - options[name][taken[name]].size_bytes
        if cost > budget_bytes:
            continue  # others may be smaller
        budget_bytes -= cost
        taken[name] = to
        heapq.heappush(waiting, _next_step(name, options[name], to, weights[name]))
    chosen = {name: options[name][number].coding for name, number in taken.items()}
    return Chosen(fixed | chosen)


def _next_step(
    name: str, options: Sequence[_Option], now: int, weight: float
) -> tuple[float, str, int]:
    """-gain for each byte, name and option; option 0 where none is better."""
    here = options[now]
    steps = (
        (-weight * (here.error - one.error) / (one.size_bytes - here.size_bytes), number)
        for number, one in enumerate(options)
        if one.size_bytes > here.size_bytes and one.error < here.error
    )
    gain, to = min(steps, default=(0.0, 0))
    return gain, name, to


def _options(name: str, base: torch.Tensor, tuned: torch.Tensor) -> list[_Option]:
    """From the smallest on."""
    change = squared_distance(tuned, base)
    found = []
    spec = spec_of(tuned)
    for coding in _codings(spec):
        codec = make_codec(coding.codec, coding.settings)
        payload = codec.encode(name, base, tuned)
        rebuilt = codec.decode(base, payload, spec)
        error = squared_distance(rebuilt, tuned) / change if change else 0.0
        size_bytes = sum(part.nbytes for part in payload.values())
        found.append(_Option(coding, size_bytes, error))
    return sorted(found, key=lambda one: one.size_bytes)


def _codings(spec: TensorSpec) -> Iterable[Coding]:
    yield from (thin(bits, spec) for bits in _THIN_BITS)
    yield from (rung.matrices for rung in LADDER if isinstance(rung.matrices, Coding))
