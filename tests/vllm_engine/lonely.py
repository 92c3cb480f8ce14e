"""A process that starts vLLM, says so, and waits to be killed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from vllm_engine.probing import start_process


async def main() -> None:
    await start_process(Path(sys.argv[1]))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
