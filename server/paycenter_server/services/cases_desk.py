"""The case desk: operators list and read cases, comment on them and assign them. They decide in `services/cases_decisions.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from paycenter_server.domain.cases import PayCase, needs_second_operator
from paycenter_server.domain.errors import Violation, invalid
from paycenter_server.domain.events import CASE_COMMENTED, Cause, Subject
from paycenter_server.domain.ids import Prefix, decode
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.validation import Check
from paycenter_server.services import cases_errors as errors
from paycenter_server.services.audit import Act, record
from paycenter_server.services.context import Context
from paycenter_server.services.identity import Caller, Identity
from paycenter_server.services.paging import Page, Pager
from paycenter_server.services.timeline import Entry, Timelines
from paycenter_server.storage import apps as app_rows
from paycenter_server.storage import cases as case_rows
from paycenter_server.storage import cases_desk as desk_rows
from paycenter_server.storage import events as event_rows
from paycenter_server.storage import refunds as refund_rows
from paycenter_server.storage.cases_desk import CaseFilter
from paycenter_server.storage.database import Connection

COMMENT_MAX = 1000


@dataclass(frozen=True, slots=True)
class CaseView:
    """A case, and the refund that it is about or that returns its money. `second`: a decision needs a second operator; lists do
    not say so."""

    case: PayCase
    refund: PayRefund | None
    second: bool = False

    @property
    def id(self) -> UUID:
        """The key for paging."""
        return self.case.id


class CaseDesk:
    """What operators read and write about cases, decisions aside."""

    def __init__(self, context: Context, identity: Identity, timelines: Timelines) -> None:
        self._context = context
        self._identity = identity
        self._timelines = timelines

    async def search(
        self, caller: Caller, where: CaseFilter, pager: Pager, *, app_key: str = "", account: str = "", order: str = ""
    ) -> Page[CaseView]:
        """List cases, newest first. `account`, `order`: numbers. A page may be shorter than its size and not be the last one."""
        self._identity.require_operator(caller)
        where = replace(
            where, app_id=await self._identity.list_scope(caller, app_key), account_id=_key("account_id", Prefix.ACCOUNT, account),
            order_id=_key("pay_order_id", Prefix.ORDER, order),
        )  # fmt: skip
        async with self._context.database.connection() as connection:
            rows = await desk_rows.list_cases(connection, where, limit=pager.size + 1, before=pager.before(where))
            views = await _with_refunds(connection, rows.cases)
        page = pager.page(views, where)
        if rows.last is not None:
            return Page(page.items, Pager.token(rows.last, where))
        return page

    async def load(self, caller: Caller, number: str) -> PayCase:
        """Read by number. CASE_NOT_FOUND if there is none."""
        self._identity.require_operator(caller)
        key = decode(Prefix.CASE, number)
        async with self._context.database.connection() as connection:
            case = await case_rows.get_case(connection, key) if key else None
        if case is None or not self._identity.owns(caller, case.app_id):
            raise errors.case_not_found()
        return case

    async def get(self, caller: Caller, number: str) -> CaseView:
        """Read a case with its refund, and whether a decision needs a second operator."""
        case = await self.load(caller, number)
        async with self._context.database.connection() as connection:
            (view,) = await _with_refunds(connection, [case])
            app = await app_rows.get_app_by_id(connection, case.app_id) if case.app_id else None
        return replace(view, second=bool(case.possible) and needs_second_operator(case, app.case_decision_limit if app else None))

    async def timeline(self, caller: Caller, number: str) -> tuple[list[Entry], bool]:
        """What happened to a case and to its order, oldest first; and whether older entries are left off."""
        return await self._timelines.of_case(await self.load(caller, number))

    async def comment(self, caller: Caller, number: str, text: str) -> None:
        """Write a comment into the event ledger. The case itself does not change."""
        check = Check()
        check.text("text", text, COMMENT_MAX, minimum=1)
        check.done()
        case = await self.load(caller, number)
        async with self._context.database.transaction() as transaction:
            cause = Cause(caller.actor, {"comment": text})
            await event_rows.insert_event(transaction, Subject.CASE, case.id, case.order_id, CASE_COMMENTED, cause)
            act = Act("PayCaseService/CommentPayCase", case.number, case.app_key or "")
            await record(transaction, caller, act, None, {"comment": text})

    async def assign(self, caller: Caller, number: str, assignee: str) -> CaseView:
        """Set who works on a case; "" for nobody."""
        check = Check()
        check.text("assignee", assignee, 64)
        check.done()
        case = await self.load(caller, number)
        async with self._context.database.transaction() as transaction:
            await case_rows.assign(transaction, case.id, assignee, Cause(caller.actor, {"assignee": assignee}))
            act = Act("PayCaseService/AssignPayCase", case.number, case.app_key or "")
            await record(transaction, caller, act, {"assignee": case.assignee}, {"assignee": assignee})
        return await self.get(caller, number)


async def _with_refunds(connection: Connection, cases: Sequence[PayCase]) -> list[CaseView]:
    refunds = await refund_rows.get_refunds(connection, [case.refund_id for case in cases if case.refund_id])
    return [CaseView(case, refunds.get(case.refund_id) if case.refund_id else None) for case in cases]


def _key(field: str, prefix: Prefix, number: str) -> UUID | None:
    if not number:
        return None
    key = decode(prefix, number)
    if key is None:
        raise invalid([Violation(field, f'must be a number: "{prefix.value}" and 26 characters')])
    return key
