"""Who may carry a decision about a case out: the case is locked and checked again, with a second operator above the limit."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from paycenter_server.domain.cases import Decision, PayCase, needs_second_operator
from paycenter_server.domain.events import Cause
from paycenter_server.domain.states import CaseEvent, CaseState
from paycenter_server.services import cases_errors as errors
from paycenter_server.services.audit import Act, record
from paycenter_server.services.cases import Cases
from paycenter_server.services.context import Context
from paycenter_server.services.identity import Caller
from paycenter_server.storage import apps as app_rows
from paycenter_server.storage import cases as case_rows
from paycenter_server.storage import notifications as notification_rows
from paycenter_server.storage.cases import Decided
from paycenter_server.storage.database import Transaction

_SYSTEM = Caller("system", None, "")


@dataclass(frozen=True, slots=True)
class Work:
    """A decision with its cause for the event ledger, and its caller for the audit."""

    decided: Decided
    cause: Cause
    caller: Caller = _SYSTEM

    @property
    def decision(self) -> Decision:
        """What was decided."""
        return self.decided.decision


class CaseAuthority:
    """Checks decisions, stores proposals, and moves cases by decisions that are carried out."""

    def __init__(self, context: Context, cases: Cases) -> None:
        self._context = context
        self._cases = cases

    async def _authorise(self, transaction: Transaction, case: PayCase, work: Work) -> PayCase | None:
        """Lock the case and check the decision. None if nothing is to be done: it has been carried out, or is a proposal now."""
        await notification_rows.lock_notifications(transaction, case.id)
        current = await case_rows.lock_case(transaction, case.id)
        if current is None:
            raise errors.case_not_found()
        if work.decision not in current.possible:
            if current.state is not CaseState.OPEN and current.decision == work.decision and not current.possible:
                return None
            raise errors.decision_not_possible(current, work.decision)
        if current.refund_id != case.refund_id:
            # It has been refunded since it was read, which failed: its channel must be queried before anything is decided.
            raise errors.case_changed(current)
        app = await app_rows.get_app_by_id(transaction, current.app_id) if current.app_id else None
        if not needs_second_operator(current, app.case_decision_limit if app else None):
            return current
        if current.proposed_decision != work.decision:
            await case_rows.propose(transaction, current.id, work.decided, self._context.now(), work.cause)
            await record_decision(transaction, current, work, {"proposed": work.decision.value})
            return None
        if current.proposed_by == work.decided.by:
            raise errors.needs_second_operator(current)
        return current

    async def _authorised(self, case: PayCase, work: Work) -> bool:
        async with self._context.database.transaction() as transaction:
            return await self._authorise(transaction, case, work) is not None

    async def _move(
        self, transaction: Transaction, case: PayCase, work: Work, event: CaseEvent, refund_id: UUID | None = None
    ) -> PayCase | None:
        """Move the case, and record the decision in the audit."""
        moved = await self._cases.move(
            transaction, case.id, event, self._context.now(), work.cause, refund_id=refund_id, decided=work.decided
        )
        if moved is not None:
            await record_decision(transaction, case, work, {"decision": work.decision.value, "state": moved.state.value})
        return moved

    async def _read(self, case: PayCase) -> PayCase:
        async with self._context.database.connection() as connection:
            return await case_rows.get_case(connection, case.id) or case


async def record_decision(transaction: Transaction, case: PayCase, work: Work, after: dict[str, object]) -> None:
    """Record a decision, or a proposal, in the audit."""
    act = Act("PayCaseService/DecidePayCase", case.number, case.app_key or "")
    values = {"reason": work.decided.reason, "amount": case.amount, "currency": case.currency, "kind": case.kind.value}
    await record(transaction, work.caller, act, None, values | after)
