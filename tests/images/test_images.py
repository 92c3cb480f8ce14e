"""The built images, run as Kubernetes runs them: make test-images."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from images.podman import (
    DEMO_FLEET,
    GATEWAY,
    WORKER,
    Container,
    inspect,
    mounts,
    podman,
    running,
)

from deltafleet.v1 import inference_pb2, inference_pb2_grpc
from examples.demo.run import ask_all, draw_problems
from support.fleet import DEMO, REPO, first_text, rest

LOCAL = REPO / "deploy" / "k8s" / "overlays" / "local" / "fleet.yaml"
START_LIMIT_S = 60
HEALTH = health_pb2.HealthCheckResponse
# What a caller of "The sea" at this heat gets is long enough to be in flight for a while.
LONG = {"prompt": "The sea", "model": "base", "temperature": 2, "max_output_token_count": 400}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


async def until_serving(address: str) -> float:
    """Seconds until health says SERVING."""
    began_s = time.monotonic()
    async with asyncio.timeout(START_LIMIT_S):
        while True:
            async with grpc.aio.insecure_channel(address) as channel:
                try:
                    answer = await health_pb2_grpc.HealthStub(channel).Check(
                        health_pb2.HealthCheckRequest(), timeout=5
                    )
                    if answer.status == HEALTH.SERVING:
                        return time.monotonic() - began_s
                except grpc.aio.AioRpcError:
                    pass
            await asyncio.sleep(0.05)


@dataclass
class Deployed:
    """One gateway and two workers, each in a container. workers: by name. metrics: host:port."""

    address: str
    metrics: str
    gateway: Container
    workers: dict[str, Container]
    stub: inference_pb2_grpc.InferenceServiceStub


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node's copy of the base, filled by the image's own init command."""
    place = tmp_path_factory.mktemp("node")
    place.chmod(0o777)
    command = ["-m", "model_pool.node_cache", "/models/base", "/node/base"]
    podman(
        *("run", "--rm", "--read-only", "--cap-drop=all", f"--volume={place}:/node"),
        *("--network=none", "--entrypoint=python", DEMO_FLEET, *command),
    )
    return place / "base"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def deployed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployed]:
    port, door, metrics = free_port(), free_port(), free_port()
    hosts = tmp_path_factory.mktemp("hosts") / "hosts"  # the headless Service
    hosts.write_text("".join(f"127.0.0.{n} deltafleet-worker-cpu\n" for n in (1, 2)))
    places = {LOCAL: "/etc/deltafleet/fleet.yaml", hosts: "/etc/hosts"}
    examples = {DEMO.parent / "routing": "/etc/deltafleet-examples"}
    cpu = {"dns": f"deltafleet-worker-cpu:{port}", "interval_s": 0.5}
    discovery = f"--env=DELTAFLEET_POOL__DISCOVERY={json.dumps({'cpu': cpu})}"

    def worker(n: int) -> object:
        listen = ["--group", "cpu", "--listen", f"127.0.0.{n + 1}:{port}", "--worker", f"pod-{n}"]
        options = [*mounts({**places, base: "/var/lib/deltafleet/base"}), discovery]
        return running(DEMO_FLEET, ["/etc/deltafleet/fleet.yaml", *listen], options=options)

    listen = ["--listen", f"127.0.0.1:{door}", "--metrics", f"127.0.0.1:{metrics}"]
    patient = "--env=DELTAFLEET_ROUTING__ENCODER_BUDGET_S=60"
    gateway = running(
        GATEWAY,
        ["up", "/etc/deltafleet/fleet.yaml", *listen],
        options=[*mounts(places | examples), discovery, patient],
    )
    async with gateway as one, worker(0) as left, worker(1) as right:
        seconds = await asyncio.gather(
            until_serving(f"127.0.0.1:{door}"),
            until_serving(f"127.0.0.1:{port}"),
            until_serving(f"127.0.0.2:{port}"),
        )
        for name, taken_s in zip(("gateway", "worker", "worker"), seconds, strict=True):
            sys.stderr.write(f"\n{name} healthy after {taken_s:.1f} s")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{door}") as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            yield Deployed(
                f"127.0.0.1:{door}",
                f"127.0.0.1:{metrics}",
                one,
                {"pod-0": left, "pod-1": right},
                stub,
            )


@pytest.mark.parametrize("image", [GATEWAY, WORKER, DEMO_FLEET])
def test_an_image_is_small_plain_and_unprivileged(image: str) -> None:
    known = inspect(image)
    sys.stderr.write(f"\n{image}: {known['Size'] / 2**20:,.0f} MiB")
    assert known["Config"]["User"] == "10001:10001"
    assert known["Config"]["Labels"]["org.opencontainers.image.version"]
    told = " ".join(known["Config"]["Env"]).lower()
    assert not [word for word in ("key", "token", "password", "secret") if word in told]

    look = (
        "for name in gcc cc g++ make git; do command -v $name; done; "
        "ls -d ~root/.cache /tmp/* /var/cache/apt/archives/*.deb /src /pip /opt/venv/bin/pip* "
        "/opt/venv/lib/python*/site-packages/pip 2>/dev/null; "
        "find / -xdev -name '.env' -o -xdev -name 'pip.conf' -o -xdev -name '*.sqlite3'; true"
    )
    shell = ("--rm", "--network=none", "--entrypoint=sh")
    assert podman("run", *shell, image, "-c", look).split() == []


@pytest.mark.parametrize(("image", "package"), [(GATEWAY, "sqlalchemy"), (WORKER, "transformers")])
def test_a_start_compiles_no_python(image: str, package: str) -> None:
    shell = ("run", "--rm", "--network=none", "--entrypoint=sh", image, "-c")
    places = f"/opt/deltafleet /opt/venv/lib/python3.11/site-packages/{package}"
    sources, compiled = (
        podman(*shell, f"find {places} -name '*.py{end}' | wc -l") for end in ("", "c")
    )
    assert int(compiled) >= 0.95 * int(sources) > 50


def test_the_gateway_has_no_torch() -> None:
    names = podman(
        *("run", "--rm", "--network=none", "--entrypoint=ls", GATEWAY),
        "/opt/venv/lib/python3.11/site-packages",
    ).split()
    assert "onnxruntime" in names
    assert not {"torch", "transformers", "sentence_transformers"} & set(names)


async def test_nothing_is_fetched_when_the_gateway_starts() -> None:
    """It has the encoder, and no network."""
    places = {
        LOCAL: "/etc/deltafleet/fleet.yaml",
        DEMO.parent / "routing": "/etc/deltafleet-examples",
    }
    async with running(GATEWAY, [], options=mounts(places), network="none") as alone:
        # The image's own command names the file, and both ports.
        alone_s = time.monotonic()
        async with asyncio.timeout(START_LIMIT_S):
            while "deltafleet listens on" not in alone.logs():
                assert podman("inspect", "--format={{.State.Running}}", alone.name) == "true\n"
                await asyncio.sleep(0.1)
        sys.stderr.write(f"\ngateway listens after {time.monotonic() - alone_s:.1f} s")


async def test_the_demo_is_answered_by_containers(deployed: Deployed) -> None:
    answers = await ask_all(deployed.address, draw_problems())
    assert [one.task for one in answers if not one.is_routed] == []
    assert sum(one.is_right for one in answers) >= 0.9 * len(answers)
    assert {one.response.summary.worker for one in answers} <= {"pod-0", "pod-1"}


async def test_a_load_test_finds_nothing_wrong_with_containers(
    deployed: Deployed, tmp_path: Path
) -> None:
    """locust's smoke scenario: routes, answers, rows, counters and costs are marked."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtests", "run", "smoke", "--out", str(tmp_path)),
        *("--host", deployed.address, "--metrics", deployed.metrics),
        cwd=REPO,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await process.communicate()
    assert process.returncode == 0, told.decode()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["passed"]
    sys.stderr.write("\n" + "\n".join(told.decode().splitlines()[-12:]))


def read(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}") as answer:
        text: str = answer.read().decode()
    return text


async def test_the_metrics_port_shows_the_page_and_both_workers(deployed: Deployed) -> None:
    page = await asyncio.to_thread(read, f"{deployed.metrics}/")
    assert "<title>" in page and "deltafleet" in page
    lines = (await asyncio.to_thread(read, f"{deployed.metrics}/metrics")).splitlines()
    for name in deployed.workers:
        assert f'deltafleet_worker_up{{worker="{name}"}} 1.0' in lines


def test_the_first_process_is_the_program_itself(deployed: Deployed) -> None:
    for container in (deployed.gateway, *deployed.workers.values()):
        status = container.execute("cat", "/proc/1/status")
        facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert facts["Name"] == "python"
        assert facts["Uid"].split() == ["10001"] * 4
        assert facts["CapEff"] == "0" * 16
        assert facts["NoNewPrivs"] == "1"


async def test_a_worker_told_to_stop_finishes_its_streams(deployed: Deployed) -> None:
    calls = [
        deployed.stub.StreamGenerate(inference_pb2.GenerateRequest(**LONG, seed=seed))
        for seed in range(8)
    ]
    await asyncio.gather(*map(first_text, calls))
    stopped = asyncio.create_task(deployed.workers["pod-0"].stop())
    # Asked while it drains: the other one answers.
    during = await asyncio.gather(
        *(
            deployed.stub.Generate(inference_pb2.GenerateRequest(prompt=f"What is {n} plus 4?"))
            for n in range(5)
        )
    )
    ends = await asyncio.gather(*map(rest, calls))

    assert await stopped == 0
    assert all(events[-1].HasField("summary") for events in ends)
    assert all(answer.text for answer in during)
    after = await deployed.stub.Generate(inference_pb2.GenerateRequest(prompt="What is 3 plus 4?"))
    assert after.summary.worker == "pod-1"


async def test_the_gateway_told_to_stop_finishes_its_streams(deployed: Deployed) -> None:
    call = deployed.stub.StreamGenerate(inference_pb2.GenerateRequest(**LONG, seed=0))
    await first_text(call)
    stopped = asyncio.create_task(deployed.gateway.stop())
    events = await rest(call)

    assert events[-1].HasField("summary")
    assert await stopped == 0
