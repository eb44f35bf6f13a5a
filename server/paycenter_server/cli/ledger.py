"""What the event ledger answers: `order show` and `books check`."""

from __future__ import annotations

import asyncio

import click

from paycenter_server.bootstrap import open_services
from paycenter_server.cli.running import settings_of_dev_or_exit
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.services.books import BATCH, check_books, compared_since
from paycenter_server.services.identity import Caller
from paycenter_server.services.timeline import Entry, Next, Timeline
from paycenter_server.telemetry import configure_logging

_CALLER = Caller("command line", None, "")


@click.group()
def order() -> None:
    """Show an order."""


@order.command("show")
@click.argument("number")
@click.option("--app", "app_key", default="", help="NUMBER is the merchant_order_id of an order of this app.")
@click.option("--evidence", is_flag=True, help="Show the callbacks and channel calls, too.")
def order_show(number: str, app_key: str, *, evidence: bool) -> None:
    """Show why the order NUMBER is where it is: everything that happened to it, oldest first, and what comes next.

    NUMBER is PayCenter's number of the order (O…), or with --app the app's own. Beside a running `paycenter dev` it needs no
    settings. Times are UTC.
    """
    settings = settings_of_dev_or_exit()
    configure_logging("console", "error")

    async def read() -> Timeline:
        async with open_services(settings) as services:
            ours = number
            if app_key:
                ours = (await services.orders.load_by_merchant_id(_CALLER, app_key, number)).number
            return await services.timelines.of_order(_CALLER, ours)

    try:
        found = asyncio.run(read())
    except PayCenterError as error:
        raise click.ClickException(error.message) from None
    for line in _lines(found, evidence=evidence):
        click.echo(line)


def _lines(found: Timeline, *, evidence: bool) -> list[str]:
    one = found.order
    lines = [
        f"{one.number} {one.state.value}, {one.currency} {one.amount} (minor units), paid {one.paid_amount}, refunded "
        f"{one.refunded_amount}, reserved {one.reserved_amount}",
        f"app {one.app_key}, merchant_order_id {one.merchant_order_id}, {one.subject}",
        "",
    ]
    if found.left_off:
        lines.append("(older entries are left off)")
    for entry in found.entries:
        lines += entry_lines(entry, evidence=evidence)
    lines.append("")
    lines += [_next(item) for item in found.next] or ["Nothing is waiting."]
    return lines


def entry_lines(entry: Entry, *, evidence: bool) -> list[str]:
    """The lines of an entry of a timeline."""
    states = " → ".join(state for state in (entry.from_state, entry.to_state) if state)
    parts = [f"{entry.time:%Y-%m-%d %H:%M:%S.%f}"[:-3], f"{entry.subject.value:<12}", entry.number, entry.event]
    parts += [f"[{states}]"] if states else []
    parts += [str(entry.amount)] if entry.amount else []
    parts += [f"by {entry.actor_kind} {entry.actor}".rstrip()] if entry.actor_kind else []
    lines = ["  ".join(parts)]
    if evidence and entry.evidence:
        lines.append(f"    {entry.evidence}")
    return lines


def _next(item: Next) -> str:
    when = f"{item.time:%Y-%m-%d %H:%M:%S}" if item.time else "waiting"
    return f"next: {when}  {item.subject.value}  {item.number}  {item.state}  {item.what}"


@click.group()
def books() -> None:
    """Check the books."""


@books.command("check")
@click.option("--after", default="", help="Resume after the order with this number, which an interrupted check has printed.")
@click.option("--batch", default=BATCH, show_default=True, type=click.IntRange(1, 100_000), help="Orders of a statement.")
@click.option("--no-cases", is_flag=True, help="Write nothing, for a database that is read-only.")
def books_check(after: str, batch: int, *, no_cases: bool) -> None:
    """Compare every order's paid, reserved and refunded amounts with the sums of its events; name each difference.

    A difference opens a case BOOKS_DIFFER of its order, one as long as it is not resolved. Ends with 1 if there is a difference.
    Beside a running `paycenter dev` it needs no settings.
    """
    settings = settings_of_dev_or_exit()
    configure_logging("console", "error")

    async def check() -> tuple[int, int]:
        orders = differences = opened = 0
        async with open_services(settings) as services:
            cases = None if no_cases else services.cases
            if (since := await compared_since(services.context.database)) is not None:
                click.echo(f"Orders from before {since:%Y-%m-%d} are not compared: their events were dropped.", err=True)
            async for found in check_books(services.context.database, after, batch, cases):
                orders += found.orders
                differences += len(found.differences)
                opened += found.opened
                for sentence in found.differences:
                    click.echo(sentence)
                click.echo(f"{orders} orders compared, up to {found.last}", err=True)
        if opened:
            click.echo(f"{opened} cases opened: paycenter case list --kind BOOKS_DIFFER", err=True)
        return orders, differences

    try:
        orders, differences = asyncio.run(check())
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--after") from None
    click.echo(f"{orders} orders compared, {differences} with a difference.")
    raise SystemExit(1 if differences else 0)
