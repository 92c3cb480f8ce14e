"""Workers that somebody else started: the gateway connects to their addresses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deltafleet.v1 import inference_pb2
from support.certificates import make_authority
from support.fleet import DEMO, REPO, Fleet, first_text, rest, running_fleet, until


@contextlib.asynccontextmanager
async def running_worker(
    name: str, address: str, *options: str, **overrides: object
) -> AsyncIterator[asyncio.subprocess.Process]:
    """python -m model_pool, on its own. overrides: as in running_fleet."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "model_pool", str(DEMO), "--worker", name, "--listen", address),
        *options,
        cwd=REPO,
        env=os.environ
        | {f"DELTAFLEET_{key.upper()}": json.dumps(value) for key, value in overrides.items()},
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def metrics(fleet: Fleet) -> str:
    """What Prometheus reads of the gateway."""
    with urllib.request.urlopen(f"http://{fleet.metrics}/metrics") as page:
        return page.read().decode()


async def test_two_workers_at_addresses_and_one_that_leaves(tmp_path: Path) -> None:
    addresses = {name: f"unix:{tmp_path / name}.sock" for name in ("left", "right")}
    workers = [{"name": name, "address": address} for name, address in addresses.items()]
    async with (
        running_worker("left", addresses["left"]) as left,
        running_worker("right", addresses["right"]),
        running_fleet(tmp_path, pool__workers=workers) as fleet,
    ):
        assert not fleet.worker_pids(), "the gateway started workers of its own"

        async def are_both_up() -> bool:
            page = await asyncio.to_thread(metrics, fleet)
            return all(f'deltafleet_worker_up{{worker="{name}"}} 1.0' in page for name in addresses)

        await until(are_both_up)
        first = await fleet.ask("What is 3 plus 4?")
        again = await fleet.ask("What is 3 plus 4?")
        assert first.summary.worker == again.summary.worker, "the weights are there already"

        left.send_signal(signal.SIGTERM)
        assert await left.wait() == 0
        answers = [await fleet.ask("What is 3 plus 4?") for _ in range(5)]
        assert {answer.summary.worker for answer in answers} == {"right"}
        assert {answer.text for answer in answers} == {first.text}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


async def until_health(address: str, *wanted: str) -> str:
    """What health of a worker says, once it is one of those; GONE where nobody listens."""
    async with grpc.aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while True:
            try:
                answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=10)
                told = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
            except grpc.aio.AioRpcError:
                told = "GONE"
            if told in wanted:
                return told
            await asyncio.sleep(0.02)


def waiting_count(fleet: Fleet, model: str) -> float:
    lines = metrics(fleet).splitlines()
    start = f'deltafleet_pool_waiting_requests{{model="{model}"}} '
    return next(float(line.removeprefix(start)) for line in lines if line.startswith(start))


async def test_a_worker_is_found_by_dns_and_drains_before_it_goes(
    tmp_path: Path, long_request: inference_pb2.GenerateRequest
) -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    small = {"dns": f"localhost:{port}", "interval_s": 0.1, "hardware": {"usd_per_hour": 3.6}}
    pool = {"pool__workers": [], "pool__discovery": {"small": small}}
    async with running_fleet(tmp_path, awaits_workers=False, **pool) as fleet:
        asked = asyncio.create_task(fleet.ask("What is 3 plus 4?"))

        async def does_one_wait() -> bool:
            return waiting_count(fleet, "arithmetic") == 1

        await until(does_one_wait)
        preload = {"pool__preload": ["arithmetic"]}
        async with running_worker(
            "pod-0", address, "--group", "small", **pool, **preload
        ) as worker:
            answer = await asked
            assert answer.summary.worker == "pod-0"
            assert answer.summary.cost_nano_usd > 0, "it costs what its group does"
            assert await until_health(address, "SERVING")
            assert waiting_count(fleet, "arithmetic") == 0

            call = fleet.inference.StreamGenerate(long_request)
            await first_text(call)
            worker.send_signal(signal.SIGTERM)
            # It may have ended within the time that one question takes.
            assert await until_health(address, "NOT_SERVING", "GONE")
            events = await rest(call)
            assert events[-1].HasField("summary"), "what ran went on to its end"
            assert await worker.wait() == 0
        async with running_worker("pod-1", address, "--group", "small", **pool):
            again = await fleet.ask("What is 3 plus 4?")
            assert (again.summary.worker, again.text) == ("pod-1", answer.text)


async def test_a_worker_over_tls_that_comes_back_with_new_certificates(tmp_path: Path) -> None:
    address, probes = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    files = make_authority().write(tmp_path, "worker")
    tls = {"ca": str(files.ca), "certificate": str(files.certificate), "key": str(files.key)}
    pool = {"pool__workers": [{"name": "far", "address": address}], "pool__tls": tls}
    far = ("far", address, "--health-listen", probes)
    async with running_fleet(tmp_path, awaits_workers=False, **pool) as fleet:
        async with running_worker(*far, **pool):
            first = await fleet.ask("What is 3 plus 4?")
            assert first.summary.worker == "far"
            assert await until_health(address, "GONE"), "nobody is heard in plain text"
            assert await until_health(probes, "SERVING")
        make_authority().write(tmp_path, "worker")
        async with running_worker(*far, **pool):
            again = await fleet.ask("What is 3 plus 4?")
            assert (again.summary.worker, again.text) == ("far", first.text)


async def test_a_worker_that_is_stopped_while_it_starts_ends_in_good_order(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'early'}.sock"
    async with running_worker("early", address) as worker:
        await until_health(address, "NOT_SERVING", "SERVING")
        worker.send_signal(signal.SIGTERM)
        assert await worker.wait() == 0
