"""PayApprovalService."""

from __future__ import annotations

import json
from typing import Any

from paycenter.v1 import pay_approval_service_pb2 as pb
from paycenter.v1.pay_approval_service_pb2_grpc import PayApprovalServiceServicer

from paycenter_server.domain.approvals import ApprovalKind, PayApproval
from paycenter_server.domain.states import ApprovalState
from paycenter_server.grpc_server.calls import current_caller
from paycenter_server.grpc_server.convert import enum_value, numbers, stamp
from paycenter_server.services.approvals_desk import ApprovalDesk
from paycenter_server.services.paging import Pager

KINDS = numbers(pb.PayApprovalKind, "PAY_APPROVAL_KIND", ApprovalKind)
STATES = numbers(pb.PayApprovalState, "PAY_APPROVAL_STATE", ApprovalState)


def approval_message(approval: PayApproval) -> pb.PayApproval:
    """An approval, without the values of its call."""
    return pb.PayApproval(
        id=approval.number,
        kind=pb.PayApprovalKind.Value(f"PAY_APPROVAL_KIND_{approval.kind.value}"),
        state=pb.PayApprovalState.Value(f"PAY_APPROVAL_STATE_{approval.state.value}"),
        app_key=approval.app_key or "",
        object_id=approval.object,
        amount=approval.amount or 0,
        currency=approval.currency or "",
        change=json.dumps(dict(approval.shown), ensure_ascii=False),
        requested_by=approval.requested_by,
        decided_by=approval.decided_by,
        reason=approval.reason,
        expire_time=stamp(approval.expire_time),
        create_time=stamp(approval.create_time),
        decide_time=stamp(approval.decide_time),
    )


class ApprovalServicer(PayApprovalServiceServicer):
    """Converts messages, and calls the use cases for approvals."""

    def __init__(self, desk: ApprovalDesk) -> None:
        self._desk = desk

    async def ListPayApprovals(self, request: pb.ListPayApprovalsRequest, context: Any) -> pb.ListPayApprovalsResponse:
        """See the proto."""
        page = await self._desk.search(
            current_caller(), Pager(request.page_size, request.page_token), app_key=request.app_key,
            state=enum_value(ApprovalState, "state", request.state, STATES),
            kind=enum_value(ApprovalKind, "kind", request.kind, KINDS), about=request.object_id,
        )  # fmt: skip
        return pb.ListPayApprovalsResponse(
            pay_approvals=[approval_message(item) for item in page.items], next_page_token=page.next_token
        )

    async def GetPayApproval(self, request: pb.GetPayApprovalRequest, context: Any) -> pb.GetPayApprovalResponse:
        """See the proto."""
        return pb.GetPayApprovalResponse(pay_approval=approval_message(await self._desk.get(current_caller(), request.id)))

    async def ApprovePayApproval(self, request: pb.ApprovePayApprovalRequest, context: Any) -> pb.ApprovePayApprovalResponse:
        """See the proto."""
        approval = await self._desk.approve(current_caller(), request.id, request.reason)
        return pb.ApprovePayApprovalResponse(pay_approval=approval_message(approval))

    async def RefusePayApproval(self, request: pb.RefusePayApprovalRequest, context: Any) -> pb.RefusePayApprovalResponse:
        """See the proto."""
        approval = await self._desk.refuse(current_caller(), request.id, request.reason)
        return pb.RefusePayApprovalResponse(pay_approval=approval_message(approval))
