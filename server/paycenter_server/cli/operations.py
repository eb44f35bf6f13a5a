"""Operations: migrate, operator, channel test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import click

from paycenter_server.bootstrap import open_database, open_services
from paycenter_server.cli.problems import explain
from paycenter_server.cli.running import database_settings_of_dev_or_exit, database_settings_or_exit, settings_of_dev_or_exit
from paycenter_server.clock import SystemClock
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.services.channels_probe import Probe
from paycenter_server.services.credentials import create_operator, give_operator_password
from paycenter_server.services.identity import Caller
from paycenter_server.services.operators import check_operator_name
from paycenter_server.telemetry import configure_logging

T = TypeVar("T")


def _or_exit(work: Callable[[], T]) -> T:
    """What `work` answers; if it fails, one sentence that says why, and the end with 2."""
    try:
        return work()
    except Exception as error:
        # A migration that fails on the data is not a fault whose traceback helps: the statement and the server's words do.
        sentence = explain(error) or f"The database cannot be migrated. {type(error).__name__}: {error}"
        click.echo(sentence, err=True)
        raise SystemExit(2) from None


@click.command()
@click.option(
    "--check", is_flag=True, help="Change nothing; end with 1 if migrations are missing, with 2 if the database cannot be asked."
)
def migrate(check: bool) -> None:
    """Bring the database to the schema of this version."""
    from paycenter_server.storage.migrate import current, ensure, head

    settings = database_settings_or_exit()
    if check:
        found, wanted = _or_exit(lambda: asyncio.run(current(settings.database_url))), head()
        click.echo(f"The database is at {found or 'nothing'}, this version needs {wanted}.")
        raise SystemExit(0 if found == wanted else 1)
    done = _or_exit(lambda: ensure(settings.database_url))
    click.echo(f"{'Migrated to' if done else 'Already at'} {head()}.")


@click.command()
@click.argument("name")
@click.option("--password", is_flag=True, help="Show a one-time password for the console instead of a credential.")
def operator(name: str, *, password: bool) -> None:
    """Create a credential of the operator NAME (1 to 64 characters). Its secret is shown this one time.

    An operator that does not exist yet becomes an admin. With --password, an operator that lost password or authenticator gets in
    again: its authenticator is removed, its sessions end, and it is enabled. Needs PAYCENTER_DATABASE_URL and no other setting;
    beside a running `paycenter dev` none.
    """
    try:
        check_operator_name(name)
    except PayCenterError as error:
        raise click.BadParameter(error.violations[0].description, param_hint="NAME") from None
    settings = database_settings_of_dev_or_exit()

    async def create() -> tuple[str, str]:
        async with open_database(settings) as database:
            return await create_operator(database, SystemClock().now(), name)

    async def give() -> str:
        async with open_database(settings) as database:
            return await give_operator_password(database, SystemClock().now(), name)

    if password:
        click.echo(
            f"name: {name}\npassword: {asyncio.run(give())}\nIt is shown this one time, and must be changed at the first login."
        )
        return
    key_id, secret = asyncio.run(create())
    click.echo(f"key id: {key_id}\nsecret: {secret}\nThe secret is shown this one time; keep it safe.")


@click.group()
def channel() -> None:
    """Test the channels of apps."""


@channel.command("test")
@click.argument("code")
@click.option("--app", "app_key", required=True, help="The app whose channel it is.")
def channel_test(code: str, app_key: str) -> None:
    """Test the channel CODE of an app with a harmless signed query; ends with 1 and says why if it does not work.

    Beside a running `paycenter dev` it needs no settings.
    """
    settings = settings_of_dev_or_exit()
    configure_logging("console", "error")

    async def probe() -> Probe:
        async with open_services(settings) as services:
            return await services.channel_probe.probe(Caller("command line", None, ""), app_key, code)

    found = asyncio.run(probe())
    click.echo(found.words)
    raise SystemExit(0 if found.good else 1)
