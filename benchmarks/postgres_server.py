"""A PostgreSQL of our own on a Unix socket, for the tests and for killing it."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa

REPO = Path(__file__).resolve().parents[1]
USER = "deltafleet"
START_LIMIT_S = 30.0


class PostgresServer:
    """One server, not started yet, in a new directory; `remove` it last.

    Its databases live as long as it does. Root may not run it, so that where we are root, it runs
    as the user postgres or nobody. password: of its user, asked for on the socket too.
    """

    def __init__(self) -> None:
        self._bin = _programs()
        # A socket's path may have about a hundred characters.
        self._home = Path(tempfile.mkdtemp(prefix="ledger-pg-", dir="/tmp"))
        self._data = self._home / "data"
        self.password = secrets.token_hex(12)
        self._user = _user()
        if self._user:
            shutil.chown(self._home, self._user.pw_uid, self._user.pw_gid)
        password_file = self._home / "password"
        password_file.write_text(self.password)
        password_file.chmod(0o644)  # in a directory that is theirs alone
        self._run(
            *("initdb", "-D", str(self._data), "-U", USER, "-E", "UTF8", "--locale=C.UTF-8"),
            *("--auth=scram-sha-256", f"--pwfile={password_file}"),
        )
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(f"unix_socket_directories = '{self._home}'\nlisten_addresses = ''\n")
            # Small, and strict: what is committed must survive what is done to it here.
            file.write("shared_buffers = 16MB\nmax_connections = 40\nfsync = on\n")

    def url(self, database: str = "postgres") -> sa.URL:
        """Where a database of it is, with the password."""
        return sa.URL.create(
            "postgresql+psycopg",
            username=USER,
            password=self.password,
            database=database,
            query={"host": str(self._home)},
        )

    def start(self) -> None:
        """Start it, and wait until it answers; after a crash that takes its recovery."""
        until_s = time.monotonic() + START_LIMIT_S
        log = str(self._home / "log")
        while True:
            try:
                self._run("pg_ctl", "start", "-w", "-s", "-D", str(self._data), "-l", log)
            except subprocess.CalledProcessError:
                # What a killed server left behind is still ending.
                if time.monotonic() > until_s:
                    raise
                time.sleep(0.2)
            else:
                return

    def stop(self) -> None:
        """Stop it at once; it recovers what was committed when it starts again."""
        self._run("pg_ctl", "stop", "-s", "-m", "immediate", "-D", str(self._data))

    def kill(self) -> None:
        """SIGKILL its first process; the others end by themselves when they see that."""
        pid = int((self._data / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        """Stop it if it runs, and remove its files."""
        if (self._data / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self._home)

    def create(self, database: str) -> sa.URL:
        """A new, empty database."""
        engine = sa.create_engine(self.url(), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f'CREATE DATABASE "{database}"')
        engine.dispose()
        return self.url(database)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._bin / program, *arguments],
            check=True,
            cwd=self._home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=self._user.pw_uid if self._user else None,
            group=self._user.pw_gid if self._user else None,
            extra_groups=[] if self._user else None,
        )


def _programs() -> Path:
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    for place in (REPO / "build" / "postgres" / "bin", *reversed(installed)):
        if (place / "postgres").exists():
            # Where links lead: the server's user may not be allowed into this directory.
            return (place / "postgres").resolve().parent
    raise FileNotFoundError("there is no PostgreSQL here; tools/postgres-env makes one")


def _user() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("PostgreSQL does not run as root, and there is no user postgres or nobody")
