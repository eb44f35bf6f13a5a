"""PayCaseService."""

from __future__ import annotations

import json
from typing import Any

from paycenter.v1 import pay_case_service_pb2 as pb
from paycenter.v1.pay_case_service_pb2_grpc import PayCaseServiceServicer
from paycenter.v1.pay_refund_service_pb2 import PAY_REFUND_STATE_UNSPECIFIED

from paycenter_server.domain.cases import CaseKind, Decision
from paycenter_server.domain.errors import Violation, invalid
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.states import CaseState
from paycenter_server.grpc_server.calls import current_caller
from paycenter_server.grpc_server.convert import enum_value, numbers, read_time, stamp
from paycenter_server.grpc_server.orders import entry_message
from paycenter_server.grpc_server.refunds import REFUND_NUMBERS
from paycenter_server.services.cases_decisions import CaseDecisions
from paycenter_server.services.cases_desk import CaseDesk, CaseView
from paycenter_server.services.paging import Pager
from paycenter_server.storage.cases_desk import CaseFilter

CASE_KINDS = numbers(pb.PayCaseKind, "PAY_CASE_KIND", CaseKind)
CASE_STATES = numbers(pb.PayCaseState, "PAY_CASE_STATE", CaseState)
CASE_DECISIONS = numbers(pb.PayCaseDecision, "PAY_CASE_DECISION", Decision)


def _decision(name: str) -> pb.PayCaseDecision.ValueType:
    return pb.PayCaseDecision.Value(f"PAY_CASE_DECISION_{name or 'UNSPECIFIED'}")


def case_message(view: CaseView) -> pb.PayCase:
    """A case, with the state of its refund."""
    case, refund = view.case, view.refund
    return pb.PayCase(
        id=case.number,
        kind=pb.PayCaseKind.Value(f"PAY_CASE_KIND_{case.kind.value}"),
        state=pb.PayCaseState.Value(f"PAY_CASE_STATE_{case.state.value}"),
        app_key=case.app_key or "",
        channel_id=encode(Prefix.CHANNEL, case.channel_id) if case.channel_id else "",
        account_id=encode(Prefix.ACCOUNT, case.account_id) if case.account_id else "",
        pay_order_id=encode(Prefix.ORDER, case.order_id) if case.order_id else "",
        out_trade_no=encode(Prefix.ATTEMPT, case.attempt_id) if case.attempt_id else "",
        pay_refund_id=encode(Prefix.REFUND, case.refund_id) if case.refund_id else "",
        pay_refund_state=REFUND_NUMBERS[refund.state] if refund else PAY_REFUND_STATE_UNSPECIFIED,
        pay_refund_error=refund.error if refund else "",
        amount=case.amount,
        currency=case.currency or "",
        reference=case.reference,
        occurrence=case.occurrence,
        detail=json.dumps(dict(case.detail), ensure_ascii=False),
        assignee=case.assignee,
        possible_decisions=[_decision(item.value) for item in case.possible],
        decision=_decision(case.decision),
        decision_reason=case.decision_reason,
        decided_by=case.decided_by,
        proposed_decision=_decision(case.proposed_decision),
        proposed_reason=case.proposed_reason,
        proposed_by=case.proposed_by,
        proposed_time=stamp(case.proposed_time),
        needs_second_operator=view.second,
        resolution=case.resolution,
        stale_time=stamp(case.stale_time),
        version=case.version,
        create_time=stamp(case.create_time),
        update_time=stamp(case.update_time),
        resolve_time=stamp(case.resolve_time),
    )


class CaseServicer(PayCaseServiceServicer):
    """Converts messages, and calls the use cases of the case desk."""

    def __init__(self, desk: CaseDesk, decisions: CaseDecisions) -> None:
        self._desk = desk
        self._decisions = decisions

    async def ListPayCases(self, request: pb.ListPayCasesRequest, context: Any) -> pb.ListPayCasesResponse:
        """See the proto."""
        where = CaseFilter(
            kind=enum_value(CaseKind, "kind", request.kind, CASE_KINDS),
            state=enum_value(CaseState, "state", request.state, CASE_STATES),
            unresolved=request.unresolved,
            assignee=request.assignee,
            amount_from=request.amount_from if request.HasField("amount_from") else None,
            amount_to=request.amount_to if request.HasField("amount_to") else None,
            opened_after=read_time(request, "opened_after"),
            opened_before=read_time(request, "opened_before"),
            stale=request.stale,
        )
        page = await self._desk.search(
            current_caller(), where, Pager(request.page_size, request.page_token), app_key=request.app_key,
            account=request.account_id, order=request.pay_order_id,
        )  # fmt: skip
        return pb.ListPayCasesResponse(pay_cases=[case_message(view) for view in page.items], next_page_token=page.next_token)

    async def GetPayCase(self, request: pb.GetPayCaseRequest, context: Any) -> pb.GetPayCaseResponse:
        """See the proto."""
        view = await self._desk.get(current_caller(), request.id)
        entries, left_off = await self._desk.timeline(current_caller(), request.id)
        return pb.GetPayCaseResponse(
            pay_case=case_message(view), entries=[entry_message(entry) for entry in entries], left_off=left_off
        )

    async def DecidePayCase(self, request: pb.DecidePayCaseRequest, context: Any) -> pb.DecidePayCaseResponse:
        """See the proto."""
        decision = enum_value(Decision, "decision", request.decision, CASE_DECISIONS)
        if decision is None:
            raise invalid([Violation("decision", "must be set")])
        view = await self._decisions.decide(current_caller(), request.id, decision, request.reason)
        return pb.DecidePayCaseResponse(pay_case=case_message(view))

    async def CommentPayCase(self, request: pb.CommentPayCaseRequest, context: Any) -> pb.CommentPayCaseResponse:
        """See the proto."""
        await self._desk.comment(current_caller(), request.id, request.text)
        return pb.CommentPayCaseResponse()

    async def AssignPayCase(self, request: pb.AssignPayCaseRequest, context: Any) -> pb.AssignPayCaseResponse:
        """See the proto."""
        return pb.AssignPayCaseResponse(
            pay_case=case_message(await self._desk.assign(current_caller(), request.id, request.assignee))
        )
