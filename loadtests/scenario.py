"""A scenario: what a fleet is asked, what happens to it meanwhile, and what must hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from deltafleet.v1.error_reason_pb2 import ErrorReason
from examples.demo.tasks import TASKS
from model_pool.settings import Name, Section

SCENARIOS = Path(__file__).parent / "scenarios"


class BadScenario(Exception):
    """A scenario's file is wrong, or does not fit what it is run against; the text says why."""


def _is_reason(name: str) -> str:
    if f"ERROR_REASON_{name}" not in list(ErrorReason.keys()):
        raise ValueError(f"no ErrorReason is called {name!r}")
    return name


def _is_task(name: str) -> str:
    if name not in TASKS:
        raise ValueError(f"no task is called {name!r}; there are {', '.join(TASKS)}")
    return name


Reason = Annotated[str, AfterValidator(_is_reason)]  # without ERROR_REASON_
TaskName = Annotated[str, AfterValidator(_is_task)]


class Stage(Section):
    """Poisson arrivals at one rate."""

    seconds: float = Field(gt=0)
    rate: float = Field(ge=0)  # per second, on average


class Ramp(Section):
    """Poisson arrivals, faster with each step until they are too many; then more than that."""

    from_rate: float = Field(gt=0)  # of the first step, per second
    factor: float = Field(1.25, gt=1)  # of a step's rate to the one before
    step_s: float = Field(8, gt=0)
    highest_rate: float = Field(1000, gt=0)
    overload: float = Field(2, gt=1)  # times the load that saturates
    overload_s: float = Field(40, gt=0)

    def stages(self) -> tuple[Stage, ...]:
        """All steps up to the highest rate; a run ends them when the fleet is saturated."""
        rates = [self.from_rate]
        while rates[-1] * self.factor <= self.highest_rate:
            rates.append(rates[-1] * self.factor)
        return tuple(Stage(seconds=self.step_s, rate=rate) for rate in rates)


class Users(Section):
    """Callers who wait: each asks again when it has its answer."""

    count: int = Field(ge=1)
    seconds: float = Field(gt=0)
    pause_s: float = Field(0, ge=0)  # between an answer and the next question


class Part(Section):
    """Poisson arrivals at parts of the load that another traffic's ramp found to saturate."""

    calm: float = Field(ge=0)  # at first, while all of them together are well below it
    crowded: float = Field(ge=0)  # then


class Arrivals(Section):
    """When requests come: an open loop that waits for nobody (stages, ramp, part of what the ramp
    found), or users who wait.
    """

    stages: tuple[Stage, ...] = ()
    ramp: Ramp | None = None
    users: Users | None = None
    part: Part | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if sum(map(bool, (self.stages, self.ramp, self.users, self.part))) != 1:
            raise ValueError("give exactly one of stages, ramp, users and part")
        return self

    @property
    def seconds(self) -> float:
        """How long requests come; of a ramp, at most, before its overload."""
        if self.users:
            return self.users.seconds
        return sum(one.seconds for one in (self.ramp.stages() if self.ramp else self.stages))


class Limits(Section):
    """What must hold, or the run has failed."""

    errors: dict[Reason, float] = {}  # highest share of requests; of a reason not named: 0
    first_token_p99_s: float | None = Field(None, gt=0)
    total_p99_s: float | None = Field(None, gt=0)  # of answers
    route_accuracy: float | None = Field(None, ge=0, le=1)  # least share of answers
    answer_accuracy: float | None = Field(None, ge=0, le=1)


class OverloadLimits(Section):
    """What must hold at a ramp's overload."""

    goodput: float = Field(ge=0, le=1)  # least part of the greatest goodput
    total_p99_s: float = Field(gt=0)  # of answers
    reasons: tuple[Reason, ...]  # why requests may be refused or late
    # Of a part's caller: its first tokens' p99 when crowded, at most so many times the calm's.
    first_token_factors: dict[Name, float] = {}
    good_shares: dict[Name, float] = {}  # of a part's caller: least share of good answers
    shed_p99_s: float | None = Field(None, gt=0)  # the gateway's own time to refuse


class Traffic(Section):
    """One caller's requests. A good answer is one that is whole within the deadline."""

    caller: Name = "load"  # told in the metadata deltafleet-caller
    arrivals: Arrivals
    tasks: tuple[TaskName, ...] = tuple(TASKS)
    skew: float = Field(0, ge=0)  # Zipf's exponent over tasks as they stand; 0: all alike
    model: Name | None = None  # answers all, and its answers are not marked; default: routed
    prompt: str | None = None  # for it, instead of tasks' prompts
    seeds: tuple[int, ...] = ()  # of its samples, in turn; default: drawn
    streaming_share: float = Field(0.5, ge=0, le=1)
    max_output_token_count: int = Field(96, ge=1)
    temperature: float = Field(0, ge=0, le=2)
    reading_pause_s: float = Field(0, ge=0)  # after each piece of a stream
    priority: Literal["interactive", "standard", "batch"] = "standard"
    deadline_s: float = Field(20, gt=0)  # from the scheduled arrival
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _marks_what_it_limits(self) -> Self:
        marks = (self.limits.route_accuracy, self.limits.answer_accuracy)
        if self.model and any(mark is not None for mark in marks):
            raise ValueError("answers of a named model are not marked: leave accuracies out")
        if self.model is None and (self.prompt or self.seeds):
            raise ValueError("prompt, seeds: for a model that is named")
        return self


class FleetChanges(Section):
    """The demo fleet, changed."""

    gateways: int = Field(1, ge=1, le=8)  # several share a PostgreSQL
    workers: int = Field(1, ge=1, le=16)
    settings: dict[str, Any] = {}  # pool.memory_budget_mib: 48 and the like


class Event(Section):
    """Something that happens to a process, named gateway-0 or worker-0 and so on, while it serves.

    restart: SIGTERM to each in turn, which starts again when it has ended; the next one follows
    when it has served for pause_s. kill: SIGKILL to each at once; they start again.
    """

    at_s: float = Field(ge=0)
    restart: tuple[Name, ...] = ()
    pause_s: float = Field(3, ge=0)
    kill: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if bool(self.restart) == bool(self.kill):
            raise ValueError("give exactly one of restart and kill")
        return self


class Scenario(Section):
    """A file of scenarios/. seed: of arrivals, prompts and samples."""

    description: str
    seed: int = 1
    traffic: tuple[Traffic, ...] = Field(min_length=1)
    retries: bool = False  # as gRPC's service config retries UNAVAILABLE; else each is seen
    fleet: FleetChanges = FleetChanges()
    events: tuple[Event, ...] = ()
    limits: Limits = Limits()  # of all requests together
    overload: OverloadLimits | None = None
    generator_lag_p99_s: float = Field(0.1, gt=0)  # later than this, the run says nothing

    @model_validator(mode="after")
    def _callers_differ(self) -> Self:
        if len({one.caller for one in self.traffic}) < len(self.traffic):
            raise ValueError("traffic: two have the same caller")
        return self

    @model_validator(mode="after")
    def _ramps_alone(self) -> Self:
        ramps = any(one.arrivals.ramp for one in self.traffic)
        if any((not one.arrivals.part) == ramps for one in self.traffic[1:]):
            raise ValueError("traffic: a ramp comes first, and alone but for parts of its load")
        if self.traffic[0].arrivals.part:
            raise ValueError("traffic: parts are of a ramp, which comes first")
        if ramps != (self.overload is not None):
            raise ValueError("overload: limits for a ramp, and for it alone")
        return self

    @model_validator(mode="after")
    def _events_hit_somebody(self) -> Self:
        for event in self.events:
            for name in (*event.restart, *event.kill):
                if name not in self.process_names:
                    raise ValueError(f"events: there is no {name!r}")
        return self

    @property
    def process_names(self) -> tuple[str, ...]:
        """Of the gateways and workers that are started one by one."""
        return (
            *(f"gateway-{number}" for number in range(self.fleet.gateways)),
            *(f"worker-{number}" for number in range(self.fleet.workers)),
        )

    @property
    def is_apart(self) -> bool:
        """Whether the workers are not a gateway's own children."""
        return self.fleet.gateways > 1 or bool(self.events)

    @property
    def parts(self) -> tuple[Traffic, ...]:
        """Who asks parts of what the ramp found."""
        return tuple(one for one in self.traffic if one.arrivals.part)

    @property
    def ramp(self) -> Ramp | None:
        """The ramp that it is, if it is one."""
        return self.traffic[0].arrivals.ramp


def load_scenario(name: str) -> Scenario:
    """A file of scenarios/ by its name, or any by its path. Raises BadScenario."""
    path = Path(name) if name.endswith(".yaml") else SCENARIOS / f"{name}.yaml"
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Scenario.model_validate(document)
    except OSError as error:
        raise BadScenario(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise BadScenario(f"{path}: not YAML: {error}") from None
    except ValidationError as error:
        faults = (
            f"{'.'.join(map(str, one['loc'])) or 'scenario'}: {one['msg']}"
            for one in error.errors(include_url=False)
        )
        raise BadScenario(f"{path}: {'; '.join(faults)}") from None


def scenario_names() -> list[str]:
    """Of all files of scenarios/."""
    return sorted(path.stem for path in SCENARIOS.glob("*.yaml"))
