"""The deltafleet command. Each subcommand's module is imported when it runs."""

from __future__ import annotations

from importlib import import_module

import click

MODULE_OF = {
    "up": "serve",
    "check": "serve",
    "reload": "reload",
    "plan": "plan",
    "ask": "ask",
    "route": "ask",
    "feedback": "feedback",
    "models": "report",
    "costs": "costs",
    "prices": "prices",
    "pack": "weights",
    "repack": "weights",
    "unpack": "weights",
    "export-lora": "weights",
    "verify": "weights",
    "snr": "weights",
    "inspect": "weights",
    "merge": "weights",
    "tree": "weights",
    "router": "router",
    "ledger": "ledger",
    "keys": "keys",
    "config": "admin",
    "escalation": "escalation",
}


class LazyGroup(click.Group):
    """Imports a subcommand's module only when it is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every subcommand, in the order of use."""
        return list(MODULE_OF)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The subcommand of that name."""
        if cmd_name not in MODULE_OF:
            return None
        module = import_module(f"gateway.commands.{MODULE_OF[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="deltafleet")
def main() -> None:
    """Serve a fleet of specialist small language models behind one gRPC gateway."""


if __name__ == "__main__":
    main()
