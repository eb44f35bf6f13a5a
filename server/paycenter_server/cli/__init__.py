"""The command line: `paycenter`. A command's module is imported only when the command is run, so that each starts quickly."""

from __future__ import annotations

from collections.abc import Callable

import click


def _serve() -> click.Command:
    from paycenter_server.cli.processes import serve

    return serve


def _callback() -> click.Command:
    from paycenter_server.cli.processes import callback

    return callback


def _worker() -> click.Command:
    from paycenter_server.cli.processes import worker

    return worker


def _console() -> click.Command:
    from paycenter_server.cli.console import console

    return console


def _migrate() -> click.Command:
    from paycenter_server.cli.operations import migrate

    return migrate


def _partitions() -> click.Command:
    from paycenter_server.cli.partitions import partitions

    return partitions


def _operator() -> click.Command:
    from paycenter_server.cli.operations import operator

    return operator


def _channel() -> click.Command:
    from paycenter_server.cli.operations import channel

    return channel


def _order() -> click.Command:
    from paycenter_server.cli.ledger import order

    return order


def _books() -> click.Command:
    from paycenter_server.cli.ledger import books

    return books


def _case() -> click.Command:
    from paycenter_server.cli.cases import case

    return case


def _approval() -> click.Command:
    from paycenter_server.cli.approvals import approval

    return approval


def _audit() -> click.Command:
    from paycenter_server.cli.audit import audit

    return audit


def _protos() -> click.Command:
    from paycenter_server.cli.protos import protos

    return protos


def _dev() -> click.Command:
    from paycenter_server.local.commands import dev

    return dev


def _demo() -> click.Command:
    from paycenter_server.local.commands import demo

    return demo


def _simulator() -> click.Command:
    from paycenter_server.simulator.cli import command

    return command


def _shop() -> click.Command:
    from paycenter_server.local.commands import shop

    return shop


def _seed() -> click.Command:
    from paycenter_server.cli.seed import seed

    return seed


_COMMANDS: dict[str, tuple[Callable[[], click.Command], str]] = {
    "serve": (_serve, "Run the gRPC server."),
    "callback": (_callback, "Run the sidecar that receives the callbacks of channels."),
    "worker": (_worker, "Run the workers: notifications, sync, expire, refund sync."),
    "console": (_console, "Run the management console."),
    "migrate": (_migrate, "Bring the database to the schema of this version."),
    "operator": (_operator, "Create an operator, its credential, or its password."),
    "channel": (_channel, "Test the channel of an app: `channel test CODE --app APP`."),
    "partitions": (_partitions, "Make the monthly partitions of the ledger and the log ahead, drop old ones, and list them."),
    "order": (_order, "Show why an order is where it is: `order show NUMBER`."),
    "books": (_books, "Compare the amounts of all orders with the event ledger: `books check`."),
    "case": (_case, "List, show and decide cases: `case list`, `case show NUMBER`, `case decide NUMBER refund`."),
    "approval": (
        _approval,
        "Acts that need a second operator: `approval list`, `approval approve NUMBER`, `approval refuse NUMBER`.",
    ),
    "audit": (_audit, "List and verify administrative acts: `audit list`, `audit verify`."),
    "protos": (_protos, "Write the .proto files of the contract to a folder."),
    "dev": (_dev, "Run everything on this machine, for development."),
    "demo": (_demo, "Make two demonstration payments and check every step."),
    "simulator": (_simulator, "Run the channel simulator alone."),
    "shop": (_shop, "Run the demo shop, an example of a service that is paid through PayCenter."),
    "seed": (_seed, "Migrate, and create the data of `paycenter dev`."),
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        known = _COMMANDS.get(cmd_name)
        return None if known is None else known[0]()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run the command. An error that an operator can correct becomes one sentence and exit code 1."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            from paycenter_server.cli.problems import explain

            sentence = explain(error)
            if sentence is None:
                raise
            raise click.ClickException(sentence) from error


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="paycenter-server")
def main() -> None:
    """PayCenter: a self-hosted payment center."""
