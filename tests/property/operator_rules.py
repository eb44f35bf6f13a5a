"""No tests: what operators do in the random histories over the real protocols: keys, limits, approvals, resends."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, invariant, rule
from paycenter_server.domain.callers import Caller
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.services.paging import Pager
from paycenter_server.services.refunds import NewRefund
from paycenter_server.storage.notifications import NotificationFilter
from property.test_money_machine import MoneyMachine
from support.cases import ANNE, BEN, set_app
from support.merchants import Merchant, change_own_keys
from support.system import OPERATOR

# An approved refund is there once, and nobody approves the own one.
_APPROVALS = """
SELECT count(*) FROM pay_approval a WHERE a.state = 'APPROVED' AND (a.decided_by = a.requested_by OR a.kind = 'REFUND'
  AND 1 <> (SELECT count(*) FROM pay_refund r WHERE r.merchant_refund_no = a.shown -> 'after' ->> 'merchant_refund_no'))
"""


class OperatorMachine(MoneyMachine):
    """`merchants` is set by the test: the first one is that of the system."""

    merchants: tuple[Merchant, Merchant]
    orders = Bundle("channel_orders")

    @property
    def limit(self) -> int:
        """The refund_approval_limit of the app; 0: there is none. A higher one than before waits for a second operator."""
        found = self.runner.run(self.system.value("SELECT coalesce(refund_approval_limit, 0) FROM pay_app WHERE app_key = 'shop'"))
        return int(found)

    @rule(family=st.sampled_from(["wechatpay", "alipay"]), which=st.integers(0, 1), done=st.booleans())
    def a_channel_signs_with_another_certificate(self, family: str, which: int, done: bool) -> None:
        body = {"channel": family, "done": done}
        self.run(self.merchants[which].simulator.post("/simulator/rotation", body))

    @rule(family=st.sampled_from(["wechatpay", "alipay"]), which=st.integers(0, 1))
    def a_merchant_changes_its_own_keys(self, family: str, which: int) -> None:
        """Of Alipay's accounts this may wait for a second operator, and both keys are valid at the channel meanwhile."""
        merchant = self.merchants[which]
        self.run(change_own_keys(self.system.services, merchant.simulator, merchant.configs, family))

    @rule(wanted=st.booleans())
    def keys_of_alipay_need_two_operators(self, wanted: bool) -> None:
        async def changed() -> None:
            accounts = self.system.services.accounts
            for view in (await accounts.search(OPERATOR, "alipay", Pager(10, ""))).items:
                await accounts.update(ANNE, view.account.number, {"change_approval": wanted}, "", None)

        self.run(changed())

    @rule(refund=st.sampled_from([0, 50, 500]), case=st.sampled_from([None, 50, 500]))
    def limits_of_one_operator(self, refund: int, case: int | None) -> None:
        before, result = self.limit, self.run(set_app(self.system, refund_approval_limit=refund, case_decision_limit=case))
        if isinstance(result, PayCenterError):
            assert result.reason is Reason.APPROVAL_NEEDED
            assert self.limit == before
        else:
            assert not before or 0 < refund <= before
            assert self.limit == refund

    @rule(order=orders, amount=st.integers(1, 700), number=st.sampled_from("xyz"))
    def an_operator_refunds(self, order: PayOrder, amount: int, number: str) -> None:
        """Alone only below the limit. The same number again is the same refund."""
        refund_no = f"{order.merchant_order_id}-{number}"
        known = self.runner.run(self.system.value("SELECT count(*) FROM pay_refund WHERE merchant_refund_no = $1", refund_no))
        new = NewRefund("shop", order.merchant_order_id, refund_no, amount, "退货")
        limit, made = self.limit, self.run(self.system.services.refunds.create(ANNE, new))
        if isinstance(made, PayRefund) and not known and limit:
            now = self.runner.run(self.system.read(order))
            assert now.refunded_amount + now.reserved_amount < limit

    @rule(amount=st.integers(100, 1000), approve=st.booleans())
    def an_approved_refund(self, amount: int, approve: bool) -> None:
        """Of a payment at the mock channel: one operator requests it, and both try to approve it, or one refuses."""
        if not self.limit:
            self.limits_of_one_operator(50, None)
        order = self.run(self.system.paid("mock", amount=amount))
        if isinstance(order, PayOrder):
            self.an_operator_refunds(order, amount, "x")
            self.approvals_are_decided(approve, BEN, ANNE)

    @rule(approve=st.booleans(), one=st.sampled_from([ANNE, BEN, OPERATOR]), other=st.sampled_from([ANNE, BEN]))
    def approvals_are_decided(self, approve: bool, one: Caller, other: Caller) -> None:
        """Two operators decide everything that waits at the same moment. Who requested it can refuse it, and cannot approve it."""

        async def together() -> None:
            desk = self.system.services.approval_desk
            rows = await self.system.rows("SELECT id FROM pay_approval WHERE content IS NOT NULL")
            decisions = ((desk.approve if approve else desk.refuse, one), (desk.approve, other))
            calls = [decide(by, encode(Prefix.APPROVAL, row["id"]), "why") for row in rows for decide, by in decisions]
            for result in await asyncio.gather(*calls, return_exceptions=True):
                assert not isinstance(result, BaseException) or isinstance(result, PayCenterError), result

        self.run(together())

    @rule(which=st.integers(0, 9), how=st.sampled_from(["resend", "send_now", "all"]))
    def notifications_are_sent_again(self, which: int, how: str) -> None:
        async def again() -> None:
            notifications = self.system.services.notifications
            if how == "all":
                await notifications.resend_matching(OPERATOR, "", NotificationFilter(), Pager(200, ""), dry_run=False)
                return
            rows = await self.system.rows(
                "SELECT id FROM pay_notify_task WHERE (state IN ('SUCCESS', 'FAILURE')) = $1 ORDER BY id DESC LIMIT 10",
                how == "resend",
            )
            if rows:
                await getattr(notifications, how)(OPERATOR, encode(Prefix.NOTIFICATION, rows[which % len(rows)]["id"]))

        self.run(again())

    @invariant()
    def nobody_approves_alone(self) -> None:
        count: Any = self.runner.run(self.system.value(_APPROVALS))
        assert count == 0
