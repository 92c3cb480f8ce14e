"""Locust's side: starts what sends, at one moment in all processes, and counts what it reports.

Run by `loadtests.generators`. One user is one whole generator (`sending.py`): an open loop waits
for nobody, so that it needs no user for each request that is under way.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gevent
from gevent.event import AsyncResult
from locust import User, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner, Runner, WorkerRunner

from loadtests.plan import LoadPlan
from loadtests.record import Record, read_line

BEGIN, ENDED = "deltafleet-begin", "deltafleet-ended"
LEAD_S = 3.0  # for all processes to be ready when it begins
begins_at: AsyncResult[float] = AsyncResult()
failed: list[int] = []  # exit codes of senders of this process


@events.init_command_line_parser.add_listener
def _add_arguments(parser: LocustArgumentParser) -> None:
    parser.add_argument("--plan", help="a file with what to send: a LoadPlan")  # sent as text


@events.init.add_listener
def _listen(environment: Environment, **_: Any) -> None:
    runner = _runner(environment)
    ended: list[object] = []

    def hear_begin(msg: Any, **_: Any) -> None:
        begins_at.set(msg.data)

    def hear_end(**_: Any) -> None:
        ended.append(None)
        if len(ended) == _plan(environment).generators:
            gevent.spawn(runner.quit)

    if not isinstance(runner, MasterRunner):
        runner.register_message(BEGIN, hear_begin)
    if not isinstance(runner, WorkerRunner):
        runner.register_message(ENDED, hear_end)


@events.test_start.add_listener
def _tell_begin(environment: Environment, **_: Any) -> None:
    if isinstance(environment.runner, WorkerRunner):
        return
    begin = time.time() + LEAD_S
    _runner(environment).send_message(BEGIN, begin)
    _plan(environment).begin_file.write_text(repr(begin))


@events.quitting.add_listener
def _exit_well(environment: Environment, **_: Any) -> None:
    # Whether requests went well is for the scenario's limits to say.
    environment.process_exit_code = 1 if failed else 0


def _plan(environment: Environment) -> LoadPlan:
    assert environment.parsed_options is not None
    return LoadPlan.model_validate_json(Path(environment.parsed_options.plan).read_text())


def _runner(environment: Environment) -> Runner:
    assert environment.runner is not None
    return environment.runner


class Generator(User):
    """One generator."""

    @task
    def send_all(self) -> None:
        """Everything, up to the last answer."""
        runner, plan = _runner(self.environment), _plan(self.environment)
        place = runner.worker_index  # type: ignore[attr-defined]
        command = [sys.executable, "-m", "loadtests.sending", self.environment.parsed_options.plan]
        command += ["--place", str(place), "--begin", repr(begins_at.get())]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sender,
            plan.record_file(place).open("w") as records,
        ):
            assert sender.stdout is not None
            for line in sender.stdout:
                records.write(line)
                records.flush()
                tell(self.environment, read_line(line))
        if sender.returncode:
            failed.append(sender.returncode)
        runner.send_message(ENDED, {"generator": place})
        raise StopUser


class Failed(Exception):
    """What locust counts as a failure. It groups them by their text."""


def tell(environment: Environment, record: Record) -> None:
    """Put a request into locust's own statistics, a line for each thing that is measured.

    Its columns are called milliseconds; lines that measure something else say what in their name.
    """

    def fire(kind: str, name: str, value: float, failure: str = "") -> None:
        environment.events.request.fire(  # type: ignore[no-untyped-call]
            request_type=kind,
            name=name,
            response_time=value,
            response_length=record.output_token_count,
            exception=Failed(failure) if failure else None,
            context={},
        )

    kind = "stream" if record.is_streamed else "unary"
    fire(kind, "total latency", 1e3 * record.total_s, record.reason)
    if record.first_token_s is not None:
        fire(kind, "time to first token", 1e3 * record.first_token_s)
    if record.per_token_s is not None:
        fire(kind, "time per output token", 1e3 * record.per_token_s)
    if record.is_routed is not None:
        wrong = "" if record.is_routed else f"{record.task} went to {record.model}"
        fire("marks", "right specialist", 0, wrong)
    if record.is_right is not None:
        fire(
            "marks", "right answer", 0, "" if record.is_right else f"a wrong answer: {record.task}"
        )
    if record.is_answered:
        fire("nano-USD", "cost", record.cost_nano_usd)
        for baseline, cost in record.baselines.items():
            fire("nano-USD", f"at {baseline}", cost)
