"""From an embedding to calibrated probabilities of tasks. Pure numpy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from gateway.routing.labelled import OUT_OF_SCOPE

Floats = NDArray[np.float32]
_FORMAT = "deltafleet.router 1"


class BadRouter(ValueError):
    """A directory that is no router, or another version's."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a prompt is for.

    task: `out_of_scope` where is_in_scope is false. probability: of the task. runner_up: the next
    most probable. probabilities: of every task, in the head's order.
    """

    task: str
    probability: float
    runner_up: str
    is_in_scope: bool
    probabilities: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A linear layer and a softmax.

    tasks: in the order of the rows; `out_of_scope` may be one. weights: float32[tasks, dim]. bias:
    float32[tasks]; both divided by the temperature that calibrates them (Guo et al. 2017,
    arXiv:1706.04599). scope_threshold: a prompt is out of scope where the probability of
    `out_of_scope`, or without such a task 1 - the greatest probability, is at least this. facts:
    how it was made and measured.
    """

    tasks: tuple[str, ...]
    weights: Floats
    bias: Floats
    scope_threshold: float
    facts: dict[str, Any]

    def check_width(self, width: int) -> None:
        """Raises BadRouter unless an encoder of that many dimensions is what it was fitted with."""
        fitted = self.weights.shape[1]
        if width != fitted:
            raise BadRouter(f"fitted on {fitted} dimensions, the encoder has {width}")

    def probabilities(self, rows: Floats) -> Floats:
        """rows: float32[n, dim]. Returns float32[n, tasks], each row summing to 1."""
        return softmax(rows @ self.weights.T + self.bias)

    def decide(self, row: Floats) -> Decision:
        """row: float32[dim]."""
        found = self.probabilities(row[None])[0]
        return self.decided(found)

    def decided(self, probabilities: Floats) -> Decision:
        """The decision that probabilities, float32[tasks], amount to."""
        order = np.argsort(-probabilities, kind="stable")
        listed = [self.tasks[i] for i in order if self.tasks[i] != OUT_OF_SCOPE]
        beyond = float(scope_scores(self.tasks, probabilities[None])[0])
        if beyond >= self.scope_threshold:
            return Decision(OUT_OF_SCOPE, beyond, listed[0], False, probabilities)
        best = self.tasks.index(listed[0])
        others = [self.tasks[i] for i in order if i != best]
        return Decision(
            listed[0],
            float(probabilities[best]),
            others[0] if others else "",
            True,
            probabilities,
        )

    def save(self, directory: Path) -> None:
        """Write `router.json` and `head.safetensors`."""
        told = {
            "format": _FORMAT,
            "tasks": list(self.tasks),
            "scope_threshold": self.scope_threshold,
            "facts": self.facts,
        }
        (directory / "router.json").write_text(json.dumps(told, indent=1) + "\n")
        tensors = {"weights": self.weights, "bias": self.bias}
        in_order = {name: np.ascontiguousarray(one) for name, one in tensors.items()}
        save_file(in_order, directory / "head.safetensors")  # which writes memory as it lies

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Raises BadRouter."""
        try:
            told = json.loads((directory / "router.json").read_text())
            tensors = load_file(directory / "head.safetensors")
            if told["format"] != _FORMAT:
                raise BadRouter(f"{directory}: made by another version: {told['format']}")
            tasks = tuple(map(str, told["tasks"]))
            found = cls(
                tasks,
                tensors["weights"],
                tensors["bias"],
                float(told["scope_threshold"]),
                dict(told["facts"]),
            )
        except BadRouter:
            raise
        except Exception as error:  # whatever a damaged file makes the readers raise
            raise BadRouter(f"{directory}: no router: {error!r}") from error
        if found.weights.shape[0] != len(tasks) or found.bias.shape != (len(tasks),):
            raise BadRouter(f"{directory}: {len(tasks)} tasks, weights {found.weights.shape}")
        return found


def softmax(logits: Floats) -> Floats:
    """Along the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True), np.float32)


def scope_scores(tasks: tuple[str, ...], probabilities: Floats) -> Floats:
    """How far out of scope: float32[n]. probabilities: float32[n, tasks]."""
    if OUT_OF_SCOPE in tasks:
        return probabilities[:, tasks.index(OUT_OF_SCOPE)]
    return np.asarray(1 - probabilities.max(1), np.float32)
