"""fleet.yaml → who may call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine
from pathlib import Path
from typing import Any

from gateway.caller import Admission, Caller, admit_anybody
from gateway.identity.identity import Identity
from gateway.identity.keys import KeyRing, read_keys
from gateway.identity.settings import Identity as IdentitySettings
from gateway.identity.settings import Jwt, is_private
from gateway.identity.watched_file import WatchedFile
from gateway.settings import Settings
from model_pool.settings import SettingsError
from model_pool.tls import CertificateFiles, CertificateStore, make_connector

log = logging.getLogger(__name__)


async def open_identity(
    stack: contextlib.AsyncExitStack, settings: IdentitySettings | None
) -> Identity | None:
    """Files read, and followed for as long as the stack is open. None: nobody is asked.

    Raises SettingsError.
    """
    if settings is None:
        return None
    keys = tokens = None
    if settings.keys_file is not None:
        keys = await _open_keys(stack, settings.keys_file, settings.reload_s)
    if settings.jwt is not None:
        tokens = _open_tokens(stack, settings.jwt)
    certificates = {name: one.to_caller() for name, one in settings.certificates.items()}
    return Identity(keys, tokens, certificates)


def check_identity(settings: Settings) -> None:
    """See that the files of keys and certificates are good. Raises SettingsError."""
    identity, tls = settings.identity, settings.server.tls
    if identity is not None and identity.keys_file is not None:
        try:
            read_keys(identity.keys_file.read_bytes())
        except (OSError, ValueError) as error:
            raise SettingsError(f"identity.keys_file: {identity.keys_file}: {error}") from None
    if tls is not None:
        CertificateStore(CertificateFiles(tls.certificate, tls.key, tls.client_ca))
    make_connector(settings.pool.tls)


def admission(identity: Identity | None, listens: Collection[str]) -> Admission:
    """Who may call; without identity anybody, which is said where others can reach a door.

    listens: the doors' addresses.
    """
    if identity is not None:
        return identity.admit
    for listen in listens:
        if not is_private(listen):
            log.warning("anybody_may_call", extra={"listen": listen, "missing": "identity"})
    return admit_anybody


async def _open_keys(
    stack: contextlib.AsyncExitStack, path: Path, reload_s: float
) -> Callable[[], KeyRing]:
    file = WatchedFile(path, lambda data: KeyRing(read_keys(data).keys))
    try:
        await file.open()
    except (OSError, ValueError) as error:
        raise SettingsError(f"identity.keys_file: {path}: {error}") from None
    _keep(stack, file.follow(reload_s), "keys file")
    return lambda: file.value


def _open_tokens(
    stack: contextlib.AsyncExitStack, settings: Jwt
) -> Callable[[str], Awaitable[Caller]]:
    from gateway.identity.key_set import KeySet, from_file, from_url
    from gateway.identity.tokens import Tokens

    if settings.jwks_file is not None:
        fetch = from_file(settings.jwks_file)
    else:
        assert settings.jwks_url is not None, "validated"
        fetch = from_url(settings.jwks_url)
    keys = KeySet(fetch, max_age_s=settings.max_age_s, retry_s=settings.retry_s)
    _keep(stack, keys.follow(), "key set")
    return Tokens(settings, keys).caller


def _keep(stack: contextlib.AsyncExitStack, work: Coroutine[Any, Any, None], name: str) -> None:
    task = asyncio.create_task(work, name=name)
    stack.callback(task.cancel)
