"""One run of a scenario, from the fleet's start to the report."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from benchmarks.timing import say
from deltafleet.v1 import cost_pb2, inference_pb2, inference_pb2_grpc
from loadtests.access import Access, frame_of
from loadtests.fleet import Door, Fleet, running_fleet
from loadtests.generators import Generators, generating
from loadtests.plan import LoadPlan
from loadtests.record import Record, read_records
from loadtests.saturation import is_saturated, knee_rate, steps, whole_stages
from loadtests.scenario import BadScenario, Event, Ramp, Scenario, Stage, Traffic
from loadtests.schedule import question
from loadtests.watching import Sample, cost_report, scrape, watching

LOOK_S = 1.0
WARM_UP_LIMIT_S = 60.0  # for each question
END_LIMIT_S = 60.0  # beyond the last deadline


@dataclass(frozen=True, slots=True)
class Place:
    """Where a scenario runs. generators: locust processes beside its master; 0: one, alone.

    doors: of gateways that run already; none: the demo fleet is started. access: to them.
    """

    directory: Path
    generators: int = 0
    doors: tuple[Door, ...] = ()
    access: Access = field(default_factory=Access)


@dataclass(slots=True)
class Phase:
    """One phase as it was. events: (seconds since it began, what)."""

    began_at: float
    stages: tuple[tuple[Stage, ...], ...]
    seconds: float
    records: list[Record]
    events: list[tuple[float, str]] = field(default_factory=list)


@dataclass(slots=True)
class Run:
    """All that a run left. before, after: what gateways told at its edges."""

    phases: list[Phase]
    samples: list[Sample]
    before: Sample
    after: Sample
    costs: cost_pb2.GetCostReportResponse

    @property
    def records(self) -> list[Record]:
        """Of all phases."""
        return [one for phase in self.phases for one in phase.records]


async def run_scenario(scenario: Scenario, place: Place) -> Run:
    """Raises BadScenario, RuntimeError where a process fails."""
    async with _fleet(scenario, place) as (fleet, doors):
        addresses = tuple(door.address for door in doors)
        pages = [door.metrics for door in doors if door.metrics]
        await _warm_up(scenario, addresses, place.access)
        before, began_at = await scrape(pages), time.time()
        async with watching(pages) as samples:
            phases = await _phases(scenario, place, addresses, fleet)
        after = await scrape(pages)
        costs = await cost_report(addresses[0], place.access, began_at)
        return Run(phases, samples, before, after, costs)


@contextlib.asynccontextmanager
async def _fleet(
    scenario: Scenario, place: Place
) -> AsyncIterator[tuple[Fleet | None, Sequence[Door]]]:
    if place.doors:
        if scenario.events:
            raise BadScenario("events: only a fleet that is started here can be restarted")
        yield None, place.doors
        return
    say("starting the fleet")
    async with running_fleet(scenario, place.directory) as fleet:
        yield fleet, fleet.gateways


async def _warm_up(scenario: Scenario, addresses: Sequence[str], access: Access) -> None:
    """Ask each gateway one question of each task, so that all weights have been built once, and
    for its costs, so that a key that may not read them is known before the load.
    """
    frame: dict[str, Any] = {"timeout": WARM_UP_LIMIT_S, "wait_for_ready": True}
    for address in addresses:
        async with access.open_channel([address]) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            try:
                for traffic in scenario.traffic:
                    for task in traffic.tasks:
                        request = _one_question(traffic, task, scenario.seed)
                        await stub.Generate(request, metadata=frame_of(), **frame)
                await cost_report(address, access, time.time())
            except grpc.aio.AioRpcError as error:
                why = f"{address} does not answer: {error.code().name} {error.details()}"
                raise RuntimeError(why) from None


def _one_question(traffic: Traffic, task: str, seed: int) -> inference_pb2.GenerateRequest:
    asked = question(traffic.model_copy(update={"tasks": (task,)}), seed, -1)
    return inference_pb2.GenerateRequest(
        prompt=asked.problem.prompt, model=traffic.model or "", max_output_token_count=8
    )


async def _phases(
    scenario: Scenario, place: Place, addresses: tuple[str, ...], fleet: Fleet | None
) -> list[Phase]:
    stages = tuple(
        one.arrivals.ramp.stages() if one.arrivals.ramp else one.arrivals.stages
        for one in scenario.traffic
    )
    seconds = max(one.arrivals.seconds for one in scenario.traffic)
    plan = _plan(scenario, place, addresses, 0, stages)
    first = await _run_phase(plan, place, seconds, fleet)
    ramp = scenario.ramp
    if ramp is None:
        return [first]
    knee = knee_rate(steps(first.records, first.stages[0]))
    say(f"saturated by {knee:.1f} requests/s")
    phases = [first]
    for hold in holds(scenario, ramp, knee):
        plan = _plan(scenario, place, addresses, len(phases), hold)
        phases.append(await _run_phase(plan, place, ramp.overload_s, fleet))
    return phases


def holds(scenario: Scenario, ramp: Ramp, knee: float) -> list[tuple[tuple[Stage, ...], ...]]:
    """What comes after a ramp, phase for phase, of each traffic; the overload last. Pure."""
    if not scenario.parts:
        return [((Stage(seconds=ramp.overload_s, rate=ramp.overload * knee),),)]
    parts = [one.arrivals.part for one in scenario.traffic]
    return [
        tuple(
            (Stage(seconds=ramp.overload_s, rate=knee * getattr(one, when)),) if one else ()
            for one in parts
        )
        for when in ("calm", "crowded")
    ]


def _plan(
    scenario: Scenario,
    place: Place,
    addresses: tuple[str, ...],
    phase: int,
    stages: tuple[tuple[Stage, ...], ...],
) -> LoadPlan:
    return LoadPlan(
        scenario=scenario,
        phase=phase,
        stages=stages,
        addresses=addresses,
        generators=max(1, place.generators),
        access=place.access,
        directory=place.directory.resolve(),
    )


async def _run_phase(plan: LoadPlan, place: Place, seconds: float, fleet: Fleet | None) -> Phase:
    events: list[tuple[float, str]] = []
    longest_s = max(one.deadline_s for one in plan.scenario.traffic)
    async with generating(plan, distributed=place.generators > 0) as generators:
        say(f"load for {'at most ' if plan.scenario.ramp else ''}{seconds:.0f} s")
        async with asyncio.TaskGroup() as group:
            if fleet and plan.phase == 0:
                for event in plan.scenario.events:
                    group.create_task(_happen(event, fleet, generators.began_at, events))
            watch = group.create_task(_end_ramp(plan, generators))
            await generators.wait(seconds + longest_s + END_LIMIT_S)
            watch.cancel()
    records, stages = read_records(plan.record_files()), plan.stages
    if plan.stop_file.exists():
        seconds = max(one.at_s for one in records)
        stages = (whole_stages(plan.stages[0], seconds), *plan.stages[1:])
    return Phase(generators.began_at, stages, seconds, records, sorted(events))


async def _happen(
    event: Event, fleet: Fleet, began_at: float, log: list[tuple[float, str]]
) -> None:
    await asyncio.sleep(max(0.0, began_at + event.at_s - time.time()))

    def note(what: str) -> None:
        log.append((time.time() - began_at, what))
        say(what)

    for name in event.restart:
        note(f"SIGTERM to {name}")
        await fleet.restart(name)
        note(f"{name} serves again")
        await asyncio.sleep(event.pause_s)
    for name in event.kill:
        note(f"SIGKILL to {name}")
    await asyncio.gather(*(fleet.kill(name) for name in event.kill))


async def _end_ramp(plan: LoadPlan, generators: Generators) -> None:
    """Stop the ramp when it has saturated the fleet."""
    if plan.scenario.ramp is None or plan.phase:
        return
    stages = plan.stages[0]
    while True:
        await asyncio.sleep(LOOK_S)
        now_s = time.time() - generators.began_at
        records = read_records(plan.record_files())
        over = [one for one in steps(records, stages) if one.end_s <= now_s]
        if is_saturated(over):
            generators.stop()
            return
