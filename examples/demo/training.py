"""One pass of training over encoded conversations, on CPU."""

import math
import random
import sys
from collections.abc import Sequence

import torch
from torch.nn import functional
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import LlamaForCausalLM

from examples.demo.encoding import Batch, Sample, batches
from examples.demo.plan import Pass

WARM_UP_SHARE = 0.05
MAX_GRADIENT_NORM = 1.0


def train(
    model: LlamaForCausalLM, samples: Sequence[Sample], plan: Pass, seed: int, title: str
) -> float:
    """Train in place and return the mean loss, in nats a token, of the last tenth.

    float32 weights, bfloat16 autocast: twice the tokens a second of float32 where the CPU has
    AVX512-BF16 (12,500 against 8,000 on two cores).
    """
    step_count = math.ceil(len(samples) / plan.batch_size)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        plan.peak_learning_rate,
        betas=(0.9, 0.98),
        weight_decay=0.01,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _learning_rate_factor(step / step_count)
    )
    losses: list[float] = []
    bar = tqdm(total=step_count, desc=title, unit="step", mininterval=_refresh_s())
    for batch in batches(samples, plan.batch_size, random.Random(seed)):
        losses.append(_step(model, batch, optimizer))
        schedule.step()
        bar.set_postfix_str(f"loss {losses[-1]:.3f}", refresh=False)
        bar.update()
    bar.close()
    last = losses[-max(1, step_count // 10) :]
    return sum(last) / len(last)


def _refresh_s() -> float:
    return 0.2 if sys.stderr.isatty() else 30


def _learning_rate_factor(progress: float) -> float:
    """Linear warm-up, then a cosine to zero; progress runs from 0 to 1."""
    if progress < WARM_UP_SHARE:
        return (progress + 0.001) / WARM_UP_SHARE
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _step(model: LlamaForCausalLM, batch: Batch, optimizer: torch.optim.Optimizer) -> float:
    with torch.autocast("cpu", torch.bfloat16):
        loss = _loss(model, batch)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def _loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Mean over the target tokens; only they pass through the output layer.

    Padding stands on the right, so causal attention needs no mask to ignore it.
    """
    hidden = model.model(input_ids=batch.ids[:, :-1]).last_hidden_state
    is_target = batch.is_target[:, 1:]
    logits = model.lm_head(hidden[is_target])
    return functional.cross_entropy(logits.float(), batch.ids[:, 1:][is_target])
