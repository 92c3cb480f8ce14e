"""The deltafleet command as a person types it, in a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass

from support.fleet import REPO


@dataclass(frozen=True)
class Ended:
    """A command's end."""

    code: int
    output: str
    errors: str


async def run(*arguments: object, **variables: str) -> Ended:
    """deltafleet ARGUMENTS. variables: of the environment, beside those of this process."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *map(str, arguments)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=REPO,
        env=os.environ | variables,
    )
    output, errors = await process.communicate()
    return Ended(process.returncode or 0, output.decode(), errors.decode())
