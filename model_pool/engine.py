"""The engine protocol: what a worker asks of the thing that computes tokens."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from model_pool.durations import Durations
from model_pool.engine_time import Spent
from model_pool.switching import Priority
from model_pool.token_work import TokenWork


@dataclass(frozen=True, slots=True)
class Weights:
    """What a model is made of: the base alone, or the base and one delta or one LoRA adapter.

    digest names the content (the base's fingerprint, the delta's or the adapter's digest), so that
    an answer can say which weights made it. delta: a delta's directory, or a merge recipe's file.
    """

    model: str
    digest: str
    delta: Path | None = None
    lora: Path | None = None


class Role(Enum):
    """Who speaks in one chat message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen.

    max_output_token_count: at least 1. temperature: 0 is greedy. top_p in (0, 1].
    stop: the answer ends before the first of these texts. seed: the same seed, prompt and
    weights give the same answer; None draws one.
    """

    max_output_token_count: int
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One request for tokens, on a model whose weights are loaded.

    priority, caller, time_left_s (until nobody waits for the answer any more): who goes first where
    not all can go at once. wants_log_probability: whether the answer's end is to tell the mean
    logarithm of its tokens' probabilities.
    """

    request_id: str
    model: str
    messages: tuple[Message, ...]
    sampling: Sampling
    priority: Priority = Priority.STANDARD
    time_left_s: float = math.inf
    wants_log_probability: bool = False
    caller: str = ""


class FinishReason(Enum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request used so far.

    busy_s: its share of the engine's computing time, each step's seconds divided among the
    requests in it by the tokens that each had in that step. queue_s: from `generate` to its first
    step; None: not known.
    """

    prompt_token_count: int
    output_token_count: int
    busy_s: float
    queue_s: float | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of an answer. The last piece has a finish_reason (its text may be empty).

    mean_log_probability: in the last piece, where the job asked and the engine can tell.
    """

    text: str
    usage: Usage
    weights_digest: str
    finish_reason: FinishReason | None = None
    mean_log_probability: float | None = None


@dataclass(frozen=True, slots=True)
class EngineReport:
    """What an engine holds, and did since it was made.

    spent: computing; changing the live weights; building weights (checking, reading, preparing)
    while neither went on. work: of the computing, prompts and answers apart. switch_count: how
    often the live weights changed, where an engine has one set of them. changes: how long each of
    these took, or each build where it holds many sets.
    """

    loaded: tuple[Weights, ...]
    running_count: int
    queued_count: int
    spent: Spent
    work: TokenWork = field(default_factory=TokenWork)
    switch_count: int = 0
    changes: Durations = field(default_factory=Durations)


class Engine(Protocol):
    """Computes tokens with the weights that it was told to load.

    Which weights are held, and when they go, is the worker's decision (`residency.py`).
    """

    @property
    def context_token_count(self) -> int:
        """Longest prompt plus answer, in tokens."""
        ...

    async def start(self) -> None:
        """Open the base; ready for `load` when it returns."""
        ...

    def size_bytes(self, weights: Weights) -> int:
        """Memory that these weights take once loaded.

        May raise merge_on_load.errors.MergeError: what tells the size cannot be read.
        """
        ...

    async def load(self, weights: Weights) -> None:
        """Build the weights: base plus delta, tensor by tensor. All or nothing.

        Raises merge_on_load.errors.MergeError when the delta is refused; what was loaded before
        stays loaded and goes on serving.
        """
        ...

    async def unload(self, model: str) -> None:
        """Forget the weights. The caller has seen to it that no job uses them."""
        ...

    def generate(
        self, job: Job, on_end: Callable[[Usage], None] | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Stream the answer. Closing the generator stops the computing and frees its place.

        on_end: called once, when nothing of the job computes any more, with all that it used; that
        may be after the generator was closed, and more than the last piece told.
        Raises PromptTooLong before the first piece, EngineFailed when the computing failed.
        """
        ...

    def report(self) -> EngineReport:
        """What is loaded, queued and running now, and where the time went. At any time, also before
        `start` and after `stop`."""
        ...

    async def drain(self) -> None:
        """Return when no job is queued or running. The caller sends no more."""
        ...

    async def died(self) -> str:
        """Return why, once the engine can compute no more. Usually never."""
        ...

    async def stop(self) -> None:
        """Free everything. Running jobs end with EngineFailed."""
        ...
