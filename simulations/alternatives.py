"""What the policy is compared with."""

from __future__ import annotations

from collections.abc import Sequence

from model_pool.switching import Action, Decision, Policy, Queue, Slice
from simulations.accelerator import Accelerator
from simulations.engine import Record, SimulatedEngine, Switching
from simulations.traffic import Request

# Seconds to change models, by way of changing. Reload: a fresh vLLM engine took about 48 s on an
# A100, sleep mode's level 1 woke 8.3 GB in 0.82 s and level 2 in 2.58 s (vLLM blog, 2025-10-26,
# "Zero-Reload Model Switching with vLLM Sleep Mode"); both are scaled here to 14.5 GB. Level 1
# also copies the weights of the model that goes to sleep, assumed to take as long as waking.
RELOAD_S = (15.0, 30.0, 60.0)
SLEEP_LEVEL_1_S = 2 * 0.82 * 14.5 / 8.3
SLEEP_LEVEL_2_S = 2.58 * 14.5 / 8.3


def first_come(now_s: float, live: Slice, queues: Sequence[Queue], policy: Policy) -> Decision:
    """Serve the model whose turn to wait began first; no batching by model, no preemption."""
    if not queues:
        return Decision(Action.STAY, live.model)
    first = min(queues, key=lambda one: (one.since_s, one.model))
    if first.model == live.model:
        return Decision(Action.STAY, live.model)
    action = Action.DRAIN if live.running_count else Action.SWITCH
    return Decision(action, first.model)


def one_engine_each(
    accelerator: Accelerator, switching: Switching, requests: Sequence[Request], times: Times
) -> Record:
    """As many accelerators as models; their records in one."""
    whole = Record(list(requests), *times)
    for model in sorted({one.model for one in requests}):
        own = [one for one in requests if one.model == model]
        part = SimulatedEngine(accelerator, switching).run(own, *times)
        whole.output_token_count += part.output_token_count
    return whole


Times = tuple[float, float]
