"""A Redis of our own on a Unix socket, for the tests and for killing it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from gateway.limits.redis import RedisCounters
from support.fleet import REPO

START_LIMIT_S = 30.0


class RedisServer:
    """One server, started. What it counted is lost when it is killed, unless `is_durable`."""

    def __init__(self, *, is_durable: bool = False) -> None:
        # A socket's path may have about a hundred characters.
        self._home = Path(tempfile.mkdtemp(prefix="limits-redis-", dir="/tmp"))
        self._socket = self._home / "redis.sock"
        self._is_durable = is_durable
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"unix://{self._socket}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(
            [
                *(_program(), "--port", "0", "--unixsocket", self._socket, "--dir", self._home),
                *("--save", "", "--appendonly", "yes" if self._is_durable else "no"),
                *("--appendfsync", "always"),
            ],
            stdout=subprocess.DEVNULL,
        )
        until_s = time.monotonic() + START_LIMIT_S
        with self.client() as client:
            while True:
                try:
                    client.ping()
                except RedisError:
                    assert time.monotonic() < until_s, "it does not answer"
                    time.sleep(0.02)
                else:
                    return

    def client(self) -> Redis:
        """For looking into it."""
        return Redis(unix_socket_path=str(self._socket))

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """SIGSTOP: connections stay, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def remove(self) -> None:
        """Kill it, and remove its files."""
        self.kill()
        shutil.rmtree(self._home)


class ClockedCounters(RedisCounters):
    """Counts by a clock that the test sets, in the key `clock`, in seconds since 1970."""

    def _script(self, *names: str) -> object:
        script = super()._script(*names)
        text = script.script.replace("redis.call('TIME')", "{redis.call('GET', 'clock'), '0'}")
        return self._redis.register_script(text)


def counters_at(url: str, *, prefix: str = "test", kind: type = RedisCounters) -> RedisCounters:
    """Patient: no decision of a test depends on how busy the machine is."""
    return kind(url, prefix=prefix, connect_timeout_s=30, operation_timeout_s=30, lease_s=30)


def _program() -> str:
    ours = REPO / "build" / "redis" / "redis-server"
    found = str(ours) if ours.exists() else shutil.which("redis-server")
    if found is None:
        raise FileNotFoundError("there is no Redis here; tools/redis-env makes one")
    return found
