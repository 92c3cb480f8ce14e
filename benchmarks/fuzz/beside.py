"""Another client, in a process of its own: python -m benchmarks.fuzz.beside ADDRESS

Calls ListModels without pause until SIGTERM. A line for each call: what it took in seconds, and,
where it failed, how.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import click
import grpc

from benchmarks.fuzz.frames import LIST_MODELS

CALL_INTERVAL_S = 0.05
CALL_LIMIT_S = 30.0


def main() -> None:
    """Never returns."""
    with grpc.insecure_channel(sys.argv[1]) as channel:
        listing: Any = channel.unary_unary(LIST_MODELS)  # messages are bytes
        while True:
            started_s, failure = time.perf_counter(), ""
            try:
                listing(b"", timeout=CALL_LIMIT_S)
            except grpc.RpcError as error:
                failure = f" {error.code().name}: {error.details()}"
            click.echo(f"{time.perf_counter() - started_s:.6f}{failure}")
            time.sleep(CALL_INTERVAL_S)


if __name__ == "__main__":
    main()
