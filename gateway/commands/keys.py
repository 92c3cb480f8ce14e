"""deltafleet keys: make, list, revoke and replace API keys."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from gateway.caller import Scope
from gateway.identity.keys import BadKeys, KeyRecord, KeysDocument, NewKey, make_key
from gateway.identity.keys_file import change_keys, load_keys

UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
Change = Callable[[KeysDocument], KeysDocument]

file_option = click.option(
    "--file",
    default="keys.yaml",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="identity.keys_file of fleet.yaml.",
)


class Span(click.ParamType[timedelta | None]):
    """90d, 12h, 30m, 45s; or never."""

    name = "span"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta | None:
        """None for never."""
        if value is None or value == "never":
            return None
        found = re.fullmatch(r"([0-9]{1,6})([smhd])", str(value))
        if found is None:
            self.fail(f"{value!r}: write 90d, 12h, 30m, 45s or never", param, ctx)
        return timedelta(seconds=int(found[1]) * UNIT_S[found[2]])


@click.group(epilog="Example: deltafleet keys create nightly --expires 90d")
def keys() -> None:
    """Make, list, revoke and replace the keys that callers show.

    A running gateway sees a changed file within identity.reload_s.
    """


@keys.command(epilog="Example: deltafleet keys create nightly --scope infer --model sql")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    default=["infer"],
    show_default=True,
)
@click.option("--model", "models", multiple=True, help="A model that may answer. Default: all.")
@click.option("--expires", type=Span(), default="90d", show_default=True, help="90d, 12h, never.")
@click.option("--requests-per-minute", type=int)
@click.option("--tokens-per-minute", type=int)
@click.option("--concurrent-streams", type=int)
@click.option("--daily-budget-usd", type=Decimal)
@click.option("--monthly-budget-usd", type=Decimal)
@file_option
def create(
    name: str,
    scopes: tuple[str, ...],
    models: tuple[str, ...],
    expires: timedelta | None,
    file: Path,
    **limits: int | Decimal | None,
) -> None:
    """Make a key for the caller NAME and print it. It is shown this once, and kept nowhere."""
    now = datetime.now(UTC).replace(microsecond=0)
    made = make_key()
    given: dict[str, Any] = {"caller": name, "scopes": scopes, "models": models or None}
    given |= {"hash": made.hash, "created": now, "expires": expires and now + expires}
    try:
        record = KeyRecord.model_validate(given | limits)
    except ValidationError as error:
        faults = (f"{one['loc'][0]}: {one['msg']}" for one in error.errors())
        raise click.ClickException("; ".join(faults)) from None
    _change(file, lambda document: _with(document, made.id, record))
    _tell(made)


@keys.command("list", epilog="Example: deltafleet keys list --file /etc/deltafleet/keys.yaml")
@file_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_keys(file: Path, as_json: bool) -> None:
    """Say which keys there are, and what each may do."""
    try:
        document = load_keys(file)
    except (OSError, BadKeys) as error:
        raise click.ClickException(f"{file}: {error}") from None
    now = datetime.now(UTC)
    rows = {
        name: one.model_dump(mode="json", exclude={"hash"}) | {"state": one.fault(now) or "good"}
        for name, one in document.keys.items()
    }
    if as_json:
        click.echo(json.dumps(rows))
        return
    for name, row in rows.items():
        models = ",".join(sorted(row["models"])) if row["models"] is not None else "all models"
        until = row["expires"] or "no end"
        scopes = ",".join(sorted(row["scopes"]))
        click.echo(f"{name}  {row['caller']:<24} {scopes:<28} {models}  {until}  {row['state']}")


@keys.command(epilog="Example: deltafleet keys revoke 3f2a90c1d4e5b678")
@click.argument("key_id")
@file_option
def revoke(key_id: str, file: Path) -> None:
    """Take a key back. Its record stays, so that who asks with it is told why."""
    now = datetime.now(UTC).replace(microsecond=0)

    def change(document: KeysDocument) -> KeysDocument:
        record = _record(document, key_id)
        revoked = record.revoked or now
        return _with(document, key_id, record.model_copy(update={"revoked": revoked}))

    _change(file, change)
    click.echo(f"{key_id} was revoked")


@keys.command(epilog="Example: deltafleet keys rotate 3f2a90c1d4e5b678 --overlap 24h")
@click.argument("key_id")
@click.option(
    "--overlap", type=Span(), default="24h", show_default=True, help="For which both are good."
)
@click.option("--expires", type=Span(), default="90d", show_default=True, help="Of the new key.")
@file_option
def rotate(key_id: str, overlap: timedelta | None, expires: timedelta | None, file: Path) -> None:
    """Print a new key that may do the same; the old one is good for a while yet."""
    now = datetime.now(UTC).replace(microsecond=0)
    made = make_key()

    def change(document: KeysDocument) -> KeysDocument:
        old = _record(document, key_id)
        if fault := old.fault(now):
            raise click.ClickException(f"{key_id} {fault}: make a new key")
        new = {"hash": made.hash, "created": now, "expires": expires and now + expires}
        ends = [one for one in (old.expires, overlap and now + overlap) if one]
        kept = old.model_copy(update={"expires": min(ends, default=None)})
        return _with(_with(document, key_id, kept), made.id, old.model_copy(update=new))

    _change(file, change)
    _tell(made)


def _record(document: KeysDocument, key_id: str) -> KeyRecord:
    if key_id not in document.keys:
        raise click.ClickException(f"no key has the id {key_id}")
    return document.keys[key_id]


def _with(document: KeysDocument, name: str, record: KeyRecord) -> KeysDocument:
    return KeysDocument(keys={**document.keys, name: record})


def _change(file: Path, change: Change) -> None:
    try:
        change_keys(file, change)
    except (OSError, BadKeys) as error:
        raise click.ClickException(f"{file}: {error}") from None


def _tell(made: NewKey) -> None:
    click.echo(made.text)
    click.echo(f"id {made.id}: shown this once; only its hash is kept", err=True)
