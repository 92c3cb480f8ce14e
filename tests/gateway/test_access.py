"""Every method, for everybody: who may, who may not, and that no secret is ever told."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
import pytest_asyncio

from deltafleet.v1 import admin_pb2, cost_pb2, fleet_pb2, inference_pb2, routing_pb2
from gateway.grpc_door import SERVICES
from gateway.identity.scopes import SCOPE_OF
from support.command import run
from support.fleet import Failure, Fleet, failure_of, refusal, running_fleet, until
from support.issuer import Issuer
from support.live_fleet import write_whole
from support.tenants import Tenants, make_tenants

SQL = "Which products cost more than 20 dollars? Write the SQL query."
SUM = "What is 37 plus 45?"
PROMPT = "private words of a tenant"
ASK = inference_pb2.GenerateRequest(prompt=PROMPT, model="base", max_output_token_count=1)
SCORE = routing_pb2.RecordFeedbackRequest(request_id="of-nobody", score=1)
# What each method needs, written down a second time.
METHODS = {
    "InferenceService/Generate": ("infer", ASK),
    "InferenceService/StreamGenerate": ("infer", ASK),
    "RoutingService/Route": ("infer", routing_pb2.RouteRequest(prompt=PROMPT)),
    "RoutingService/RecordFeedback": ("infer", SCORE),
    "FleetService/ListModels": ("infer", fleet_pb2.ListModelsRequest()),
    "FleetService/GetModel": ("infer", fleet_pb2.GetModelRequest(model="sql")),
    "CostService/GetCostReport": ("read-costs", cost_pb2.GetCostReportRequest()),
    "AdminService/GetConfig": ("administer", admin_pb2.GetConfigRequest()),
    "AdminService/ReloadConfig": ("administer", admin_pb2.ReloadConfigRequest()),
}
# None: nobody that is known. Else the scopes.
CALLERS = {
    **{name: {name} for name in ("infer", "read-costs", "administer")},
    "everything": {"infer", "read-costs", "administer"},
    "nothing": set(),
    "other-tenant": {"infer"},
    "token": {"infer"},
    "token-administers": {"administer"},
    "token-without-scope": set(),
    **dict.fromkeys(("nobody", "expired", "revoked", "wrong-secret", "wrong-id", "nonsense")),
    **dict.fromkeys(("basic", "twice", "late-token", "strange-token")),
}


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenants]:
    issuer = Issuer()
    yield make_tenants(tmp_path_factory.mktemp("access"), issuer)
    issuer.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(tenants: Tenants) -> AsyncIterator[Fleet]:
    """The demo fleet, with keys."""
    secret = tenants.directory / "closed-api-key"
    secret.write_text("sk-the-closed-apis-own-key")
    tenants.secrets.add(secret.read_text())
    closed_api = {
        "base_url": "http://127.0.0.1:9/v1",
        "model": "m",
        "price": "openai/gpt-5-mini",
        "daily_budget_usd": 1,
        "key_file": str(secret),
    }
    async with running_fleet(
        tenants.directory,
        identity=tenants.identity,
        closed_apis={"elsewhere": closed_api},
        routing__feedback__path=str(tenants.directory / "feedback.sqlite3"),
    ) as running:
        yield running


def method_of(fleet: Fleet, method: str) -> object:
    service, _, name = method.partition("/")
    stubs = {
        "InferenceService": fleet.inference,
        "RoutingService": fleet.routing,
        "FleetService": fleet.models,
        "CostService": fleet.costs,
        "AdminService": fleet.admin,
    }
    return getattr(stubs[service], name)


async def ended(fleet: Fleet, method: str, metadata: object) -> Failure | None:
    """How a call ended; None: well."""
    call = method_of(fleet, method)(METHODS[method][1], metadata=metadata)
    try:
        if method.endswith("/StreamGenerate"):
            assert [event async for event in call]
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return failure_of(error)
    return None


def test_the_table_has_every_method() -> None:
    ours = [one for one in SERVICES if one.full_name.startswith("deltafleet.v1.")]
    names = {f"{service.name}/{one.name}" for service in ours for one in service.methods}
    assert names == METHODS.keys()
    needed = {f"/deltafleet.v1.{name}": scope for name, (scope, _) in METHODS.items()}
    assert {name: scope.value for name, scope in SCOPE_OF.items()} == needed


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("method", METHODS)
async def test_access(guarded: Fleet, tenants: Tenants, method: str, caller: str) -> None:
    scopes, (needed, _) = CALLERS[caller], METHODS[method]
    failure = await ended(guarded, method, tenants.metadata[caller])
    if scopes is None:
        assert failure is not None
        assert failure.code is grpc.StatusCode.UNAUTHENTICATED
        assert failure.reason == "ERROR_REASON_UNAUTHENTICATED"
    elif needed not in scopes:
        assert failure is not None
        assert failure.code is grpc.StatusCode.PERMISSION_DENIED
        assert failure.reason == "ERROR_REASON_PERMISSION_DENIED"
        assert failure.metadata == {"scope": needed}
    elif method == "RoutingService/RecordFeedback":
        assert failure is not None and failure.reason == "ERROR_REASON_UNKNOWN_REQUEST"
    else:
        assert failure is None


async def test_health_needs_no_key(guarded: Fleet) -> None:
    await guarded.until_serving()


async def test_nobody_speaks_for_somebody_else(guarded: Fleet, tenants: Tenants) -> None:
    own = (*tenants.metadata["infer"], ("deltafleet-caller", "infer"))
    assert await ended(guarded, "InferenceService/Generate", own) is None
    posing = (*tenants.metadata["other-tenant"], ("deltafleet-caller", "infer"))
    failure = await ended(guarded, "InferenceService/Generate", posing)
    assert failure is not None and failure.code is grpc.StatusCode.PERMISSION_DENIED


async def test_an_answer_is_scored_by_its_own_caller_only(guarded: Fleet, tenants: Tenants) -> None:
    answer = await guarded.inference.Generate(ASK, metadata=tenants.metadata["infer"])
    name = answer.summary.request_id
    request = routing_pb2.RecordFeedbackRequest(request_id=name, score=1)

    async def scored(caller: str) -> Failure | None:
        call = guarded.routing.RecordFeedback(request, metadata=tenants.metadata[caller])
        try:
            await call
        except grpc.aio.AioRpcError as error:
            return failure_of(error)
        return None

    for _ in ("not scored yet", "scored"):
        for caller in ("other-tenant", "everything"):
            failure = await scored(caller)
            assert failure is not None and failure.reason == "ERROR_REASON_UNKNOWN_REQUEST"
        assert await scored("infer") is None


async def test_the_same_request_id_is_another_request_for_another_caller(
    guarded: Fleet, tenants: Tenants
) -> None:
    name = ("x-request-id", "the-same")
    other = inference_pb2.GenerateRequest(prompt=SQL, model="sql", max_output_token_count=2)
    first = await guarded.inference.Generate(ASK, metadata=(*tenants.metadata["infer"], name))
    second = await guarded.inference.Generate(
        other, metadata=(*tenants.metadata["other-tenant"], name)
    )
    assert (first.decision.model, second.decision.model) == ("base", "sql")


async def test_costs_are_those_of_the_proven_caller(guarded: Fleet, tenants: Tenants) -> None:
    await guarded.inference.Generate(ASK, metadata=tenants.metadata["token"])
    report = await guarded.costs.GetCostReport(
        cost_pb2.GetCostReportRequest(by=["caller"]),
        metadata=tenants.metadata["read-costs"],
    )
    assert "token" in {one.key["caller"] for one in report.groups}


async def test_a_model_that_is_not_allowed_does_not_answer(
    guarded: Fleet, tenants: Tenants
) -> None:
    metadata = tenants.metadata["only-sql"]
    for request in (
        inference_pb2.GenerateRequest(prompt=SUM, model="arithmetic"),
        inference_pb2.GenerateRequest(prompt=SUM),
    ):
        failure = await refusal(guarded.inference.Generate(request, metadata=metadata))
        assert failure.code is grpc.StatusCode.PERMISSION_DENIED
        assert failure.metadata["model"] in failure.message
    answer = await guarded.inference.Generate(
        inference_pb2.GenerateRequest(prompt=SQL), metadata=metadata
    )
    assert answer.decision.model == "sql"

    listed = await guarded.models.ListModels(fleet_pb2.ListModelsRequest(), metadata=metadata)
    assert [one.name for one in listed.models] == ["sql"]
    asked = guarded.models.GetModel(fleet_pb2.GetModelRequest(model="base"), metadata=metadata)
    assert (await refusal(asked)).metadata == {"model": "base"}


async def test_the_router_goes_round_what_is_not_allowed(guarded: Fleet, tenants: Tenants) -> None:
    request = routing_pb2.RouteRequest(prompt=SUM)
    for caller, model in (("infer", "arithmetic"), ("sql-or-base", "base")):
        found = await guarded.routing.Route(request, metadata=tenants.metadata[caller])
        assert found.decision.model == model
    assert "the model arithmetic may not answer this caller" in found.decision.explanation
    assert found.decision.reason == routing_pb2.ROUTE_REASON_CONSTRAINED


async def test_a_key_comes_and_goes_without_a_restart(guarded: Fleet, tenants: Tenants) -> None:
    method = "FleetService/ListModels"
    tenants.add("newcomer")
    metadata = tenants.metadata["newcomer"]

    async def is_known() -> bool:
        return await ended(guarded, method, metadata) is None

    async def is_unknown() -> bool:
        return not await is_known()

    await until(is_known)
    whole = tenants.keys_file.read_text()
    write_whole(tenants.keys_file, whole.replace("caller: newcomer", "caler: newcomer"))

    async def is_refused() -> bool:
        return any("file_refused" in line for line in guarded.lines)

    await until(is_refused)
    assert await is_known(), "the keys before hold"
    write_whole(tenants.keys_file, whole)
    tenants.revoke("newcomer")
    await until(is_unknown)
    failure = await ended(guarded, method, metadata)
    assert failure is not None and failure.message.endswith("was revoked")


async def test_commands_bring_their_key(guarded: Fleet, tenants: Tenants) -> None:
    key = tenants.key_of("everything")
    ask = ("ask", "--server", guarded.address, "--model", "base", "--max-tokens", "1", PROMPT)
    assert (await run(*ask, DELTAFLEET_API_KEY=key)).code == 0
    refused = await run(*ask)
    assert refused.code == 1 and "ERROR_REASON_UNAUTHENTICATED" in refused.errors

    told = await run("config", "--server", guarded.address, DELTAFLEET_API_KEY=key)
    assert told.code == 0
    assert "keys_file:" in told.output and "issuer:" in told.output
    assert not found_in(tenants.secrets, told.output + told.errors)


def page_of(fleet: Fleet, path: str) -> str:
    with urllib.request.urlopen(f"http://{fleet.metrics}{path}") as page:
        return page.read().decode()


def found_in(secrets: set[str], text: str) -> list[str]:
    return [secret for secret in secrets if secret in text]


async def test_no_secret_is_told_anywhere(guarded: Fleet, tenants: Tenants) -> None:
    told = []
    for caller in CALLERS:
        for method in METHODS:
            failure = await ended(guarded, method, tenants.metadata[caller])
            told.append(f"{caller}: {failure}")
    config = await guarded.admin.GetConfig(
        admin_pb2.GetConfigRequest(), metadata=tenants.metadata["administer"]
    )
    assert "closed-api-key" in config.yaml, "where a secret lies may be told"
    assert len(config.sha256) == 64 and config.loaded_time.seconds > 0
    places = {"errors": "\n".join(told), "GetConfig": config.yaml, "log": "".join(guarded.lines)}
    for path in ("/metrics", "/page/state.json", "/page/history.json"):
        places[path] = await asyncio.to_thread(page_of, guarded, path)
    for path in tenants.directory.glob("*.sqlite3*"):
        places[path.name] = path.read_bytes().decode("latin-1")

    assert f'sha256="{config.sha256}"' in places["/metrics"]
    assert {"ledger.sqlite3", "feedback.sqlite3"} <= places.keys()
    assert any("caller_refused" in line for line in guarded.lines)
    assert all(json.loads(line) for line in guarded.lines)
    for place, text in places.items():
        assert not found_in(tenants.secrets, text), place
        assert PROMPT not in text, place
