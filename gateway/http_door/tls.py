"""TLS of the HTTP door: certificates in files, those of its time for each new connection."""

from __future__ import annotations

import contextlib
import ssl

from model_pool.tls import CertificateFiles, CertificateStore


def server_context(files: CertificateFiles) -> ssl.SSLContext:
    """For a listener. With files.ca whoever connects must show a certificate of it.

    Connections that are open go on when the files change. Raises SettingsError.
    """
    store = CertificateStore(files)
    held, served = store.current(), _context(files)

    def choose(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: object) -> None:
        nonlocal held, served
        now = store.current()
        if now is not held:
            with contextlib.suppress(OSError):  # changed again just now: the next one sees it
                served = _context(files)
                held = now
        connection.context = served

    first = _context(files)
    first.sni_callback = choose  # called for each handshake, also for one that names no server
    return first


def _context(files: CertificateFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(files.certificate, files.key)
    context.set_alpn_protocols(["http/1.1"])
    if files.ca is not None:
        context.load_verify_locations(files.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
