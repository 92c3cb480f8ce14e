"""deltafleet prices list, deltafleet prices import."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from gateway.commands.connection import json_option
from gateway.litellm_prices import BadPrices, Read, read_litellm
from gateway.price_list import (
    BUILT_IN_PRICES,
    PriceList,
    Rates,
    age_days,
    plain,
    read_prices,
    to_yaml,
    with_imported,
)
from gateway.settings import Prices, load_settings
from model_pool.settings import SettingsError

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(epilog="Example: deltafleet prices list")
def prices() -> None:
    """Show and import the list prices that requests are compared with."""


@prices.command("list", epilog="Example: deltafleet prices list --fleet fleet.yaml --json")
@click.option("--fleet", type=FILE, help="Show the price file of this fleet.yaml.")
@json_option
def list_prices(fleet: Path | None, as_json: bool) -> None:
    """List prices in USD per million tokens, with their age and source."""
    try:
        section = load_settings(fleet).prices if fleet else Prices()
        listed = read_prices(section.file or BUILT_IN_PRICES)
    except SettingsError as error:
        raise click.ClickException(str(error)) from None
    now = datetime.now(UTC)
    rows = [_row(listed, name, now, section.max_age_days) for name in sorted(listed.prices)]
    if as_json:
        click.echo(json.dumps({"prices": rows}))
    else:
        Console().print(_table(rows))
        click.echo("\n".join(_notes(rows)))


def _row(listed: PriceList, name: str, now: datetime, max_age_days: int) -> dict[str, Any]:
    price, as_of = listed.prices[name], listed.as_of_price(name)
    return {
        "price": name,
        **_rates(price),
        "batch": _rates(price.batch) if price.batch else None,
        "tiers": [
            {
                "above_prompt_token_count": tier.above_prompt_token_count,
                **_rates(tier),
                "batch": _rates(tier.batch) if tier.batch else None,
            }
            for tier in price.tiers
        ],
        "tokenizer": price.tokenizer,
        "characters_per_token": plain(price.characters_per_token),
        "characters_per_token_is": price.characters_per_token_is,
        "as_of": as_of.isoformat(),
        "age_days": age_days(as_of, now),
        "is_stale": age_days(as_of, now) > max_age_days,
        "source": listed.source_of(name),
    }


def _rates(rates: Rates) -> dict[str, str | None]:
    cached = rates.cached_input_usd_per_mtok
    return {
        "input_usd_per_mtok": plain(rates.input_usd_per_mtok),
        "cached_input_usd_per_mtok": None if cached is None else plain(cached),
        "output_usd_per_mtok": plain(rates.output_usd_per_mtok),
    }


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("USD per million tokens", "in", "cached", "out", "in batches", "as of")
    for row in rows:
        as_of = f"{row['as_of']}{' STALE' if row['is_stale'] else ''}"
        table.add_row(row["price"], *_cells(row), as_of)
        for tier in row["tiers"]:
            table.add_row(f"  above {tier['above_prompt_token_count']:,}", *_cells(tier), "")
    return table


def _cells(rates: dict[str, Any]) -> list[str]:
    batch = rates["batch"]
    return [
        rates["input_usd_per_mtok"],
        rates["cached_input_usd_per_mtok"] or "-",
        rates["output_usd_per_mtok"],
        f"{batch['input_usd_per_mtok']}, {batch['output_usd_per_mtok']}" if batch else "-",
    ]


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    """How tokens are counted, and who says so, each thing once."""
    counted = {f"Tokens: {_counting(row)}" for row in rows}
    return [*sorted(counted), *sorted({f"Source: {row['source']}" for row in rows})]


def _counting(row: dict[str, Any]) -> str:
    if row["tokenizer"]:
        return f"counted with {row['tokenizer']}"
    return f"{row['characters_per_token']} characters each ({row['characters_per_token_is']})"


@prices.command(
    "import",
    epilog="Example: deltafleet prices import model_prices_and_context_window.json "
    "--only gpt-5-mini --only 'gemini/gemini-2.5-*' --out prices.yaml",
)
@click.argument("file", type=FILE)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("--only", multiple=True, help="Only models of this name or pattern; may be repeated.")
@click.option(
    "--as-of",
    type=click.DateTime(["%Y-%m-%d"]),
    help="The day on which the prices were true; default: when FILE was last changed.",
)
@click.option("--source", default="LiteLLM's model_prices_and_context_window.json")
def import_prices(
    file: Path, out: Path, only: tuple[str, ...], as_of: datetime | None, source: str
) -> None:
    """Read LiteLLM's FILE into the price file --out; what is not imported stays there.

    Nonsense (below zero, not a number, a cached token dearer than another) is refused by name, and
    nothing is written then.
    """
    changed = datetime.fromtimestamp(file.stat().st_mtime, UTC)
    day = (as_of or changed).date()
    if day > datetime.now(UTC).date():
        raise click.ClickException(f"--as-of: {day} is yet to come")
    try:
        found = read_litellm(file.read_text(encoding="utf-8"), only)
        kept = read_prices(out) if out.exists() else None
    except (BadPrices, UnicodeDecodeError, SettingsError) as error:
        raise click.ClickException(str(error)) from None
    _write(out, to_yaml(with_imported(kept, found.prices, day, source)))
    _tell(found, day, out, named=bool(only))


def _write(out: Path, text: str) -> None:
    aside = out.with_name(f".{out.name}.new")
    aside.write_text(text, encoding="utf-8")
    aside.replace(out)


def _tell(found: Read, day: date, out: Path, *, named: bool) -> None:
    click.echo(f"{len(found.prices)} prices as of {day} are in {out}")
    if not named and found.left_out:
        click.echo(f"{len(found.left_out)} others are no chat models with prices per token")
    for name, reason in found.left_out.items() if named else ():
        click.echo(f"left out {name}: {reason}", err=True)
