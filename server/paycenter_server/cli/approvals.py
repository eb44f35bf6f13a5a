"""Approvals on the command line: `approval list`, `approval approve`, `approval refuse`."""

from __future__ import annotations

import json
from typing import Any

import click

from paycenter_server.bootstrap import Services
from paycenter_server.cli.cases import CALLER, run_work
from paycenter_server.domain.approvals import PayApproval
from paycenter_server.domain.states import ApprovalState
from paycenter_server.services.paging import MAX_SIZE, Pager

_COLUMNS = ("number", "requested", "expires", "kind", "state", "object", "app", "amount", "requested by")


@click.group()
def approval() -> None:
    """List, approve and refuse acts that need a second operator."""


@approval.command("list")
@click.option("--app", "app_key", default="", help="Of this app.")
@click.option("--all", "every", is_flag=True, help="Decided and expired ones too.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, MAX_SIZE), help="The most that are shown.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each approval.")
def approval_list(*, app_key: str, every: bool, limit: int, as_json: bool) -> None:
    """List acts that wait for a second operator, newest first.

    Amounts are minor units, times are UTC. Beside a running `paycenter dev` it needs no settings.
    """

    async def read(services: Services) -> list[PayApproval]:
        state = None if every else ApprovalState.PENDING
        return list((await services.approval_desk.search(CALLER, Pager(limit, ""), app_key=app_key, state=state)).items)

    found = run_work(read)
    if as_json:
        for one in found:
            click.echo(json.dumps(_object(one), ensure_ascii=False))
        return
    rows = [_row(one) for one in found]
    widths = [max(len(row[index]) for row in [_COLUMNS, *rows]) for index in range(len(_COLUMNS))]
    for row in [_COLUMNS, *rows]:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    click.echo(f"{len(rows)} approvals", err=True)


@approval.command("approve")
@click.argument("number")
@click.option("--reason", default="", help="Why.")
def approval_approve(number: str, reason: str) -> None:
    """Approve NUMBER (V…), and carry its act out.

    Everybody who uses the command line counts as one operator, who cannot approve what it has requested itself.
    """
    one = run_work(lambda services: services.approval_desk.approve(CALLER, number, reason))
    click.echo(json.dumps(_object(one), ensure_ascii=False))


@approval.command("refuse")
@click.argument("number")
@click.option("--reason", required=True, help="Why.")
def approval_refuse(number: str, reason: str) -> None:
    """Refuse NUMBER (V…). Nothing is done."""
    one = run_work(lambda services: services.approval_desk.refuse(CALLER, number, reason))
    click.echo(json.dumps(_object(one), ensure_ascii=False))


def _row(one: PayApproval) -> tuple[str, ...]:
    amount = "" if one.amount is None else f"{one.currency or ''} {one.amount}".strip()
    return (
        one.number, f"{one.create_time:%Y-%m-%d %H:%M:%S}", f"{one.expire_time:%Y-%m-%d %H:%M:%S}", one.kind.value, one.state.value,
        one.object, one.app_key or "", amount, one.requested_by,
    )  # fmt: skip


def _object(one: PayApproval) -> dict[str, Any]:
    return {
        "id": one.number, "kind": one.kind.value, "state": one.state.value, "app_key": one.app_key or "", "object_id": one.object,
        "amount": one.amount, "currency": one.currency or "", "change": dict(one.shown), "requested_by": one.requested_by,
        "decided_by": one.decided_by, "reason": one.reason, "create_time": one.create_time.isoformat(),
        "expire_time": one.expire_time.isoformat(),
    }  # fmt: skip
