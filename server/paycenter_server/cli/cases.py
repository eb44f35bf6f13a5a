"""The case desk on the command line: `case list`, `case show`, `case decide`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from paycenter_server.bootstrap import Services, open_services
from paycenter_server.cli.ledger import entry_lines
from paycenter_server.cli.running import settings_of_dev_or_exit
from paycenter_server.domain.cases import CaseKind, Decision
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.states import CaseState
from paycenter_server.services.cases_desk import CaseView
from paycenter_server.services.identity import Caller
from paycenter_server.services.paging import MAX_SIZE, Pager
from paycenter_server.services.timeline import Entry
from paycenter_server.storage.cases_desk import CaseFilter
from paycenter_server.telemetry import configure_logging

T = TypeVar("T")
# Everybody who uses the command line is one operator. Where a second one is needed, the other decides over the API.
CALLER = Caller("command line", None, "")
_COLUMNS = ("number", "opened", "kind", "state", "app", "amount", "refund", "assignee")


def run_work(work: Callable[[Services], Awaitable[T]]) -> T:
    """Run use cases on the settings of the environment, or of a running `paycenter dev`; an error of one is a sentence."""
    settings = settings_of_dev_or_exit()
    configure_logging("console", "error")

    async def inside() -> T:
        async with open_services(settings) as services:
            return await work(services)

    try:
        return asyncio.run(inside())
    except PayCenterError as error:
        raise click.ClickException(error.message) from None


@click.group()
def case() -> None:
    """List, show and decide cases."""


@case.command("list")
@click.option("--kind", type=click.Choice([item.value for item in CaseKind], case_sensitive=False))
@click.option("--state", type=click.Choice([item.value for item in CaseState], case_sensitive=False))
@click.option("--all", "every", is_flag=True, help="Resolved ones too.")
@click.option("--app", "app_key", default="", help="Of this app.")
@click.option("--account", default="", help="Of the account with this number (M…).")
@click.option("--order", default="", help="Of the order with this number (O…).")
@click.option("--amount-from", type=int, help="At least so many minor units.")
@click.option("--amount-to", type=int, help="At most so many minor units.")
@click.option("--opened-after", type=click.DateTime(), help="Opened at this time (UTC) or later.")
@click.option("--opened-before", type=click.DateTime(), help="Opened before this time (UTC).")
@click.option("--assignee", default="", help="On which this person works.")
@click.option("--stale", is_flag=True, help="Whose refund has not been decided for a day.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="The most that are shown.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each case.")
def case_list(
    *,
    kind: str | None,
    state: str | None,
    every: bool,
    app_key: str,
    account: str,
    order: str,
    amount_from: int | None,
    amount_to: int | None,
    opened_after: datetime | None,
    opened_before: datetime | None,
    assignee: str,
    stale: bool,
    limit: int,
    as_json: bool,
) -> None:
    """List cases, newest first: those that are not resolved, unless --all or --state says otherwise.

    Amounts are minor units, times are UTC. Beside a running `paycenter dev` it needs no settings.
    """
    where = CaseFilter(
        kind=CaseKind(kind) if kind else None, state=CaseState(state) if state else None, unresolved=not every and state is None,
        assignee=assignee, amount_from=amount_from, amount_to=amount_to, opened_after=_utc(opened_after),
        opened_before=_utc(opened_before), stale=stale,
    )  # fmt: skip

    async def read(services: Services) -> list[CaseView]:
        found: list[CaseView] = []
        token = ""
        while len(found) < limit:
            pager = Pager(min(limit - len(found), MAX_SIZE), token)
            page = await services.case_desk.search(CALLER, where, pager, app_key=app_key, account=account, order=order)
            found += page.items
            token = page.next_token
            if not token:
                break
        return found

    views = run_work(read)
    if as_json:
        for view in views:
            click.echo(json.dumps(_object(view), ensure_ascii=False))
        return
    rows = [_row(view) for view in views]
    widths = [max(len(row[index]) for row in [_COLUMNS, *rows]) for index in range(len(_COLUMNS))]
    for row in [_COLUMNS, *rows]:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    click.echo(f"{len(rows)} cases", err=True)


@case.command("show")
@click.argument("number")
@click.option("--evidence", is_flag=True, help="Show the callbacks and channel calls, too.")
@click.option("--json", "as_json", is_flag=True, help="As a JSON object.")
def case_show(number: str, *, evidence: bool, as_json: bool) -> None:
    """Show the case NUMBER (K…): what is known, what can be decided, and what happened to it and its order, oldest first.

    Beside a running `paycenter dev` it needs no settings. Times are UTC.
    """

    async def read(services: Services) -> tuple[CaseView, list[Entry]]:
        view = await services.case_desk.get(CALLER, number)
        entries, _ = await services.case_desk.timeline(CALLER, number)
        return view, entries

    view, entries = run_work(read)
    if as_json:
        shown = [{**_entry_object(entry), **({"evidence": entry.evidence} if evidence else {})} for entry in entries]
        click.echo(json.dumps({**_object(view), "entries": shown}, ensure_ascii=False))
        return
    _show(view)
    click.echo("")
    for entry in entries:
        said = entry.actor_kind == "OPERATOR" and entry.subject.value == "CASE"  # what operators write is the point of it
        for line in entry_lines(entry, evidence=evidence or said):
            click.echo(line)


@case.command("decide")
@click.argument("number")
@click.argument("decision", type=click.Choice([item.value for item in Decision], case_sensitive=False))
@click.option("--reason", default="", help="Why. CLOSE needs one.")
@click.option("--json", "as_json", is_flag=True, help="As a JSON object.")
def case_decide(number: str, decision: str, reason: str, *, as_json: bool) -> None:
    """Decide the case NUMBER (K…) with DECISION: refund, accept, close or retry.

    Above the limit of the app the decision is stored as a proposal, and an operator has to send the same one over the API
    (DecidePayCase): everybody who uses the command line counts as one operator. Beside a running `paycenter dev` it needs no
    settings.
    """
    view = run_work(lambda services: services.case_decisions.decide(CALLER, number, Decision(decision.upper()), reason))
    if as_json:
        click.echo(json.dumps(_object(view), ensure_ascii=False))
        return
    _show(view)


def _utc(at: datetime | None) -> datetime | None:
    return at.replace(tzinfo=UTC) if at is not None else None


def _row(view: CaseView) -> tuple[str, ...]:
    one = view.case
    amount = "?" if one.amount is None else f"{one.currency or ''} {one.amount}".strip()
    state = f"{one.state.value} (stale)" if one.stale_time else one.state.value
    state += f" (proposed: {one.proposed_decision})" if one.proposed_decision else ""
    return (
        one.number, f"{one.create_time:%Y-%m-%d %H:%M:%S}", one.kind.value, state, one.app_key or "", amount,
        view.refund.state.value if view.refund else "", one.assignee,
    )  # fmt: skip


def _show(view: CaseView) -> None:
    one, refund = view.case, view.refund
    amount = "an amount that is not known" if one.amount is None else f"{one.currency or ''} {one.amount} (minor units)".strip()
    click.echo(f"{one.number} {one.kind.value} {one.state.value}, {amount}, app {one.app_key or '?'}")
    click.echo(f"opened {one.create_time:%Y-%m-%d %H:%M:%S}, reference {one.reference}")
    facts = {
        "why": one.detail.get("why"), "order": encode(Prefix.ORDER, one.order_id) if one.order_id else None,
        "attempt": encode(Prefix.ATTEMPT, one.attempt_id) if one.attempt_id else None,
        "refund": f"{refund.number} {refund.state.value} {refund.error}".rstrip() if refund else None,
        "stale": f"its refund has not been decided for a day ({one.stale_time:%Y-%m-%d %H:%M:%S})" if one.stale_time else None,
        "assignee": one.assignee,
        "decided": f"{one.decision} by {one.decided_by or 'the policy of the app'} {one.decision_reason}".rstrip()
        if one.decision else None,
        "proposed": f"{one.proposed_decision} by {one.proposed_by} {one.proposed_reason}".rstrip()
        if one.proposed_decision else None,
        "became": one.resolution, "possible": ", ".join(item.value for item in one.possible),
        "second": "a decision needs a second operator" if view.second else None,
    }  # fmt: skip
    for name, text in facts.items():
        if text:
            click.echo(f"  {name + ':':<10} {text}")


def _object(view: CaseView) -> dict[str, Any]:
    one, refund = view.case, view.refund
    return {
        "id": one.number, "kind": one.kind.value, "state": one.state.value, "app_key": one.app_key or "",
        "account_id": encode(Prefix.ACCOUNT, one.account_id) if one.account_id else "",
        "pay_order_id": encode(Prefix.ORDER, one.order_id) if one.order_id else "",
        "out_trade_no": encode(Prefix.ATTEMPT, one.attempt_id) if one.attempt_id else "",
        "pay_refund_id": refund.number if refund else "", "pay_refund_state": refund.state.value if refund else "",
        "amount": one.amount, "currency": one.currency or "", "reference": one.reference, "detail": dict(one.detail),
        "assignee": one.assignee, "possible_decisions": [item.value for item in one.possible], "decision": one.decision,
        "decision_reason": one.decision_reason, "decided_by": one.decided_by, "proposed_decision": one.proposed_decision,
        "proposed_by": one.proposed_by, "resolution": one.resolution, "stale": one.stale_time is not None,
        "create_time": one.create_time.isoformat(), "resolve_time": one.resolve_time.isoformat() if one.resolve_time else None,
    }  # fmt: skip


def _entry_object(entry: Entry) -> dict[str, Any]:
    return {
        "time": entry.time.isoformat(), "subject": entry.subject.value, "number": entry.number, "event": entry.event,
        "from_state": entry.from_state, "to_state": entry.to_state, "amount": entry.amount, "actor_kind": entry.actor_kind,
        "actor": entry.actor,
    }  # fmt: skip
