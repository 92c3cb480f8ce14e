"""A command's channel to a gateway: TLS where it is asked for, and the caller's key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import grpc
from pydantic import SecretStr

from gateway.identity.settings import is_private

Options = Callable[..., Any]


@dataclass(frozen=True)
class ClientTls:
    """PEM files. certificate, key: shown where the gateway asks for a certificate."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials | None:
        """None: plain text. Raises OSError."""
        if self.ca is None:
            return None
        own = [one.read_bytes() if one else None for one in (self.key, self.certificate)]
        return grpc.ssl_channel_credentials(self.ca.read_bytes(), *own)


def tls_options(command: Options) -> Options:
    """--tls-ca and, for mutual TLS, --tls-certificate and --tls-key; `chosen_tls` has them."""
    for name, text in (
        ("key", "The certificate's key."),
        ("certificate", "Shown to a gateway that asks for one."),
        ("ca", "Connect with TLS, to a gateway whose certificate this authority signed."),
    ):
        command = click.option(
            f"--tls-{name}",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help=text,
            expose_value=False,
            callback=_keep,
        )(command)
    return command


def _keep(context: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    context.meta[f"deltafleet.{parameter.name}"] = value


def chosen_tls(context: click.Context) -> ClientTls:
    """What the options of the command said."""
    names = ("ca", "certificate", "key")
    said = {name: context.meta.get(f"deltafleet.tls_{name}") for name in names}
    if (said["certificate"] is None) != (said["key"] is None):
        raise click.UsageError("--tls-certificate and --tls-key go together")
    if said["certificate"] is not None and said["ca"] is None:
        raise click.UsageError("--tls-certificate needs --tls-ca")
    return ClientTls(**said)


def open_channel(server: str, tls: ClientTls, key: SecretStr | None) -> grpc.aio.Channel:
    """Every call on it brings the key. Raises OSError where a file cannot be read."""
    credentials = tls.credentials()
    if key is not None and credentials is None and not is_private(server):
        click.echo("the key is sent in plain text: --tls-ca", err=True)
    interceptors: list[grpc.aio.ClientInterceptor] = []
    if key is not None:
        interceptors = [_WithKeyUnary(key), _WithKeyStream(key)]
    if credentials is None:
        return grpc.aio.insecure_channel(server, interceptors=interceptors)
    return grpc.aio.secure_channel(server, credentials, interceptors=interceptors)


class _WithKey:
    def __init__(self, key: SecretStr) -> None:
        self._header = ("authorization", f"Bearer {key.get_secret_value()}")

    def _with_key(self, details: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), self._header)
        return details._replace(metadata=metadata)


class _WithKeyUnary(_WithKey, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(self._with_key(details), request)


class _WithKeyStream(_WithKey, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(self._with_key(details), request)
