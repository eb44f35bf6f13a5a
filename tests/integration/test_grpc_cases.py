"""PayCaseService over the wire, and the settings of apps for cases."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from paycenter import AsyncPayCenter
from paycenter.errors import CaseDecisionNotPossibleError, CaseNeedsSecondOperatorError, OrderUnderReviewError
from paycenter.v1 import pay_app_service_pb2 as app_pb
from paycenter.v1 import pay_approval_service_pb2 as approval_pb
from paycenter.v1 import pay_case_service_pb2 as pb
from paycenter.v1 import pay_refund_service_pb2 as refund_pb
from support.cases import hold, last_case, late, refund_fails, run_refund_job, unknown, wrong_amount
from support.grpc_rig import Rig, fails, open_rig
from support.system import PayCenterSystem

REFUND, CLOSE = pb.PAY_CASE_DECISION_REFUND, pb.PAY_CASE_DECISION_CLOSE


@pytest.fixture
async def rig(system: PayCenterSystem) -> AsyncIterator[Rig]:
    async with open_rig(system) as opened:
        yield opened


async def operator(rig: Rig, name: str) -> tuple[str, AsyncPayCenter]:
    key_id, secret = await rig.system.services.credentials.create_operator(name)
    return key_id, rig.client(key_id, secret)


async def listed(rig: Rig, **filters: object) -> list[str]:
    found = await rig.op.cases.ListPayCases(pb.ListPayCasesRequest(**filters))  # type: ignore[arg-type]
    return [case.id for case in found.pay_cases]


async def test_a_case_from_its_list_to_its_end(rig: Rig) -> None:
    await hold(rig.system)
    order, case = await late(rig.system)
    assert await listed(rig, kind=pb.PAY_CASE_KIND_LATE_PAYMENT, state=pb.PAY_CASE_STATE_OPEN, app_key="shop") == [case.number]
    assert await listed(rig, amount_from=101) == []
    assert await listed(rig, amount_to=100, opened_after=Timestamp(seconds=1), pay_order_id=order.number) == [case.number]
    assert await listed(rig, opened_before=Timestamp(seconds=253_402_300_799)) == [case.number]
    assert await listed(rig, opened_after=Timestamp(seconds=-62_135_596_800)) == [case.number]
    await rig.op.cases.CommentPayCase(pb.CommentPayCaseRequest(id=case.number, text="the payer called"))
    assigned = await rig.op.cases.AssignPayCase(pb.AssignPayCaseRequest(id=case.number, assignee="lin"))
    assert assigned.pay_case.assignee == "lin"
    assert await listed(rig, assignee="lin", unresolved=True) == [case.number]
    decided = await rig.op.cases.DecidePayCase(pb.DecidePayCaseRequest(id=case.number, decision=REFUND, reason="agreed"))
    one = decided.pay_case
    assert (one.state, one.decision, one.decision_reason) == (pb.PAY_CASE_STATE_REFUNDING, REFUND, "agreed")
    assert one.pay_refund_state == refund_pb.PAY_REFUND_STATE_WAITING
    assert not one.possible_decisions
    await refund_fails(rig.system)
    await run_refund_job(rig.system)
    one = (await rig.op.cases.GetPayCase(pb.GetPayCaseRequest(id=case.number))).pay_case
    assert (one.state, one.pay_refund_state) == (pb.PAY_CASE_STATE_OPEN, refund_pb.PAY_REFUND_STATE_FAILURE)
    assert one.pay_refund_error == "MOCK_FAILURE: the mock channel was asked to refuse"
    assert one.possible_decisions == [REFUND, pb.PAY_CASE_DECISION_ACCEPT, CLOSE, pb.PAY_CASE_DECISION_RETRY]
    await rig.op.cases.DecidePayCase(pb.DecidePayCaseRequest(id=case.number, decision=CLOSE, reason="by bank"))
    got = await rig.op.cases.GetPayCase(pb.GetPayCaseRequest(id=case.number))
    assert (got.pay_case.resolution, got.pay_case.version, got.left_off) == ("closed by an operator", 2, False)
    assert got.pay_case.resolve_time.seconds >= got.pay_case.create_time.seconds
    events = [(entry.event, entry.evidence) for entry in got.entries if entry.subject == "CASE"]
    assert [event for event, _ in events] == ["LATE_PAYMENT", "commented", "assigned", "refund", "refund failed", "close"]
    assert json.loads(events[1][1]) == {"comment": "the payer called"}
    with pytest.raises(CaseDecisionNotPossibleError, match="is RESOLVED"):
        await rig.op.cases.DecidePayCase(pb.DecidePayCaseRequest(id=case.number, decision=REFUND))


async def test_pages_over_the_wire(rig: Rig) -> None:
    cases = [(await unknown(rig.system, amount)).number for amount in (1, 2, 3)]
    first = await rig.op.cases.ListPayCases(pb.ListPayCasesRequest(page_size=2))
    second = await rig.op.cases.ListPayCases(pb.ListPayCasesRequest(page_size=2, page_token=first.next_page_token))
    assert [case.id for page in (first, second) for case in page.pay_cases] == cases[::-1]
    assert second.next_page_token == ""


async def test_an_amount_that_is_not_known_is_not_0(rig: Rig) -> None:
    _, case = await wrong_amount(rig.system)
    await rig.system.rows("UPDATE pay_case SET amount = NULL")
    one = (await rig.op.cases.GetPayCase(pb.GetPayCaseRequest(id=case.number))).pay_case
    assert not one.HasField("amount")


async def test_the_second_operator_over_the_wire(rig: Rig) -> None:
    await hold(rig.system)
    await rig.op.apps.UpdatePayApp(app_pb.UpdatePayAppRequest(app_key="shop", case_decision_limit=50))
    _, case = await late(rig.system)
    asked = pb.DecidePayCaseRequest(id=case.number, decision=REFUND)
    proposed = (await rig.op.cases.DecidePayCase(asked)).pay_case
    assert (proposed.state, proposed.proposed_decision, proposed.needs_second_operator) == (pb.PAY_CASE_STATE_OPEN, REFUND, True)
    with pytest.raises(CaseNeedsSecondOperatorError, match="another operator"):
        await rig.op.cases.DecidePayCase(asked)
    _, other = await operator(rig, "Ben")
    confirmed = (await other.cases.DecidePayCase(asked)).pay_case
    assert (confirmed.state, confirmed.decided_by) == (pb.PAY_CASE_STATE_REFUNDING, "Ben")
    await other.close()


async def test_what_is_refused(rig: Rig) -> None:
    case = await unknown(rig.system)
    async with fails("PERMISSION_DENIED", grpc.StatusCode.PERMISSION_DENIED):
        await rig.shop.cases.ListPayCases(pb.ListPayCasesRequest())
    async with fails("PERMISSION_DENIED", grpc.StatusCode.PERMISSION_DENIED):
        await rig.shop.cases.DecidePayCase(pb.DecidePayCaseRequest(id=case.number, decision=CLOSE, reason="x"))
    async with fails("CASE_NOT_FOUND", grpc.StatusCode.NOT_FOUND):
        await rig.op.cases.GetPayCase(pb.GetPayCaseRequest(id="K"))
    async with fails("INVALID_FIELD", grpc.StatusCode.INVALID_ARGUMENT):
        await rig.op.cases.DecidePayCase(pb.DecidePayCaseRequest(id=case.number))
    async with fails("INVALID_FIELD", grpc.StatusCode.INVALID_ARGUMENT):
        await rig.op.cases.CommentPayCase(pb.CommentPayCaseRequest(id=case.number))


async def test_an_app_is_told_that_its_order_is_under_review(rig: Rig) -> None:
    await hold(rig.system)
    order, _ = await wrong_amount(rig.system)
    with pytest.raises(OrderUnderReviewError) as caught:
        await rig.shop.submit_order(order.number, "wx_native")
    assert caught.value.metadata["pay_case_id"] == (await last_case(rig.system)).number


async def test_the_settings_of_an_app_for_cases(rig: Rig) -> None:
    late_kind, wrong = pb.PAY_CASE_KIND_LATE_PAYMENT, pb.PAY_CASE_KIND_WRONG_AMOUNT
    accept, refund = app_pb.SURPLUS_POLICY_ACCEPT, app_pb.SURPLUS_POLICY_REFUND
    policies = app_pb.CasePolicies(policies=[app_pb.CasePolicy(kind=late_kind, policy=accept)])
    made = await rig.op.apps.CreatePayApp(app_pb.CreatePayAppRequest(
        app_key="books", name="Books", order_notification_url="http://a.test/", refund_notification_url="http://a.test/",
        case_policies=policies, case_decision_limit=5000))  # fmt: skip
    assert (made.pay_app.case_policies, made.pay_app.case_decision_limit) == (policies, 5000)
    kept = (await rig.op.apps.UpdatePayApp(app_pb.UpdatePayAppRequest(app_key="books", name="B"))).pay_app
    assert (kept.case_policies, kept.case_decision_limit) == (policies, 5000)
    changed = (await rig.op.apps.UpdatePayApp(app_pb.UpdatePayAppRequest(
        app_key="books", case_policies=app_pb.CasePolicies(), case_decision_limit=0))).pay_app  # fmt: skip
    assert (len(changed.case_policies.policies), changed.HasField("case_decision_limit")) == (0, True)
    async with fails("APPROVAL_NEEDED") as caught:
        await rig.op.apps.UpdatePayApp(app_pb.UpdatePayAppRequest(app_key="books", case_decision_limit=-1))
    _, second = await operator(rig, "second")
    number = caught[0].metadata["pay_approval_id"]
    await second.approvals.ApprovePayApproval(approval_pb.ApprovePayApprovalRequest(id=number))
    await second.close()
    none = (await rig.op.apps.GetPayApp(app_pb.GetPayAppRequest(app_key="books"))).pay_app
    assert not none.HasField("case_decision_limit")
    for policy in (
        app_pb.CasePolicy(kind=wrong, policy=accept), app_pb.CasePolicy(kind=wrong), app_pb.CasePolicy(policy=refund),
        app_pb.CasePolicy(kind=99, policy=refund), app_pb.CasePolicy(kind=pb.PAY_CASE_KIND_STALE_REFUND, policy=refund),  # type: ignore[arg-type]
    ):  # fmt: skip
        async with fails("INVALID_FIELD"):
            given = app_pb.CasePolicies(policies=[policy])
            await rig.op.apps.UpdatePayApp(app_pb.UpdatePayAppRequest(app_key="books", case_policies=given))
    twice = app_pb.CasePolicies(policies=[app_pb.CasePolicy(kind=wrong, policy=refund)] * 2)
    async with fails("INVALID_FIELD"):
        await rig.op.apps.UpdatePayApp(app_pb.UpdatePayAppRequest(app_key="books", case_policies=twice))
    async with fails("INVALID_FIELD"):
        await rig.op.apps.UpdatePayApp(app_pb.UpdatePayAppRequest(app_key="books", case_decision_limit=-2))
