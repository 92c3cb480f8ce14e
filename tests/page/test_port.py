"""The metrics port over plain HTTP: headers, caching, methods, and Prometheus's page as it was."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator

import httpx2
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry, Counter, start_http_server
from prometheus_client.openmetrics import exposition

from gateway.page.server import HEADERS
from support.fleet import Fleet

PATHS = ("/", "/metrics", "/page/state.json", "/page/history.json", "/static/page.js")


@pytest_asyncio.fixture(loop_scope="session")
async def port(fleet: Fleet) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=f"http://{fleet.metrics}", trust_env=False) as client:
        yield client


@pytest.mark.parametrize("path", PATHS)
async def test_every_answer_keeps_others_out(port: httpx2.AsyncClient, path: str) -> None:
    answer = await port.get(path)

    assert answer.status_code == 200
    for name, text in HEADERS.items():
        assert answer.headers[name] == text
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self';") and "unsafe" not in policy
    assert "Server" not in answer.headers
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", PATHS)
async def test_nothing_can_be_changed(port: httpx2.AsyncClient, path: str) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert (await port.request(method, path)).status_code == 405
    assert (await port.head(path)).status_code == 200
    assert (await port.head(path)).content == b""


async def test_what_is_not_there_is_not_found(port: httpx2.AsyncClient) -> None:
    for path in ("/nothing", "/static/", "/static/nothing.js", "/static/../server.py"):
        assert (await port.get(path)).status_code == 404
    assert (await port.get("/static/%2e%2e/server.py")).status_code == 404
    assert (await port.get("/static/vendor/README.md")).status_code == 404


async def test_content_types(port: httpx2.AsyncClient) -> None:
    for path, kind in (
        ("/", "text/html; charset=utf-8"),
        ("/static/page.css", "text/css; charset=utf-8"),
        ("/static/vendor/chart.umd.min.js", "text/javascript; charset=utf-8"),
        ("/static/icon.svg", "image/svg+xml"),
        ("/page/state.json", "application/json"),
    ):
        assert (await port.get(path)).headers["Content-Type"] == kind


async def test_a_file_is_sent_once_and_compressed(port: httpx2.AsyncClient) -> None:
    path = "/static/vendor/chart.umd.min.js"
    first = await port.get(path, headers={"Accept-Encoding": "gzip"})
    plain = await port.get(path, headers={"Accept-Encoding": "identity"})
    again = await port.get(path, headers={"If-None-Match": first.headers["ETag"]})
    other = await port.get(path, headers={"If-None-Match": '"other"'})

    assert first.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert first.content == plain.content
    assert int(first.headers["Content-Length"]) < int(plain.headers["Content-Length"]) / 2
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["Cache-Control"] == "no-cache"
    assert other.status_code == 200


async def test_metrics_are_negotiated_as_prometheus_clients_own_server_does(
    port: httpx2.AsyncClient,
) -> None:
    registry = CollectorRegistry()
    Counter("c", "A counter.", registry=registry).inc(exemplar={"trace_id": "4bf9"})
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        for accept in (
            "*/*",
            "text/plain;version=0.0.4",
            "text/plain;version=1.0.0;escaping=allow-utf-8",
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
            "application/openmetrics-text;version=1.0.0;escaping=underscores",
        ):
            headers = {"Accept": accept, "Accept-Encoding": "gzip"}
            ours = await port.get("/metrics", headers=headers)
            theirs = await asyncio.to_thread(
                httpx2.get,
                f"http://127.0.0.1:{server.server_port}/metrics",
                headers=headers,
                trust_env=False,
            )
            for name in ("Content-Type", "Content-Encoding"):
                assert ours.headers[name] == theirs.headers[name]
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()


async def test_metrics_can_be_asked_for_by_name(port: httpx2.AsyncClient) -> None:
    answer = await port.get("/metrics", params={"name[]": "deltafleet_requests_in_flight"})
    families = re.findall(r"^# TYPE (\S+)", answer.text, re.M)
    assert families == ["deltafleet_requests_in_flight"]


async def test_openmetrics_ends_as_it_must(port: httpx2.AsyncClient) -> None:
    accept = exposition.CONTENT_TYPE_LATEST
    answer = await port.get("/metrics", headers={"Accept": accept, "Accept-Encoding": "gzip"})
    assert answer.text.endswith("# EOF\n")


async def test_many_at_once_see_the_same(port: httpx2.AsyncClient) -> None:
    answers = await asyncio.gather(*(port.get("/page/state.json") for _ in range(40)))
    moments = {json.loads(one.content)["now_s"] for one in answers}
    assert {one.status_code for one in answers} == {200}
    assert len(moments) < len(answers)


async def test_requests_are_answered_while_the_page_is_looked_at(
    fleet: Fleet, port: httpx2.AsyncClient
) -> None:
    answer, *looks = await asyncio.gather(
        fleet.ask("What is 37 plus 45?"), *(port.get("/page/state.json") for _ in range(10))
    )
    assert answer.summary.output_token_count > 0
    assert all(one.status_code == 200 for one in looks)


async def test_up_says_where_the_page_is(fleet: Fleet) -> None:
    line = (await fleet.process.stdout.readline()).decode()
    assert line == f"its page: http://{fleet.metrics}/\n"
