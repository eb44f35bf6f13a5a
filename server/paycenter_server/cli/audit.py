"""The audit on the command line: `audit list` and `audit verify`."""

from __future__ import annotations

import asyncio
import json

import click

from paycenter_server.bootstrap import open_database
from paycenter_server.cli.running import settings_of_dev_or_exit
from paycenter_server.domain.audit import AuditEntry
from paycenter_server.services.audit import BATCH, Audit
from paycenter_server.services.paging import Pager
from paycenter_server.storage.audit import AuditFilter


@click.group()
def audit() -> None:
    """Read and verify the audit: administrative acts and refused attempts."""


@audit.command("list")
@click.option("--operator", default="", help="Only acts of this operator.")
@click.option("--act", default="", help="Only this act, such as PayAppService/UpdatePayApp or login.")
@click.option("--object", "about", default="", help="Only acts on the object with this number or name.")
@click.option("--app", "app_key", default="", help="Only acts that concern this app.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 200), help="How many entries.")
def audit_list(operator: str, act: str, about: str, app_key: str, limit: int) -> None:
    """Show the newest entries, newest first. Times are UTC. Beside a running `paycenter dev` it needs no settings."""
    settings = settings_of_dev_or_exit()
    where = AuditFilter(operator=operator, act=act, object=about, app_key=app_key)

    async def read() -> list[AuditEntry]:
        async with open_database(settings) as database:
            return list((await Audit(database).search(where, Pager(limit, ""))).items)

    for entry in asyncio.run(read()):
        click.echo(_line(entry))


def _line(entry: AuditEntry) -> str:
    who = entry.actor if entry.operator in ("", entry.actor) else f"{entry.operator} ({entry.actor})"
    parts = [str(entry.id), f"{entry.time:%Y-%m-%d %H:%M:%S}", who, entry.act, entry.object, entry.outcome]
    parts += [f"from {entry.peer}"] if entry.peer else []
    parts += [f"request {entry.request_id}"] if entry.request_id else []
    for name, values in (("before", entry.before), ("after", entry.after)):
        parts += [f"{name} {json.dumps(values, ensure_ascii=False, sort_keys=True)}"] if values else []
    return "  ".join(part for part in parts if part)


@audit.command("verify")
@click.option("--after", default="", help="Verify the rows after this anchor (NUMBER:HASH), which an earlier run has printed.")
@click.option("--batch", default=BATCH, show_default=True, type=click.IntRange(1, 100_000), help="Rows of a statement.")
def audit_verify(after: str, batch: int) -> None:
    """Verify the chain of hashes, name the first broken row, and print an anchor. Ends with 1 if a row is broken.

    Keep the anchor outside the database: whoever can rewrite the whole chain cannot make it fit an anchor. Beside a running
    `paycenter dev` it needs no settings.
    """
    settings = settings_of_dev_or_exit()

    async def verify() -> tuple[int, str, str]:
        rows, broken, anchor = 0, "", after
        async with open_database(settings) as database:
            async for found in Audit(database).verify(after, batch):
                rows, broken, anchor = rows + found.rows, found.broken, found.anchor
                click.echo(f"{rows} rows, up to {found.last}", err=True)
        return rows, broken, anchor

    try:
        rows, broken, anchor = asyncio.run(verify())
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--after") from None
    if broken:
        click.echo(f"BROKEN: {broken}")
        raise SystemExit(1)
    click.echo(f"{rows} rows verified. Anchor: {anchor}")
