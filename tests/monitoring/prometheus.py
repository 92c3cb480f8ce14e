"""A real Prometheus beside the tests: tools/prometheus-env brings it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from support.fleet import REPO

BIN = REPO / "build" / "prometheus" / "bin"
PROMETHEUS, PROMTOOL = BIN / "prometheus", BIN / "promtool"
START_LIMIT_S = 60


@dataclass(frozen=True)
class Prometheus:
    """A running one. address: host:port."""

    address: str

    async def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its HTTP API. Raises AssertionError where it refuses."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        answer = json.loads(await asyncio.to_thread(_read, url))
        assert answer["status"] == "success", f"{parameters}: {answer}"
        return answer["data"]

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression has now."""
        found: list[dict[str, Any]] = (await self.get("query", query=expression))["result"]
        return found


def _read(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url) as answer:
            body: bytes = answer.read()
    except urllib.error.HTTPError as error:
        body = error.read()
    return body


@contextlib.asynccontextmanager
async def running_prometheus(
    directory: Path, target: str, rule_files: list[Path]
) -> AsyncIterator[Prometheus]:
    """One that asks the target, host:port, every second. It keeps its data in the directory."""
    config = directory / "prometheus.yml"
    config.write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(file) for file in rule_files],
                "scrape_configs": [
                    {"job_name": "deltafleet", "static_configs": [{"targets": [target]}]}
                ],
            }
        )
    )
    address = f"127.0.0.1:{_free_port()}"
    log = directory / "prometheus.log"
    with log.open("w") as output:
        process = await asyncio.create_subprocess_exec(
            *(PROMETHEUS, f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}"),
            *(f"--web.listen-address={address}", "--enable-feature=exemplar-storage"),
            stdout=output,
            stderr=output,
        )
    try:
        await _until_ready(process, address, log)
        yield Prometheus(address)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _until_ready(process: asyncio.subprocess.Process, address: str, log: Path) -> None:
    async with asyncio.timeout(START_LIMIT_S):
        while True:
            assert process.returncode is None, log.read_text()
            with contextlib.suppress(OSError):
                if b"Ready" in await asyncio.to_thread(_read, f"http://{address}/-/ready"):
                    return
            await asyncio.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
