"""The command line: `paycenter`. Every subcommand is imported only when it is run, so that each starts quickly."""

from __future__ import annotations

import importlib

import click

_COMMANDS = {
    "serve": ("paycenter_server.cli.processes:serve", "Run the gRPC server."),
    "callback": ("paycenter_server.cli.processes:callback", "Run the sidecar that channels call back."),
    "worker": ("paycenter_server.cli.processes:worker", "Run the workers: notifications, sync, expire, refund sync."),
    "migrate": ("paycenter_server.cli.operations:migrate", "Bring the database to the schema of this version."),
    "operator": ("paycenter_server.cli.operations:operator", "Create an operator credential."),
    "channel": ("paycenter_server.cli.operations:channel", "Try an app's channel: `channel test CODE --app APP`."),
    "seed": ("paycenter_server.cli.seed:seed", "Migrate and seed the development data."),
    "dev": ("paycenter_server.local.commands:dev", "Run everything on this machine, for development."),
    "demo": ("paycenter_server.local.commands:demo", "Play two payments from end to end, and check every step."),
    "simulator": ("paycenter_server.simulator.cli:command", "Run the channel simulator alone."),
    "merchant": ("paycenter_server.local.merchant:command", "Run the demo merchant."),
    "play": ("paycenter_server.local.demo_steps:command", "Play two payments against a running development system."),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        known = _COMMANDS.get(cmd_name)
        if known is None:
            return None
        module, _, name = known[0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="paycenter-server")
def main() -> None:
    """PayCenter: a self-hosted payment center."""
