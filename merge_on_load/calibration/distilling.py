"""Win back what coding lost: learn a delta's numbers from the tuned model's own answers.

BitDelta (arXiv:2402.10193) learns its scales so; here whatever a codec codes learns, by the
divergence of the rebuilt model's next-token distributions from the tuned one's, at answers' tokens.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from merge_on_load.calibration.examples import Batch, Samples
from merge_on_load.calibration.measuring import divergences
from merge_on_load.calibration.runner import Runner
from merge_on_load.calibration.thawed import Thawed, thaw
from merge_on_load.codecs import Coding, Payload
from merge_on_load.floats import matrix
from merge_on_load.progress import Progress, silent

_LATENT_RATE, _SCALE_RATE = 0.03, 0.01  # of the root mean square of what learns
_WARM_UP_STEPS = 20
_LARGEST_GRADIENT = 1.0


@dataclass(frozen=True)
class Distilling:
    """step_count: batches of batch_size examples; examples come again where they are too few."""

    step_count: int = 300
    batch_size: int = 32
    seed: int = 0


@dataclass(frozen=True)
class Tuned:
    """One tensor: how it is to be stored, the base's and the tuned model's, [*shape] each."""

    coding: Coding
    base: torch.Tensor
    tuned: torch.Tensor


def distill(
    runner: Runner,
    tensors: Mapping[str, Tuned],
    samples: Samples,
    plan: Distilling,
    progress: Progress | None = None,
) -> dict[str, Payload]:
    """The payloads of those tensors whose codec can learn, in place of what `encode` gives.

    runner: runs the tuned model. progress: called with done and all steps. The same on the same
    machine for the same seed.
    """
    device = runner.device
    bases, shapes = {}, {}
    thawed: dict[str, Thawed] = {}
    for name, tensor in tensors.items():
        base = matrix(tensor.base).float().to(device)
        module = thaw(tensor.coding, matrix(tensor.tuned).float().to(device) - base)
        if module is not None and name in runner.names:
            bases[name], shapes[name], thawed[name] = base, tensor.base.shape, module
    if not thawed or not plan.step_count:
        return {name: module.payload() for name, module in thawed.items()}
    optimizer = torch.optim.Adam(_groups(thawed), betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _rate(step, plan.step_count)
    )
    learned = [one for group in optimizer.param_groups for one in group["params"]]
    for step, batch in enumerate(_endless(samples, plan), 1):
        with torch.no_grad():
            expected = runner.log_probabilities(batch)
        weights = {
            name: (bases[name] + module()).reshape(shapes[name]) for name, module in thawed.items()
        }
        loss = divergences(expected, runner.log_probabilities(batch, weights)).mean()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(learned, _LARGEST_GRADIENT)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        (progress or silent)(step, plan.step_count)
        if step == plan.step_count:
            break
    return {name: module.payload() for name, module in thawed.items()}


def _groups(thawed: Mapping[str, Thawed]) -> list[dict[str, object]]:
    """Parameters with rates that suit their size."""
    groups = []
    for module in thawed.values():
        for name, parameter in module.named_parameters():
            share = _LATENT_RATE if name.endswith("latent") else _SCALE_RATE
            size = float(parameter.detach().square().mean().sqrt())
            groups.append({"params": [parameter], "lr": share * (size or 1e-6)})
    return groups


def _rate(step: int, step_count: int) -> float:
    """A short warm-up, then a cosine to zero."""
    return min(1.0, (step + 1) / _WARM_UP_STEPS) * (1 + math.cos(math.pi * step / step_count)) / 2


def _endless(samples: Samples, plan: Distilling) -> Iterator[Batch]:
    turn = plan.seed
    while True:
        yield from samples.batches(plan.batch_size, turn)
        turn += 1
