"""Acts that need a second operator: refunds from the limit of an app, and changes of accounts that are protected."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import Any

import pytest
from integration.test_accounts import account_of, keys_of
from paycenter.v1 import pay_approval_service_pb2 as pb
from paycenter.v1 import pay_refund_service_pb2 as refund_pb
from paycenter_server.domain.approvals import PayApproval
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.roles import Role
from paycenter_server.services.paging import Pager
from paycenter_server.services.refunds import NewRefund
from support.cases import set_app
from support.grpc_rig import fails, open_rig
from support.locks import transaction, waiting_for_lock
from support.operators import Person, audit_end, audited, key_of_person, person
from support.system import OPERATOR, PayCenterSystem
from support.waiting import ended

NEW_KEY = "n" * 32


async def people(system: PayCenterSystem, role: Role = Role.FINANCE) -> tuple[Person, Person]:
    return await person(system, "anne", role), await person(system, "ben", role)


async def needed(work: Awaitable[Any]) -> str:
    """The number of the approval for which the call waits."""
    return (await refused(work, Reason.APPROVAL_NEEDED)).metadata["pay_approval_id"]


async def refused(work: Awaitable[Any], reason: Reason) -> PayCenterError:
    with pytest.raises(PayCenterError) as info:
        await work
    assert info.value.reason is reason, info.value
    return info.value


def new(order: PayOrder, amount: int, number: str = "R1") -> NewRefund:
    return NewRefund("shop", order.merchant_order_id, number, amount, "wrong size")


async def refunds(system: PayCenterSystem) -> list[tuple[str, int]]:
    rows = await system.rows("SELECT merchant_refund_no, amount FROM pay_refund ORDER BY id")
    return [(row["merchant_refund_no"], row["amount"]) for row in rows]


async def amounts(system: PayCenterSystem, order: PayOrder) -> int:
    after = await system.read(order)
    return int(after.refunded_amount + after.reserved_amount)


async def state(system: PayCenterSystem, number: str) -> PayApproval:
    return await system.services.approval_desk.get(OPERATOR, number)


# Refunds


async def test_a_refund_at_the_limit_waits_for_a_second_operator(system: PayCenterSystem) -> None:
    services, (anne, ben) = system.services, await people(system)
    await set_app(system, refund_approval_limit=60)
    order = await system.paid("mock")
    assert (await services.refunds.create(anne.caller, new(order, 59, "R0"))).amount == 59
    order = await system.paid("mock")
    before = await audit_end(system)
    number = await needed(services.refunds.create(anne.caller, new(order, 60)))
    assert await needed(services.refunds.create(anne.caller, new(order, 60))) == number, "the same request waits once"
    assert await needed(services.refunds.create(ben.caller, new(order, 60))) == number, "to request it is not to approve it"
    assert await amounts(system, order) == 0
    one = await state(system, number)
    assert (one.state, one.object, one.amount, one.currency, one.requested_by, one.app_key) == (
        "PENDING", order.number, 60, "CNY", "anne", "shop",
    )  # fmt: skip
    await refused(services.approval_desk.approve(anne.caller, number, ""), Reason.APPROVAL_OWN)
    done = await services.approval_desk.approve(ben.caller, number, "seen")
    assert (done.state, done.decided_by, done.reason, dict(done.request)) == ("APPROVED", "ben", "seen", {})
    assert (await services.approval_desk.approve(ben.caller, number, "again")).reason == "seen"
    assert await amounts(system, order) == 60
    assert (await services.refunds.create(anne.caller, new(order, 60))).amount == 60, "the refund is there now"
    assert await refunds(system) == [("R0", 59), ("R1", 60)]
    rows = [(row.act, row.operator, row.after) for row in await audited(system, before)]
    assert [(act, operator) for act, operator, _ in rows] == [
        ("PayRefundService/CreatePayRefund", "anne"), ("PayRefundService/CreatePayRefund", "ben"),
        ("PayApprovalService/ApprovePayApproval", "ben"),
    ]  # fmt: skip
    assert (rows[0][2] or {})["state"] == "PENDING"
    assert {**(rows[1][2] or {}), "approval": number, "requested_by": "anne", "amount": 60} == rows[1][2]


async def test_refunds_of_apps_and_cases_are_not_limited(system: PayCenterSystem) -> None:
    await set_app(system, refund_approval_limit=1)
    order = await system.paid("mock")
    assert (await system.refund(order, 100)).amount == 100


async def test_small_refunds_count_together(system: PayCenterSystem) -> None:
    services, (anne, _) = system.services, await people(system)
    await set_app(system, refund_approval_limit=60)
    order = await system.paid("mock")
    await services.refunds.create(anne.caller, new(order, 40, "R1"))
    await needed(services.refunds.create(anne.caller, new(order, 20, "R2")))
    await services.refunds.create(anne.caller, new(order, 19, "R3"))
    assert await refunds(system) == [("R1", 40), ("R3", 19)]


async def test_two_small_refunds_at_the_same_moment_count_together(system: PayCenterSystem) -> None:
    services, (anne, ben) = system.services, await people(system)
    await set_app(system, refund_approval_limit=60)
    order = await system.paid("mock")
    async with transaction(system) as held:
        await held.execute("SELECT 1 FROM pay_order WHERE id = $1 FOR UPDATE", order.id)
        calls = [
            asyncio.create_task(services.refunds.create(by.caller, new(order, 40, by.name))) for by in (anne, ben)
        ]  # fmt: skip
        await waiting_for_lock(system, calls)
    results = await ended(calls)
    assert [result.reason for result in results if isinstance(result, PayCenterError)] == [Reason.APPROVAL_NEEDED]
    assert await amounts(system, order) == 40


async def test_a_failed_refund_is_not_sent_again_by_one_operator(system: PayCenterSystem) -> None:
    services, (anne, ben) = system.services, await people(system)
    order = await system.paid()
    await system.simulator.fault("wx.refund", "refund_closed")
    failed = await system.decided(await system.refund(order, 60, merchant_refund_no="R1", reason="wrong size"))
    assert failed.state == "FAILURE"
    await set_app(system, refund_approval_limit=60)
    number = await needed(services.refunds.create(anne.caller, new(order, 60)))
    assert await amounts(system, order) == 0
    await services.approval_desk.approve(ben.caller, number, "")
    assert await system.value("SELECT send_count FROM pay_refund") == 2
    assert await amounts(system, order) == 60


async def test_two_who_approve_at_the_same_moment_carry_it_out_once(system: PayCenterSystem) -> None:
    services, (anne, ben) = system.services, await people(system)
    carl = await person(system, "carl", Role.FINANCE)
    await set_app(system, refund_approval_limit=1)
    order = await system.paid("mock")
    number = await needed(services.refunds.create(anne.caller, new(order, 60)))
    before = await audit_end(system)
    async with transaction(system) as held:
        await held.execute("SELECT 1 FROM pay_approval FOR UPDATE")
        calls = [asyncio.create_task(services.approval_desk.approve(by.caller, number, by.name)) for by in (ben, carl)]
        await waiting_for_lock(system, calls)
    results = await ended(calls)
    assert [result.state for result in results] == ["APPROVED", "APPROVED"]
    assert {result.decided_by for result in results} in ({"ben"}, {"carl"})
    assert await refunds(system) == [("R1", 60)]
    assert await amounts(system, order) == 60
    assert len(await audited(system, before)) == 2


async def test_an_approval_and_a_refusal_at_the_same_moment(system: PayCenterSystem) -> None:
    services, (anne, ben) = system.services, await people(system)
    carl = await person(system, "carl", Role.FINANCE)
    await set_app(system, refund_approval_limit=1)
    order = await system.paid("mock")
    number = await needed(services.refunds.create(anne.caller, new(order, 60)))
    async with transaction(system) as held:
        await held.execute("SELECT 1 FROM pay_approval FOR UPDATE")
        calls = [
            asyncio.create_task(services.approval_desk.approve(ben.caller, number, "")),
            asyncio.create_task(services.approval_desk.refuse(carl.caller, number, "no")),
        ]
        await waiting_for_lock(system, calls)
    results = await ended(calls)
    assert [result.reason for result in results if isinstance(result, PayCenterError)] == [Reason.APPROVAL_DECIDED]
    approved = (await state(system, number)).state == "APPROVED"
    assert await amounts(system, order) == (60 if approved else 0)


async def test_the_checks_are_made_when_it_is_carried_out(system: PayCenterSystem) -> None:
    services, (anne, ben) = system.services, await people(system)
    await set_app(system, refund_approval_limit=60)
    order = await system.paid("mock")
    number = await needed(services.refunds.create(anne.caller, new(order, 60)))
    await system.refund(order, 50)
    await refused(services.approval_desk.approve(ben.caller, number, ""), Reason.REFUND_EXCEEDS_PAID)
    assert (await state(system, number)).state == "PENDING"
    assert await amounts(system, order) == 50
    done = await services.approval_desk.refuse(anne.caller, number, "not needed any more")
    assert (done.state, done.decided_by) == ("REFUSED", "anne")
    await refused(services.approval_desk.approve(ben.caller, number, ""), Reason.APPROVAL_DECIDED)
    await refused(services.approval_desk.refuse(ben.caller, number, ""), Reason.INVALID_FIELD)


async def test_what_the_app_has_done_meanwhile_is_not_done_again(system: PayCenterSystem) -> None:
    services, (anne, ben) = system.services, await people(system)
    await set_app(system, refund_approval_limit=60)
    order = await system.paid("mock")
    number = await needed(services.refunds.create(anne.caller, new(order, 60)))
    await system.refund(order, 60, merchant_refund_no="R1", reason="wrong size")
    assert (await services.approval_desk.approve(ben.caller, number, "")).state == "APPROVED"
    assert await refunds(system) == [("R1", 60)]


async def test_an_act_expires_after_a_day(system: PayCenterSystem) -> None:
    services, (anne, ben) = system.services, await people(system)
    await set_app(system, refund_approval_limit=60)
    order = await system.paid("mock")
    number = await needed(services.refunds.create(anne.caller, new(order, 60)))
    assert await services.approval_desk.count(OPERATOR) == 1
    system.clock.advance(24 * 3600 - 5)
    assert (await state(system, number)).state == "PENDING"
    system.clock.advance(10)
    await refused(services.approval_desk.approve(ben.caller, number, ""), Reason.APPROVAL_DECIDED)
    one = await state(system, number)
    assert (one.state, dict(one.request)) == ("EXPIRED", {})
    assert await services.approval_desk.count(OPERATOR) == 0
    assert await needed(services.refunds.create(anne.caller, new(order, 60))) != number
    assert await amounts(system, order) == 0


async def test_it_is_not_carried_out_after_its_end_although_it_was_read_before(system: PayCenterSystem) -> None:
    services, (anne, ben) = system.services, await people(system)
    await set_app(system, refund_approval_limit=60)
    order = await system.paid("mock")
    number = await needed(services.refunds.create(anne.caller, new(order, 60)))
    async with transaction(system) as held:
        await held.execute("SELECT 1 FROM pay_approval FOR UPDATE")
        call = asyncio.create_task(services.approval_desk.approve(ben.caller, number, ""))
        await waiting_for_lock(system, [call])
        await held.execute("UPDATE pay_approval SET expire_time = now() - interval '1 hour'")
    (result,) = await ended([call])
    assert isinstance(result, PayCenterError)
    assert result.reason is Reason.APPROVAL_DECIDED
    assert await amounts(system, order) == 0


async def test_only_who_may_do_the_act_may_approve_it(system: PayCenterSystem) -> None:
    services, (anne, _) = system.services, await people(system)
    await set_app(system, refund_approval_limit=60)
    await system.add_app("other", codes=("mock",))
    order = await system.paid("mock")
    number = await needed(services.refunds.create(anne.caller, new(order, 60)))
    chen = await person(system, "chen", Role.DEVELOPER)
    await refused(services.approval_desk.approve(chen.caller, number, ""), Reason.PERMISSION_DENIED)
    await refused(services.approval_desk.refuse(chen.caller, number, "no"), Reason.PERMISSION_DENIED)
    elsewhere = await person(system, "dora", Role.FINANCE, ("other",))
    await refused(services.approval_desk.approve(elsewhere.caller, number, ""), Reason.APPROVAL_NOT_FOUND)
    assert not (await services.approval_desk.search(elsewhere.caller, Pager(0, ""))).items
    assert [one.number for one in (await services.approval_desk.search(chen.caller, Pager(0, ""))).items] == [number]


# Accounts and channels


async def protect(system: PayCenterSystem, code: str) -> str:
    number = await account_of(system, code)
    await system.services.accounts.update(OPERATOR, number, {"change_approval": True}, "", None)
    return number


async def test_keys_of_a_protected_account_change_with_a_second_operator(system: PayCenterSystem) -> None:
    accounts, desk = system.services.accounts, system.services.approval_desk
    anne, ben = await people(system, Role.DEVELOPER)
    number = await protect(system, "wx_native")
    await accounts.update(anne.caller, number, {"name": "Main", "remark": "x"}, "", None)
    keys = keys_of(system, "wx_native", api_v3_key=NEW_KEY)
    waiting = await needed(accounts.update(anne.caller, number, {}, "wechatpay", keys, 5))
    assert await needed(accounts.update(anne.caller, number, {}, "wechatpay", keys, 5)) == waiting
    stored = json.dumps(await system.value("SELECT request || shown || jsonb_build_object('o', object) FROM pay_approval"))
    assert NEW_KEY not in stored
    assert "PRIVATE KEY" not in stored
    audit = await system.value("SELECT json_agg(after)::text FROM pay_audit WHERE object = $1", number)
    assert NEW_KEY not in audit
    finance = await person(system, "fay", Role.FINANCE)
    await refused(desk.approve(finance.caller, waiting, ""), Reason.PERMISSION_DENIED)
    await refused(desk.approve(anne.caller, waiting, ""), Reason.APPROVAL_OWN)
    assert (await desk.approve(ben.caller, waiting, "ok")).state == "APPROVED"
    account = (await accounts.get(OPERATOR, number)).account
    assert accounts._keys.clear_account(account)["api_v3_key"] == NEW_KEY
    assert len(account.earlier_keys) == 1


async def test_every_switch_of_a_protected_account_needs_a_second_operator(system: PayCenterSystem) -> None:
    accounts, desk = system.services.accounts, system.services.approval_desk
    anne, ben = await people(system, Role.DEVELOPER)
    number = await protect(system, "mock")
    await needed(accounts.update(anne.caller, number, {"enabled": False}, "", None))
    off = await needed(accounts.update(anne.caller, number, {"change_approval": False}, "", None))
    await desk.approve(ben.caller, off, "")
    await accounts.update(anne.caller, number, {"enabled": False}, "", None)
    assert not (await accounts.get(OPERATOR, number)).account.enabled


async def test_an_account_that_has_changed_since_the_request_is_not_changed(system: PayCenterSystem) -> None:
    accounts, desk = system.services.accounts, system.services.approval_desk
    anne, ben = await people(system, Role.DEVELOPER)
    number = await protect(system, "mock")
    waiting = await needed(accounts.update(anne.caller, number, {"enabled": False}, "", None))
    await accounts.update(ben.caller, number, {"remark": "y"}, "", None)
    await refused(desk.approve(ben.caller, waiting, ""), Reason.ACCOUNT_CHANGED)
    assert (await accounts.get(OPERATOR, number)).account.enabled


async def test_a_channel_moves_from_or_to_a_protected_account_with_a_second_operator(system: PayCenterSystem) -> None:
    services, desk = system.services, system.services.approval_desk
    anne, ben = await people(system, Role.DEVELOPER)
    channel = system.channels["wx_native"]
    await protect(system, "wx_native")
    await services.channels.update(anne.caller, channel, {"remark": "x"}, "", None)
    family, config = system.configs["wx_native"]
    elsewhere = {**config, "mchid": "1900000999"}
    waiting = await needed(services.channels.update(anne.caller, channel, {}, family, elsewhere))
    assert elsewhere["api_v3_key"] not in json.dumps(await system.value("SELECT request || shown FROM pay_approval"))
    other = {**config, "api_v3_key": NEW_KEY}
    await needed(services.channels.update(anne.caller, channel, {}, family, other))
    await refused(desk.approve(anne.caller, waiting, ""), Reason.APPROVAL_OWN)
    await desk.approve(ben.caller, waiting, "")
    view = await services.channels.get(OPERATOR, channel)
    assert view.account.identity == "1900000999"
    assert await system.value("SELECT operator FROM pay_audit WHERE act LIKE '%UpdatePayChannel' ORDER BY id DESC LIMIT 1") == "ben"
    # Back to the protected one.
    await needed(services.channels.update(ben.caller, channel, {}, family, config))


# Over the API


async def test_approvals_over_the_api(system: PayCenterSystem) -> None:
    await set_app(system, refund_approval_limit=60)
    order = await system.paid("mock")
    request = refund_pb.CreatePayRefundRequest(
        app_key="shop", merchant_order_id=order.merchant_order_id, merchant_refund_no="R1", amount=60, reason="x"
    )
    async with open_rig(system) as rig:
        async with fails("APPROVAL_NEEDED") as caught:
            await rig.op.refunds.CreatePayRefund(request)
        number = caught[0].metadata["pay_approval_id"]
        ben = rig.client(*await key_of_person(system, await person(system, "ben")))
        (listed,) = (await ben.approvals.ListPayApprovals(pb.ListPayApprovalsRequest(app_key="shop"))).pay_approvals
        assert (listed.id, listed.state, listed.kind, listed.amount, listed.requested_by) == (number, 1, 1, 60, "test")
        assert json.loads(listed.change)["after"]["amount"] == 60
        async with fails("APPROVAL_OWN"):
            await rig.op.approvals.ApprovePayApproval(pb.ApprovePayApprovalRequest(id=number))
        done = await ben.approvals.ApprovePayApproval(pb.ApprovePayApprovalRequest(id=number, reason="seen"))
        assert (done.pay_approval.state, done.pay_approval.decided_by) == (pb.PayApprovalState.PAY_APPROVAL_STATE_APPROVED, "ben")
        read = (await ben.approvals.GetPayApproval(pb.GetPayApprovalRequest(id=number))).pay_approval
        assert read == done.pay_approval
        async with fails("APPROVAL_DECIDED"):
            await ben.approvals.RefusePayApproval(pb.RefusePayApprovalRequest(id=number, reason="too late"))
        assert (await rig.op.refunds.CreatePayRefund(request)).pay_refund.amount == 60
        await ben.close()
