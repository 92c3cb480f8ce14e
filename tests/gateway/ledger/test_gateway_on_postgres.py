"""A fleet whose ledger is PostgreSQL, through the real door, also while the server is away."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from grpc import StatusCode

from benchmarks.postgres_server import PostgresServer
from deltafleet.v1 import cost_pb2, inference_pb2
from support.fleet import refusal, running_fleet


async def test_a_fleet_accounts_in_postgresql_and_answers_nothing_that_it_cannot_account_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = PostgresServer()
    try:
        server.start()
        url = server.create("ledger")
        monkeypatch.setenv("DELTAFLEET_LEDGER_URL", url.render_as_string(hide_password=False))
        async with running_fleet(tmp_path, ledger__retry_s=1.0) as fleet:
            request = inference_pb2.GenerateRequest(prompt="What is 3 plus 4?")
            first = await fleet.inference.Generate(
                request, metadata=[("deltafleet-caller", "school")]
            )
            server.stop()
            failure = await refusal(fleet.inference.Generate(request))
            server.start()
            second = await fleet.inference.Generate(request)
            report = await fleet.costs.GetCostReport(cost_pb2.GetCostReportRequest())

            assert failure.code is StatusCode.UNAVAILABLE
            assert failure.reason == "ERROR_REASON_LEDGER_UNAVAILABLE"
            assert failure.retry_after_s > 0
            assert report.total.answered_count == 2
            assert report.workers, "lives are recorded again"
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            found = connection.exec_driver_sql("SELECT request_id, caller FROM requests ORDER BY 1")
            rows = {tuple(row) for row in found}
        engine.dispose()
        assert rows == {(first.summary.request_id, "school"), (second.summary.request_id, "")}
        assert server.password not in "".join(fleet.lines)
        assert not fleet.ledger.exists()
    finally:
        server.remove()
