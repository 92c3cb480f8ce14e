"""TLS of every door and of the links to workers: certificates in files, read again on change."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc

from model_pool.settings import PoolTls, SettingsError

log = logging.getLogger(__name__)
Options = Sequence[tuple[str, str | int]]


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """PEM files. ca: of those whose certificates are taken; None: the other side shows none."""

    certificate: Path
    key: Path
    ca: Path | None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return tuple(path for path in (self.certificate, self.key, self.ca) if path)


@dataclass(frozen=True, slots=True)
class Certificates:
    """What such files hold."""

    chain: bytes
    key: bytes
    ca: bytes | None


class CertificateStore:
    """Holds the last certificates that fit together. Several threads may ask it."""

    def __init__(self, files: CertificateFiles) -> None:
        """Raises SettingsError."""
        self._files = files
        self._lock = threading.Lock()
        try:
            self._seen = self._signature()
            self._held = _read(files)
        except (OSError, ValueError) as error:
            raise SettingsError(f"tls: {files.certificate}: {_in_words(error)}") from None

    def current(self) -> Certificates:
        """Those on the disk; where they are wrong, or half written, those before."""
        with self._lock:
            try:
                seen = self._signature()
                if seen != self._seen:
                    self._held = _read(self._files)
                    self._seen = seen
                    log.info("certificate_read_again", extra=self._known())
            except (OSError, ValueError) as error:
                known = self._known() | {"reason": _in_words(error)}
                log.error("certificate_refused", extra=known)
            return self._held

    def _known(self) -> dict[str, object]:
        return {"path": str(self._files.certificate)}

    def _signature(self) -> tuple[int, ...]:
        found: list[int] = []
        for path in self._files.paths:
            status = path.stat()
            found += (status.st_mtime_ns, status.st_size, status.st_ino)
        return tuple(found)


def _read(files: CertificateFiles) -> Certificates:
    """Raises OSError (ssl.SSLError is one), ValueError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key, password=_no_password)
    ca = files.ca.read_bytes() if files.ca else None
    if ca is not None:
        context.load_verify_locations(cadata=ca.decode("ascii"))
    return Certificates(files.certificate.read_bytes(), files.key.read_bytes(), ca)


def _no_password() -> str:
    raise ValueError("the key is encrypted")  # OpenSSL would ask the terminal


def _in_words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"certificate and key are not a pair, or not PEM ({error.reason})"
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}"
    return str(error)


def server_credentials(files: CertificateFiles) -> grpc.ServerCredentials:
    """For a port. Every new connection has the certificates of its time; others go on.

    With files.ca whoever connects must show a certificate of it: gRPC for Python knows no "may".
    Raises SettingsError.
    """
    store = CertificateStore(files)
    served = store.current()

    def fetch() -> Any:  # None: as before
        nonlocal served
        found = store.current()
        if found is served:
            return None
        served = found
        return _configuration(found)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(served), fetch, require_client_authentication=files.ca is not None
    )


def _configuration(held: Certificates) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(held.key, held.chain)], held.ca)


class Connector(Protocol):
    """Opens channels."""

    @property
    def version(self) -> object:
        """Another one when a new channel would be another; None: it never would."""
        ...

    def open(self, address: str, options: Options) -> grpc.aio.Channel:
        """A channel to host:port or unix:PATH."""
        ...


class PlainConnector:
    """Without TLS."""

    version = None

    def open(self, address: str, options: Options) -> grpc.aio.Channel:
        """See Connector."""
        return grpc.aio.insecure_channel(address, options=options)


class TlsConnector:
    """With mutual TLS, but for Unix sockets: those are in a directory of the gateway's own."""

    def __init__(self, settings: PoolTls) -> None:
        """Raises SettingsError."""
        self._store = CertificateStore(pool_files(settings))
        self._name = settings.server_name

    @property
    def version(self) -> Certificates:
        """See Connector."""
        return self._store.current()

    def open(self, address: str, options: Options) -> grpc.aio.Channel:
        """See Connector."""
        if address.startswith("unix:"):
            return grpc.aio.insecure_channel(address, options=options)
        held = self._store.current()
        name: Options = [("grpc.ssl_target_name_override", self._name)] if self._name else []
        credentials = grpc.ssl_channel_credentials(held.ca, held.key, held.chain)
        return grpc.aio.secure_channel(address, credentials, options=[*options, *name])


def pool_files(settings: PoolTls) -> CertificateFiles:
    """The same for both ends of a link."""
    return CertificateFiles(settings.certificate, settings.key, settings.ca)


def make_connector(settings: PoolTls | None) -> Connector:
    """Raises SettingsError."""
    return PlainConnector() if settings is None else TlsConnector(settings)
