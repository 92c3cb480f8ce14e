"""When each request comes, and what it asks: drawn from a seed, before anything is sent. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from examples.demo.tasks import TASKS
from examples.demo.tasks.problem import Problem
from loadtests.scenario import Stage, Traffic


@dataclass(frozen=True, slots=True, order=True)
class Arrival:
    """at_s: since the beginning. traffic, number: which of its requests, of which traffic."""

    at_s: float
    traffic: int
    number: int


@dataclass(frozen=True, slots=True)
class Question:
    """What one request asks, and what would be right. seed: of the answer's samples."""

    task: str
    problem: Problem
    is_streamed: bool
    seed: int


def poisson(stages: Sequence[Stage], rng: random.Random) -> Iterator[float]:
    """Times of a Poisson process whose rate changes from stage to stage, rising."""
    begin_s = 0.0
    for stage in stages:
        end_s = begin_s + stage.seconds
        at_s = begin_s
        while stage.rate > 0:
            # Without memory: a gap that a stage's end cuts may be drawn anew.
            at_s += rng.expovariate(stage.rate)
            if at_s >= end_s:
                break
            yield at_s
        begin_s = end_s


def arrivals(stages: Sequence[Sequence[Stage]], seed: int) -> list[Arrival]:
    """All arrivals in order. stages: of each traffic; none where its callers wait."""
    found = [
        Arrival(at_s, traffic, number)
        for traffic, own in enumerate(stages)
        for number, at_s in enumerate(poisson(own, random.Random(f"{seed} arrivals {traffic}")))
    ]
    return sorted(found)


def share_of(whole: Sequence[Arrival], place: int, count: int) -> list[Arrival]:
    """What one of `count` generators sends: every count-th."""
    return list(whole[place::count])


def question(traffic: Traffic, seed: int, number: int) -> Question:
    """The same for the same arguments, whoever asks it."""
    rng = random.Random(f"{seed} question {traffic.caller} {number}")
    weights = [1 / rank**traffic.skew for rank in range(1, len(traffic.tasks) + 1)]
    task = rng.choices(traffic.tasks, weights)[0]
    problem = TASKS[task].generate(rng)
    if traffic.prompt:
        task, problem = traffic.model or "", Problem(traffic.prompt, "")
    return Question(
        task=task,
        problem=problem,
        is_streamed=rng.random() < traffic.streaming_share,
        seed=traffic.seeds[number % len(traffic.seeds)] if traffic.seeds else rng.getrandbits(31),
    )
