"""A load test of gateways that ask for a key and speak TLS."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
import yaml

from gateway.commands.client_channel import ClientTls, open_channel
from support.certificates import make_authority
from support.fleet import REPO, Fleet, running_fleet
from support.issuer import Issuer
from support.tenants import Tenants

SCENARIO = {
    "description": "A few questions",
    "traffic": [{"arrivals": {"stages": [{"seconds": 3, "rate": 3}]}, "deadline_s": 60}],
    "limits": {"route_accuracy": 0},
    "generator_lag_p99_s": 60,
}


@dataclass
class Guarded:
    """A fleet, and how to be let in."""

    fleet: Fleet
    tls: ClientTls
    key: str
    scenario: Path


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    directory = tmp_path_factory.mktemp("guarded")
    issuer = Issuer()
    tenants = Tenants(directory, issuer)
    issuer.close()
    tenants.add("load-tester", scopes=["infer", "read-costs"])
    key = tenants.key_of("load-tester")
    tls = make_authority().write(directory, "gateway")
    scenario = directory / "few.yaml"
    scenario.write_text(yaml.safe_dump(SCENARIO))

    def connect(address: str) -> grpc.aio.Channel:
        return open_channel(address, ClientTls(tls.ca), None)

    settings = {
        "server__tls": {"certificate": str(tls.certificate), "key": str(tls.key)},
        "identity": {"keys_file": str(tenants.keys_file)},
    }
    async with running_fleet(directory, connect=connect, **settings) as fleet:
        yield Guarded(fleet, tls, key, scenario)


async def load(guarded: Guarded, out: Path, *options: str, key: str = "") -> tuple[int, str]:
    """The exit code, and what was printed."""
    without = {name: value for name, value in os.environ.items() if name != "DELTAFLEET_API_KEY"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtests", "run", str(guarded.scenario), "--out", str(out)),
        *("--host", guarded.fleet.address, "--metrics", guarded.fleet.metrics, *options),
        cwd=REPO,
        env=without | ({"DELTAFLEET_API_KEY": key} if key else {}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode()


async def test_a_key_and_an_authority_let_it_in(guarded: Guarded, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, printed = await load(guarded, out, "--tls-ca", str(guarded.tls.ca), key=guarded.key)

    assert code == 0, printed
    report = json.loads((out / "report.json").read_text())
    assert report["all"]["sent"] == report["all"]["answered"] > 0
    assert report["ledger"]["requests"] == report["all"]["sent"]
    files = [path for path in out.rglob("*") if path.is_file()]
    assert files
    assert [path.name for path in files if guarded.key in path.read_text(errors="replace")] == []
    assert guarded.key not in printed


async def test_several_gateways_are_known_by_one_name(guarded: Guarded, tmp_path: Path) -> None:
    """gRPC would ask their certificates for all the addresses at once."""
    twice = f"{guarded.fleet.address},{guarded.fleet.address}"
    options = ("--host", twice, "--tls-ca", str(guarded.tls.ca), "--tls-name", "gateway")
    code, printed = await load(guarded, tmp_path / "run", *options, key=guarded.key)
    assert code == 0, printed


@pytest.mark.parametrize("key", ["", "dfk_wrong"])
async def test_without_the_key_nothing_is_sent(guarded: Guarded, tmp_path: Path, key: str) -> None:
    options = ("--tls-ca", str(guarded.tls.ca))
    code, printed = await load(guarded, tmp_path / "run", *options, key=key)
    assert code == 2
    assert "UNAUTHENTICATED" in printed
