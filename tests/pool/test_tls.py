"""TLS between gateways and workers, and certificates that are replaced under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from pool.in_process_worker import free_port, running_worker

from benchmarks.fuzz.connections import exchange
from benchmarks.fuzz.frames import (
    PREFACE,
    data,
    headers,
    headers_of,
    message,
    read_frames,
    settings,
)
from gateway.commands.client_channel import ClientTls
from model_pool import worker_link
from model_pool.discovery import GroupFinder
from model_pool.health_door import HealthDoor
from model_pool.pool import Pool
from model_pool.settings import PoolTls, SettingsError, WorkerGroup
from model_pool.tls import (
    CertificateFiles,
    CertificateStore,
    TlsConnector,
    make_connector,
    pool_files,
    server_credentials,
)
from model_pool.worker_link import WorkerLink
from support.certificates import make_authority
from support.fleet import until


def pool_tls(files: ClientTls, **changes: object) -> PoolTls:
    given = {"ca": files.ca, "certificate": files.certificate, "key": files.key, **changes}
    return PoolTls.model_validate(given)


def store_of(files: ClientTls) -> CertificateStore:
    return CertificateStore(pool_files(pool_tls(files)))


async def health_of(channel: grpc.aio.Channel) -> int:
    async with channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return (await stub.Check(health_pb2.HealthCheckRequest(), timeout=60)).status


async def served(tls: PoolTls, address: str) -> tuple[grpc.aio.Server, str]:
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_secure_port(address, server_credentials(pool_files(tls)))
    await server.start()
    return server, f"127.0.0.1:{port}"


@pytest.fixture
async def watched() -> AsyncIterator[Callable[[WorkerLink], asyncio.Event]]:
    """Starts links; tells when something changed."""
    links = []

    def start(link: WorkerLink) -> asyncio.Event:
        changed = asyncio.Event()
        links.append(link)
        link.start(changed.set)
        return changed

    yield start
    for link in links:
        await link.stop()


async def test_a_worker_takes_only_those_with_a_certificate(tmp_path: Path) -> None:
    ours = pool_tls(make_authority().write(tmp_path, "worker"))
    strange = pool_tls(make_authority().write(tmp_path, "strange"), ca=ours.ca)
    server, address = await served(ours, "127.0.0.1:0")
    assert await health_of(make_connector(ours).open(address, ())) == 1

    only_ca = grpc.ssl_channel_credentials(ours.ca.read_bytes())
    for channel in (
        make_connector(None).open(address, ()),
        make_connector(strange).open(address, ()),
        grpc.aio.secure_channel(address, only_ca),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await health_of(channel)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    await server.stop(None)


async def test_a_gateway_takes_only_workers_of_its_authority_and_name(tmp_path: Path) -> None:
    authority = make_authority()
    ours = pool_tls(authority.write(tmp_path, "worker"))
    server, address = await served(ours, "127.0.0.1:0")
    named = TlsConnector(ours.model_copy(update={"server_name": "worker"}))
    assert await health_of(named.open(address, ())) == 1

    other_ca = make_authority().write(tmp_path, "other").ca
    for changes in ({"server_name": "somebody-else"}, {"ca": other_ca}):
        with pytest.raises(grpc.aio.AioRpcError):
            await health_of(TlsConnector(ours.model_copy(update=changes)).open(address, ()))
    await server.stop(None)


async def test_a_link_lives_on_when_every_certificate_is_replaced(
    tmp_path: Path,
    watched: Callable[[WorkerLink], asyncio.Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_link, "CERTIFICATE_LOOK_S", 0.2)
    tls, address = pool_tls(make_authority().write(tmp_path, "fleet")), f"127.0.0.1:{free_port()}"
    link = WorkerLink("w", address, connector=make_connector(tls))

    async def is_ready() -> bool:
        return link.is_ready

    async with running_worker("w", address, tls):
        watched(link)
        await until(is_ready)
        make_authority().write(tmp_path, "fleet")  # another authority, the same files
        await asyncio.sleep(0)
        assert link.is_ready, "a connection that is open goes on"
    link.suspect()
    async with running_worker("w", address, tls):
        await until(is_ready)


async def test_a_link_over_a_unix_socket_is_plain(tmp_path: Path) -> None:
    tls = pool_tls(make_authority().write(tmp_path, "fleet"))
    address = f"unix:{tmp_path / 'w'}.sock"
    async with running_worker("w", address, tls):
        assert await health_of(grpc.aio.insecure_channel(address)) == 1
        assert await health_of(make_connector(tls).open(address, ())) == 1


async def test_health_is_there_for_probes_without_a_certificate() -> None:
    servicer = health.aio.HealthServicer()
    door = HealthDoor(servicer, "127.0.0.1:0")
    await door.start()
    assert await health_of(grpc.aio.insecure_channel(f"127.0.0.1:{door.port}")) == 1
    await door.stop()


async def test_a_path_that_is_no_text_does_not_end_the_probes_door() -> None:
    door = HealthDoor(health.aio.HealthServicer(), "127.0.0.1:0")
    await door.start()
    address = f"127.0.0.1:{door.port}"
    odd = PREFACE + settings() + headers(1, headers_of(b"/\xff\xfe")) + data(1, message(b""))
    await exchange(
        address, odd, quiet_s=60.0, is_enough=lambda told: bool(read_frames(told).statuses)
    )
    assert await health_of(grpc.aio.insecure_channel(address)) == 1
    await door.stop()


def test_a_half_written_pair_changes_nothing(tmp_path: Path) -> None:
    authority = make_authority()
    files = authority.write(tmp_path, "w")
    store = store_of(files)
    before = store.current()
    other = authority.write(tmp_path, "other")
    files.certificate.write_bytes(other.certificate.read_bytes())
    assert store.current() is before, "the key is the old one's"
    files.certificate.unlink()
    assert store.current() is before
    files.certificate.write_bytes(other.certificate.read_bytes())
    files.key.write_bytes(other.key.read_bytes())
    assert store.current().key == other.key.read_bytes()
    assert store.current() is store.current(), "it is read again only where it changed"


@pytest.mark.parametrize("fault", ["missing", "no pair", "not PEM", "no authority"])
def test_certificates_that_are_wrong_refuse_to_start(tmp_path: Path, fault: str) -> None:
    authority = make_authority()
    files, other = authority.write(tmp_path, "w"), authority.write(tmp_path, "other")
    match fault:
        case "missing":
            files.key.unlink()
        case "no pair":
            files.key.write_bytes(other.key.read_bytes())
        case "not PEM":
            files.certificate.write_text("certificate")
        case "no authority":
            files.ca.write_text("authority")
    with pytest.raises(SettingsError, match=r"^tls: "):
        CertificateStore(CertificateFiles(files.certificate, files.key, files.ca))


async def test_workers_that_dns_finds_are_asked_over_tls(tmp_path: Path) -> None:
    port = free_port()
    tls = pool_tls(make_authority().write(tmp_path, "fleet"))
    pool = Pool([], limit_count=8, wait_s=20, on_change=lambda: None, groups={"small": None})
    group = WorkerGroup(dns=f"localhost:{port}")
    finder = GroupFinder("small", group, pool, connector=make_connector(tls))

    async def is_found() -> bool:
        await finder.look()
        return any(one.is_ready for one in pool.members.values())

    async with running_worker("pod-0", f"127.0.0.1:{port}", tls):
        await until(is_found)
        assert set(pool.members) == {"pod-0"}
        await finder.stop()
