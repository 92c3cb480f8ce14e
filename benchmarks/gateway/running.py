"""One run: everything started, measured in turns, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gateway import measuring, overload
from benchmarks.gateway.fleet import LITELLM_KEY, specialists, write_fleet, write_litellm
from benchmarks.gateway.loading import Subject
from benchmarks.gateway.measuring import CONCURRENCIES, Figures
from benchmarks.gateway.processes import CLIENT_CORE, SERVER_CORE, Running, limited, running
from benchmarks.gateway.subjects import Gateway, OpenAI, Worker, static_prompts
from benchmarks.timing import say

LITELLM_START_S = 120
KINDS = {
    "grpc.aio": ("asyncio", "grpcio"),
    "grpc.aio, uvloop": ("uvloop", "grpcio"),
}
BARE_KINDS = KINDS | {"pygrpc-native, uvloop": ("uvloop", "native")}
OVERLOAD_S = 20.0
PROCESS_SHARE = 0.35  # of a core
OURS = "grpc.aio, uvloop"  # what is measured beyond the first table


@dataclass(slots=True)
class Stage:
    """Who takes part."""

    directory: Path
    stack: contextlib.AsyncExitStack
    worker: Running
    prompts: list[str] = field(default_factory=list)
    subjects: list[Subject] = field(default_factory=list)
    gateways: dict[str, tuple[Gateway, Running]] = field(default_factory=dict)

    async def start(self, module: str, *arguments: str, core: int = SERVER_CORE) -> Running:
        """One of this package's programs."""
        command = [sys.executable, "-m", f"benchmarks.gateway.{module}", *arguments]
        log = self.directory / f"{module}-{len(self.subjects)}.log"
        return await self.stack.enter_async_context(running(command, core=core, log=log))


async def measure(litellm: Path | None, round_count: int, seconds: float) -> Figures:
    """All figures. litellm: its program. seconds: of each run."""
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        names = [*specialists(), "base"]
        command = [sys.executable, "-m", "benchmarks.gateway.worker_stub", *names]
        worker = await stack.enter_async_context(
            running(command, core=CLIENT_CORE, log=directory / "worker.log")
        )
        stage = Stage(directory, stack, worker)
        await _start_ours(stage)
        await _start_bare(stage)
        if litellm is not None:
            await _start_litellm(stage, litellm)
        return await _figures(stage, round_count, seconds)


async def _start_ours(stage: Stage) -> None:
    direct, upstream = stage.worker.addresses
    stage.subjects.append(Worker("direct", direct))
    for kind, (loop, _) in KINDS.items():
        fleet = stage.directory / f"fleet-{len(stage.gateways)}.yaml"
        metadata = write_fleet(fleet, upstream)
        served = await stage.start("served", str(fleet), "--loop", loop)
        stage.prompts = stage.prompts or await static_prompts(served.addresses[0], metadata)
        cpu_s = _cpu_s_of([served])
        gateway = Gateway(f"gateway, {kind}", served.addresses[:1], stage.prompts, cpu_s, metadata)
        stage.gateways[kind] = gateway, served
        stage.subjects.append(gateway)
        say(f"{gateway.name} started")


async def _start_bare(stage: Stage) -> None:
    upstream = stage.worker.addresses[0]
    for kind, (loop, server) in BARE_KINDS.items():
        bare = await stage.start("bare_proxy", upstream, "--loop", loop, "--server", server)
        cpu_s = _cpu_s_of([bare])
        stage.subjects.append(Worker(f"bare proxy, {kind}", bare.addresses[0], cpu_s))


async def _start_litellm(stage: Stage, litellm: Path) -> None:
    stub = await stage.start("openai_stub", core=CLIENT_CORE)
    upstream = stub.addresses[0]
    stage.subjects.append(OpenAI("direct, HTTP", upstream, stage.prompts))
    configuration, port = stage.directory / "litellm.yaml", _free_port()
    write_litellm(configuration, upstream)
    command = ["sh", "-c", f'echo 127.0.0.1:{port}; exec "$@" >&2', "sh", str(litellm)]
    command += ["--config", str(configuration), "--port", str(port), "--num_workers", "1"]
    quiet = {
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "PYTHONPATH": "",
        "LITELLM_MASTER_KEY": LITELLM_KEY,
    }
    started = await stage.stack.enter_async_context(
        running(command, core=SERVER_CORE, log=stage.directory / "litellm.log", environment=quiet)
    )
    subject = OpenAI("LiteLLM", started.addresses[0], stage.prompts, _cpu_s_of([started]))
    await _until_it_answers(subject)
    stage.subjects.append(subject)
    say("LiteLLM started")


async def _until_it_answers(subject: OpenAI) -> None:
    for _ in range(LITELLM_START_S):
        with contextlib.suppress(OSError):
            found = await measuring.at_once(subject, streams=False, concurrency=1, seconds=1)
            if found["count"]:
                return
        await asyncio.sleep(1)
    raise RuntimeError("LiteLLM does not answer")


async def _figures(stage: Stage, round_count: int, seconds: float) -> Figures:
    gateway, served = stage.gateways[OURS]
    memory = {"started": _memory(served)}
    found: Figures = {
        "round_count": round_count,
        "seconds": seconds,
        "at_once": await _at_once(stage, round_count, seconds),
    }
    memory["after load"] = _memory(served)
    ours: Sequence[Subject] = [*(one for one, _ in stage.gateways.values())]
    say("streams")
    for part, work in {"bursts": measuring.bursts, "paced": measuring.paced}.items():
        wanted = [*ours, *(one for one in stage.subjects if isinstance(one, Worker))]
        found[part] = await _in_turns(wanted, work, round_count, seconds * 2)
    say("aborts, scrapes")
    found["aborts"] = await measuring.aborts(gateway, stage.worker)
    found["scrapes"] = await measuring.scrapes(gateway, served)
    memory["in the end"] = _memory(served)
    say("processes, overload")
    found["processes"] = await _processes(stage, round_count, seconds * 2)
    found["overload"] = await _overload(stage)
    return found | {"memory": memory}


async def _processes(stage: Stage, round_count: int, seconds: float) -> Figures:
    """One process and two, each limited to so little that cores are left for client and stub."""
    gateway, first = stage.gateways[OURS]
    metadata = gateway.metadata
    fleet = str(stage.directory / "fleet-1.yaml")
    second = await stage.start("served", fleet, "--loop", KINDS[OURS][0], core=CLIENT_CORE)
    both = [first.addresses[0], second.addresses[0]]
    await static_prompts(second.addresses[0], metadata)  # until it serves
    subjects = {
        name: Gateway(name, both[: len(watched)], stage.prompts, _cpu_s_of(watched), metadata)
        for name, watched in {"one process": [first], "two processes": [first, second]}.items()
    }
    work = functools.partial(measuring.at_once, streams=False, concurrency=32)
    with limited([first, second], PROCESS_SHARE):
        return await _in_turns(list(subjects.values()), work, round_count, seconds)


async def _overload(stage: Stage) -> Figures:
    """By a gateway that has few places."""
    fleet = stage.directory / "fleet-few.yaml"
    places = overload.PLACE_COUNT * 3 // 4, overload.PLACE_COUNT // 4
    metadata = write_fleet(fleet, stage.worker.addresses[-1], places)
    served = await stage.start("served", str(fleet), "--loop", KINDS[OURS][0])
    await static_prompts(served.addresses[0], metadata)  # until it serves
    cpu_s = _cpu_s_of([served])
    few = Gateway("few places", served.addresses[:1], stage.prompts, cpu_s, metadata)
    return await overload.measure(few, seconds=OVERLOAD_S)


async def _at_once(stage: Stage, round_count: int, seconds: float) -> Figures:
    """streams → concurrency → subject → the rounds' figures."""
    found: Figures = {}
    for streams in (False, True):
        for concurrency in CONCURRENCIES:
            work = functools.partial(measuring.at_once, streams=streams, concurrency=concurrency)
            key = f"{'stream' if streams else 'unary'} {concurrency}"
            found[key] = await _in_turns(stage.subjects, work, round_count, seconds)
            say(key)
    return found


async def _in_turns(
    subjects: Sequence[Subject],
    work: Callable[..., Awaitable[Figures]],
    round_count: int,
    seconds: float,
) -> dict[str, list[Figures]]:
    """One after the other, again and again, so that what else the machine does slows down all."""
    found: dict[str, list[Figures]] = {one.name: [] for one in subjects}
    for _ in range(round_count):
        for subject in subjects:
            found[subject.name].append(await work(subject, seconds=seconds))
    return found


def _memory(process: Running) -> dict[str, int]:
    return {"resident_bytes": process.memory_bytes, "own_bytes": process.own_memory_bytes}


def _cpu_s_of(processes: Sequence[Running]) -> Callable[[], float]:
    return lambda: sum(one.cpu_s for one in processes)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
