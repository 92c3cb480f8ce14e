"""The gRPC door with mutual TLS: certificates as callers, and replaced under way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pool.in_process_worker import free_port

from deltafleet.v1 import cost_pb2, fleet_pb2, fleet_pb2_grpc, inference_pb2
from gateway.commands.client_channel import ClientTls, open_channel
from support.certificates import Authority, make_authority
from support.command import run
from support.fleet import Failure, Fleet, failure_of, first_text, refusal, rest, running_fleet
from support.issuer import Issuer
from support.tenants import Tenants

HEALTH = health_pb2.HealthCheckRequest()


class Known:
    """The fleet behind TLS, and who may call it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority: Authority = make_authority()
        self.server = self.authority.write(directory, "gateway")
        self.batch = self.authority.write(directory, "batch.internal")
        self.guest = self.authority.write(directory, "guest.internal")
        self.health_port = free_port()
        self.tenants = Tenants(directory, Issuer())
        self.tenants.add("key-holder")

    def settings(self) -> dict[str, object]:
        certificates = {"batch.internal": {"caller": "batch", "scopes": ["infer"]}}
        files = {"certificate": str(self.server.certificate), "key": str(self.server.key)}
        return {
            "server__tls": files | {"client_ca": str(self.server.ca)},
            "server__health_listen": f"127.0.0.1:{self.health_port}",
            "identity": {"keys_file": str(self.tenants.keys_file), "certificates": certificates},
        }


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    known = Known(tmp_path_factory.mktemp("tls"))
    known.tenants.issuer.close()
    return known


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def encrypted(known: Known) -> AsyncIterator[Fleet]:
    def connect(address: str) -> grpc.aio.Channel:
        return open_channel(address, known.batch, None)

    async with running_fleet(known.directory, connect=connect, **known.settings()) as running:
        yield running


async def listing(fleet: Fleet, tls: ClientTls, metadata: object = ()) -> Failure | None:
    """How ListModels over a new connection ended; None: well."""
    async with open_channel(fleet.address, tls, None) as channel:
        stub = fleet_pb2_grpc.FleetServiceStub(channel)
        try:
            await stub.ListModels(fleet_pb2.ListModelsRequest(), metadata=metadata, timeout=60)
        except grpc.aio.AioRpcError as error:
            return failure_of(error)
    return None


async def test_a_certificate_is_a_caller_with_its_scopes(encrypted: Fleet) -> None:
    answer = await encrypted.ask("The sea", model="base", max_output_token_count=1)
    assert answer.text
    assert any('"caller": "batch"' in line for line in encrypted.lines)
    failure = await refusal(encrypted.costs.GetCostReport(cost_pb2.GetCostReportRequest()))
    assert failure.reason == "ERROR_REASON_PERMISSION_DENIED"


async def test_a_certificate_of_nobody_needs_a_key(encrypted: Fleet, known: Known) -> None:
    failure = await listing(encrypted, known.guest)
    assert failure is not None and failure.reason == "ERROR_REASON_UNAUTHENTICATED"
    assert await listing(encrypted, known.guest, known.tenants.metadata["key-holder"]) is None


async def test_a_wrong_key_is_refused_whatever_the_certificate(
    encrypted: Fleet, known: Known
) -> None:
    failure = await listing(encrypted, known.batch, (("x-api-key", "dfk_0_1"),))
    assert failure is not None and failure.reason == "ERROR_REASON_UNAUTHENTICATED"


async def test_without_a_certificate_nobody_is_heard(encrypted: Fleet, known: Known) -> None:
    stranger = make_authority().write(known.directory, "batch.internal.forged")
    forged = ClientTls(known.server.ca, stranger.certificate, stranger.key)
    for tls in (ClientTls(), ClientTls(known.server.ca), forged):
        failure = await listing(encrypted, tls, known.tenants.metadata["key-holder"])
        assert failure is not None and failure.code is grpc.StatusCode.UNAVAILABLE


async def test_probes_ask_without_tls(encrypted: Fleet, known: Known) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{known.health_port}") as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(HEALTH)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        stub = fleet_pb2_grpc.FleetServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ListModels(fleet_pb2.ListModelsRequest())
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_person_asks_over_tls(encrypted: Fleet, known: Known) -> None:
    tls = ("--tls-ca", known.guest.ca)
    own = ("--tls-certificate", known.guest.certificate, "--tls-key", known.guest.key)
    key = known.tenants.key_of("key-holder")
    ask = ("models", "--server", encrypted.address)
    assert (await run(*ask, *tls, *own, DELTAFLEET_API_KEY=key)).code == 0
    assert (await run(*ask, *tls, *own)).code == 1
    assert (await run(*ask, *own)).code == 2


async def test_certificates_are_replaced_while_a_stream_runs(
    encrypted: Fleet, known: Known, long_request: inference_pb2.GenerateRequest
) -> None:
    call = encrypted.inference.StreamGenerate(long_request)
    await first_text(call)
    old = known.batch
    before = ClientTls(*(known.directory / f"old.{one}" for one in ("ca", "certificate", "key")))
    for source, copy in zip(vars(old).values(), vars(before).values(), strict=True):
        copy.write_bytes(source.read_bytes())
    successor = make_authority()
    successor.write(known.directory, "batch.internal")
    successor.write(known.directory, "gateway")

    assert await listing(encrypted, known.batch) is None, "new connections: the new authority"
    failure = await listing(encrypted, before)
    assert failure is not None and failure.code is grpc.StatusCode.UNAVAILABLE
    events = await rest(call)
    assert events[-1].HasField("summary"), "the stream went on to its end"
    known.server.key.write_text("half a k")
    assert await listing(encrypted, known.batch) is None, "what is wrong changes nothing"
    assert any("certificate_refused" in line for line in encrypted.lines)
