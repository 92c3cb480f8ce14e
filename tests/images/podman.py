"""Containers of the built images, run as Kubernetes would: nothing that they do not need."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.fleet import REPO

VERSION = "0.1.0"
GATEWAY = f"localhost/deltafleet-gateway:{VERSION}"
WORKER = f"localhost/deltafleet-worker:{VERSION}"
DEMO_FLEET = f"localhost/deltafleet-demo-fleet:{VERSION}"
HOME = REPO / "build" / "podman"
ENVIRONMENT = os.environ | {
    "CONTAINERS_CONF": str(HOME / "containers.conf"),
    "CONTAINERS_STORAGE_CONF": str(HOME / "storage.conf"),
}
# As the securityContext in deploy/k8s: and no directory can be written to but those that are named.
RESTRICTED = (
    *("--read-only", "--read-only-tmpfs=false", "--cap-drop=all"),
    "--security-opt=no-new-privileges",
)
SCRATCH = ("--tmpfs=/tmp", "--tmpfs=/var/cache/deltafleet", "--tmpfs=/var/lib/deltafleet")


def podman(*arguments: str) -> str:
    """What the command says. Raises AssertionError where it fails."""
    ended = subprocess.run(
        ["podman", *arguments], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, f"podman {' '.join(arguments)}: {ended.stderr}"
    return ended.stdout


def inspect(image: str) -> dict[str, Any]:
    """What podman knows of an image."""
    found: dict[str, Any] = json.loads(podman("image", "inspect", image))[0]
    return found


@dataclass(frozen=True)
class Container:
    """A running one."""

    name: str

    async def stop(self) -> int:
        """SIGTERM to its first process; returns its exit code."""
        podman("kill", "--signal=TERM", self.name)
        return int(await asyncio.to_thread(podman, "wait", self.name))

    def logs(self) -> str:
        """Both its outputs."""
        ended = subprocess.run(
            ["podman", "logs", self.name], env=ENVIRONMENT, capture_output=True, text=True
        )
        return ended.stdout + ended.stderr

    def execute(self, *command: str) -> str:
        """Run a command in it."""
        return podman("exec", self.name, *command)


def mounts(places: dict[Path, str]) -> list[str]:
    """Options that show paths of this machine in a container, read-only."""
    return [f"--volume={path}:{place}:ro" for path, place in places.items()]


@contextlib.asynccontextmanager
async def running(
    image: str, command: Sequence[str], *, options: Sequence[str] = (), network: str = "host"
) -> AsyncIterator[Container]:
    """A container, removed at the end."""
    name = f"deltafleet-{uuid.uuid4().hex[:8]}"
    podman(
        *("run", "--detach", f"--name={name}", f"--network={network}"),
        *RESTRICTED,
        *SCRATCH,
        *options,
        image,
        *command,
    )
    container = Container(name)
    try:
        yield container
    except BaseException:
        sys.stderr.write(container.logs()[-4000:])
        raise
    finally:
        podman("rm", "--force", "--time=0", name)
