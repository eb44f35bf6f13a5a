"""`partitions`: the monthly partitions of the ledger and of the log of deliveries."""

from __future__ import annotations

import asyncio

import click

from paycenter_server.bootstrap import open_services
from paycenter_server.cli.running import settings_of_dev_or_exit
from paycenter_server.services.partitions import Maintained
from paycenter_server.storage.partitions import Partition
from paycenter_server.telemetry import configure_logging


@click.command()
@click.option("--list", "only_list", is_flag=True, help="Change nothing.")
def partitions(*, only_list: bool) -> None:
    """Make the partitions of this month and of the next three, drop those that are not kept, and list them.

    The worker does the same. PAYCENTER_EVENT_RETENTION_MONTHS and PAYCENTER_NOTIFICATION_LOG_RETENTION_MONTHS say how many months
    are kept; without them nothing is dropped. Ends with 1 if a month cannot have its partition, or if a table is locked, as by a
    backup: then repeat it later. Beside a running `paycenter dev` it needs no settings.
    """
    settings = settings_of_dev_or_exit()
    configure_logging("console", "error")

    async def work() -> tuple[Maintained, list[Partition]]:
        async with open_services(settings) as services:
            done = Maintained() if only_list else await services.partitions.maintain()
            return done, await services.partitions.list()

    done, found = asyncio.run(work())
    for one in found:
        month = f"{one.month:%Y-%m}" if one.month is not None else "other months"
        click.echo(f"{one.name:<28}{month:<14}{(one.bytes or 0) / 1024:>12,.0f} KiB{' made' if one.name in done.made else ''}")
    for name in done.dropped:
        click.echo(f"{name:<28}dropped")
    wrong = [*done.problems, *done.locked]
    for sentence in wrong:
        click.echo(sentence, err=True)
    raise SystemExit(1 if wrong else 0)
