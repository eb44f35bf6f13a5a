"""Random histories over the real protocols: payers, callbacks, faults, account switches, consoles, notifications, second looks.

Every operation of the random history of test_money_machine.py, those of operators (operator_rules.py), and those of channels at two
simulators, each with keys of its own: WeChat Pay v3 and v2, Alipay, and the bar codes of each.
The invariants hold after each step. At the end of a history everything is settled, our books are the channels' books, and the app
has been told the truth about everything that is final.
"""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from faults.deployment.books import Report, compare_books
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, invariant, rule, run_state_machine_as_test
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.orders import PayOrder
from paycenter_server.services.context import deadline
from paycenter_server.services.notifications_delivery import DeliveryResponse
from paycenter_server.services.paging import Pager
from paycenter_server.storage.notifications import NotificationFilter
from property.operator_rules import OperatorMachine
from support.merchants import another_merchant, merchant_of
from support.system import OPERATOR, PayCenterSystem, open_system
from support.waiting import eventually

EXAMPLES = 80 if os.environ.get("FAULTS") == "all" else 6
CODES = ("wx_native", "alipay_qr")
# The content of the bar code, the calls that send it, and the fault of a payer who must confirm.
BAR_CODES = {
    "wx_bar": ("134567890123456789", ("wx2.micropay", "wx.codepay"), "user_paying"),
    "alipay_bar": ("281234567890123456", ("alipay.trade.pay",), "in_process"),
}
# Less than two steps of a waiting call, which therefore returns after its first query.
BAR_SECONDS = 5.5
FAULTS = (
    "timeout_before_commit", "timeout_after_commit", "error_before_commit", "error_after_commit", "reset", "reset_before_commit",
    "bad_signature", "unsigned", "http_502",
)  # fmt: skip
CALLBACK_FAULTS = ("drop", "duplicate", "bad_signature")
FAULT_CALLS = ("*", "wx.query", "wx2.orderquery", "alipay.trade.query")
REFUND_CALLS = ("wx.refund", "wx2.refund", "alipay.trade.refund")
REFUNDS = ("not_enough", "timeout_after_commit", "error_before_commit", "refund_pending")
REFUSALS = {
    "wx.refund": "RULE_LIMIT",
    "wx2.refund": "USER_ACCOUNT_ABNORMAL",
    "alipay.trade.refund": "ACQ.REFUND_AMT_NOT_EQUAL_TOTAL",
}
# Alipay's query of a refund in progress is empty, which is its "not found".
NOT_FOUND = {"wx.refund_query": "RESOURCE_NOT_EXISTS", "wx2.refundquery": "REFUNDNOTEXIST"}


_REACHED = """
SELECT (SELECT count(*) FROM pay_attempt WHERE state = 'SUCCESS' AND channel_code <> 'mock') AS payments,
       (SELECT count(*) FROM pay_refund WHERE state = 'SUCCESS' AND channel_code <> 'mock') AS refunds,
       (SELECT count(*) FROM pay_case) AS cases,
       (SELECT count(*) FROM pay_attempt WHERE state = 'SUCCESS' AND channel_code IN ('wx_bar', 'alipay_bar')) AS bar_codes,
       (SELECT count(*) FROM pay_approval WHERE state = 'APPROVED') AS approvals,
       (SELECT count(*) FROM pay_event WHERE event = 'resend') AS resends,
       (SELECT count(*) FROM pay_account WHERE jsonb_array_length(earlier_keys) > 0) AS accounts_with_new_keys,
       (SELECT count(*) FROM pay_attempt t JOIN pay_binding b ON b.id = t.binding_id
          WHERE t.state = 'SUCCESS' AND b.config ->> 'api_version' = 'v2') AS payments_of_v2,
       (SELECT count(*) - 1 FROM (SELECT DISTINCT account_id FROM pay_attempt WHERE channel_code <> 'mock') a) AS accounts
"""


# What is final, and of which the app has not received the last word.
_UNTOLD = """
SELECT o.id, o.state FROM pay_order o LEFT JOIN LATERAL (SELECT event, state FROM pay_notify_task t WHERE t.data_id = o.id
  ORDER BY data_version DESC LIMIT 1) said ON true
WHERE o.state <> 'WAITING' AND (said.event, said.state) IS DISTINCT FROM
  (CASE WHEN o.state = 'CLOSED' THEN 'pay_order.closed' ELSE 'pay_order.success' END, 'SUCCESS')
UNION ALL
SELECT r.id, r.state FROM pay_refund r LEFT JOIN LATERAL (SELECT event, state FROM pay_notify_task t WHERE t.data_id = r.id
  ORDER BY data_version DESC LIMIT 1) said ON true
WHERE r.state <> 'WAITING' AND (said.event, said.state) IS DISTINCT FROM
  (CASE WHEN r.case_id IS NULL THEN 'pay_refund.' || lower(r.state)
        WHEN r.state = 'SUCCESS' THEN 'pay_order.surplus_refunded' ELSE 'pay_order.surplus_refund_failed' END, 'SUCCESS')
"""


class ChannelMachine(OperatorMachine):
    """`merchants` is set by the test: the first one is that of the system."""

    orders = OperatorMachine.orders
    attempts = Bundle("attempts")

    @rule(target=orders, amount=st.integers(1, 1000))
    def create(self, amount: int) -> PayOrder:
        order: PayOrder = self.run(self.system.order(amount=amount))
        return order

    @rule(target=attempts, order=orders, code=st.sampled_from(CODES))
    def submit_to_a_channel(self, order: PayOrder, code: str) -> str:
        async def submitted() -> str:
            attempt = await self.system.submit(order, code)
            for merchant in self.merchants if code == "alipay_qr" else ():
                await self.system.session.get(f"{merchant.simulator.base}/cashier/{attempt.out_trade_no}")
            return str(attempt.out_trade_no)

        number = self.run(submitted())
        return number if isinstance(number, str) else ""

    @rule(
        target=attempts, order=orders, code=st.sampled_from(sorted(BAR_CODES)),
        answer=st.sampled_from(["paid", "confirmed", "waits", "reset", "error_before_commit"]),
    )  # fmt: skip
    def a_bar_code(self, order: PayOrder, code: str, answer: str) -> str:
        """`confirmed`: the payer confirms at the first query; `waits`: nobody has confirmed yet. The others: the answer is lost."""
        auth_code, apis, asks = BAR_CODES[code]

        async def scanned() -> str:
            for api, merchant in ((api, merchant) for api in apis for merchant in self.merchants if answer != "paid"):
                options = {"queries": 0} if answer == "confirmed" else {}
                fault = asks if answer in ("confirmed", "waits") else answer
                await merchant.simulator.fault(api, fault, times=1, **options)
            deadline.set(asyncio.get_running_loop().time() + BAR_SECONDS)
            try:
                return str((await self.system.submit(order, code, auth_code=auth_code)).out_trade_no)
            finally:
                deadline.set(None)

        number = self.run(scanned())
        return number if isinstance(number, str) else ""

    @rule(
        target=orders, code=st.sampled_from(sorted(BAR_CODES)), amount=st.integers(2, 1000),
        answer=st.sampled_from(["paid", "confirmed", "waits", "error_after_commit"]), which=st.integers(0, 1),
        version=st.sampled_from(["", "v2", "v3"]), left=st.booleans(),
    )  # fmt: skip
    def a_bar_code_payment(self, code: str, amount: int, answer: str, which: int, version: str, left: bool) -> PayOrder:
        """At the point of sale: a new order, of which the payer confirms a bar code or does not. `left`: until it is cancelled."""
        if version:
            self.the_account_is_switched(code, which, version)
        order: PayOrder = self.run(self.system.order(amount=amount))
        self.a_bar_code(order, code, answer)
        if left:
            self.time_passes(31)
            self.time_passes(31)
            self.jobs_run()
        return order

    @rule(
        target=orders, code=st.sampled_from(CODES), amount=st.integers(2, 1000), callback=st.booleans(),
        version=st.sampled_from(["", "v2"]),
    )  # fmt: skip
    def an_ordinary_payment(self, code: str, amount: int, callback: bool, version: str) -> PayOrder:
        """Paid, and booked by its callback or by a query. `version`: of WeChat Pay, to which the channel is changed before."""
        if version and code == "wx_native":
            self.the_account_is_switched(code, 0, version)
        order: PayOrder = self.run(self.system.order(amount=amount))
        self.pay(self.submit_to_a_channel(order, code), callback, False, 0)
        if not callback:
            self.sync(order)
        return order

    @rule(target=orders, code=st.sampled_from(CODES), callback=st.booleans())
    def a_late_payment(self, code: str, callback: bool) -> PayOrder:
        order: PayOrder = self.run(self.system.order())
        number = self.submit_to_a_channel(order, code)
        self.close(order)
        self.pay(number, callback, True, 0)
        return order

    @rule(target=orders, callback=st.booleans())
    def a_second_payment(self, callback: bool) -> PayOrder:
        """Two ways to pay are open at once, because the first channel was not heard when it was closed."""
        order: PayOrder = self.run(self.system.order())
        numbers = [self.submit_to_a_channel(order, code) for code in CODES]
        for number in numbers:
            self.pay(number, callback, True, 0)
        return order

    @rule(order=orders, part=st.sampled_from([1, 2, 3]), number=st.sampled_from("abc"))
    def refund_a_part(self, order: PayOrder, part: int, number: str) -> None:
        amount = max(1, order.amount // part)
        self.run(self.system.refund(order, amount, merchant_refund_no=f"{order.merchant_order_id}-{number}"))

    @rule(seconds=st.sampled_from([1, 12, 31]))
    def time_passes(self, seconds: int) -> None:
        """Not far: channels check signatures by real time, to five minutes."""
        if self.system.clock.offset.total_seconds() < 200:
            self.system.clock.advance(seconds)

    @rule(number=attempts, notify=st.booleans(), force=st.booleans(), wrong=st.sampled_from([0, 0, 0, 7]))
    def pay(self, number: str, notify: bool, force: bool, wrong: int) -> None:
        async def paid() -> None:
            for merchant in self.merchants if number else ():
                with suppress(AssertionError):
                    trade = await merchant.simulator.get(f"/simulator/trades/{number}")
                    amount = {"amount": trade["amount"] + wrong} if wrong else {}
                    await merchant.simulator.pay(number, notify=notify, force=force, **amount)

        self.run(paid())

    @rule(number=attempts)
    def the_channel_calls_back_again(self, number: str) -> None:
        async def resent() -> None:
            for merchant in self.merchants if number else ():
                with suppress(AssertionError):
                    await merchant.simulator.post(f"/simulator/resend/{number}", {"every": True})

        self.run(resent())

    @rule(
        api=st.sampled_from(FAULT_CALLS),
        fault=st.sampled_from(FAULTS),
        which=st.integers(0, 1),
    )
    def a_fault(self, api: str, fault: str, which: int) -> None:
        options = {"seconds": 3} if fault.startswith("timeout") else {}
        self.run(self.merchants[which].simulator.fault(api, fault, **options))

    @rule(fault=st.sampled_from(CALLBACK_FAULTS), which=st.integers(0, 1))
    def a_fault_of_callbacks(self, fault: str, which: int) -> None:
        self.run(self.merchants[which].simulator.fault("notify", fault))

    @rule(api=st.sampled_from(REFUND_CALLS), fault=st.sampled_from(REFUNDS), which=st.integers(0, 1))
    def a_fault_of_refunds(self, api: str, fault: str, which: int) -> None:
        options = {"seconds": 20} if fault == "refund_pending" else {"seconds": 3} if fault.startswith("timeout") else {}
        self.run(self.merchants[which].simulator.fault(api, fault, **options))

    @rule(which=st.integers(0, 1), times=st.integers(1, 3))
    def a_channel_forgets_refunds(self, which: int, times: int) -> None:
        """For a moment its query does not find them, and it refuses those that are sent again, when no request that it has said to
        know can be carried out any more."""

        async def forgets() -> None:
            simulator = self.merchants[which].simulator
            for api, code in (NOT_FOUND | REFUSALS).items():
                await simulator.fault(api, "decline", code=code, times=times)
            await self.system.rows(
                "UPDATE pay_refund SET unclear_send_time = unclear_send_time - interval '11 minutes' WHERE known_time IS NOT NULL"
            )
            await self.system.rows("UPDATE pay_refund SET next_check_time = now() WHERE next_check_time IS NOT NULL")
            await self.system.services.jobs.sync_refunds()

        self.run(forgets())

    @rule(code=st.sampled_from(CODES), number=st.sampled_from("abc"), which=st.integers(0, 1))
    def a_refund_in_progress_is_forgotten(self, code: str, number: str, which: int) -> None:
        """And the app refunds it again, in every way that it has."""
        order = self.an_ordinary_payment(code, 100, True, "")
        for api in REFUND_CALLS:
            self.a_fault_of_refunds(api, "refund_pending", which)
        self.refund_a_part(order, 2, number)
        self.a_channel_forgets_refunds(which, 2)
        for again in "abc":
            self.refund_a_part(order, 2, again)

    @rule(code=st.sampled_from([*CODES, *BAR_CODES]), which=st.integers(0, 1), version=st.sampled_from(["v2", "v3"]))
    def the_account_is_switched(self, code: str, which: int, version: str) -> None:
        """`version`: of WeChat Pay."""
        family, config = self.merchants[which].config(code, version)
        if (code, version) == ("wx_bar", "v3"):
            config = {**self.merchants[which].config("wx_native")[1], "use_codepay": "true"}
        self.run(self.system.services.channels.update(OPERATOR, self.system.channels[code], {}, family, config))

    @rule(order=orders)
    def sync(self, order: PayOrder) -> None:
        self.run(self.system.services.orders.sync(self.system.caller, order.number))

    @rule(answer=st.sampled_from([200, 200, 500, 0, 410]))
    def notifications_are_delivered(self, answer: int) -> None:
        self.system.sender.default = DeliveryResponse(answer, "")
        self.run(self.system.deliver())

    @rule()
    def second_looks(self) -> None:
        async def look() -> None:
            await self.system.rows("UPDATE pay_attempt SET next_check_time = now() WHERE next_check_time IS NOT NULL")
            await self.system.rows("UPDATE pay_refund SET next_check_time = now() WHERE next_check_time IS NOT NULL")
            await self.system.services.jobs.sync_orders()
            await self.system.services.jobs.sync_refunds()

        self.run(look())

    @invariant()
    def the_ledger_has_the_same_sums(self) -> None:
        self.runner.run(self.system.check_books())

    def teardown(self) -> None:
        """Channels check signatures by real time, so the clock goes back; then time passes by the rows."""
        self.runner.run(self._settle())

    async def _settle(self) -> None:
        system = self.system
        system.clock.offset = type(system.clock.offset)()
        for merchant in self.merchants:
            await system.session.delete(f"{merchant.simulator.base}/simulator/faults")
            await merchant.simulator.advance(30)  # what is in progress there ends

        async def settled() -> bool:
            for statement in (
                "UPDATE pay_attempt SET next_check_time = now() - interval '1 s' WHERE next_check_time IS NOT NULL",
                "UPDATE pay_refund SET next_check_time = now() - interval '1 s', unclear_send_time = now() - interval '1 hour' "
                "WHERE state = 'WAITING'",
            ):
                await system.rows(statement)
            for job in ("sync_orders", "sync_refunds"):
                with suppress(PayCenterError):
                    await getattr(system.services.jobs, job)()
            left = await system.value("SELECT count(*) FROM pay_refund WHERE state = 'WAITING' AND channel_code <> 'mock'")
            if left:
                return False
            untold = await self._untold()
            report = Report()
            await compare_books(report, system.rows, [merchant.simulator for merchant in self.merchants])
            ChannelMachine.found = f"{report}; not told: {untold}"
            return report.good and not untold

        try:
            await eventually(settled, 15)
        except AssertionError as error:
            raise AssertionError(ChannelMachine.found) from error

    async def _untold(self) -> list[str]:
        """What the app has not been told, after everything was sent again that had been given up."""
        system = self.system
        system.sender.default = DeliveryResponse(200, "")
        everything = NotificationFilter()
        await system.services.notifications.resend_matching(OPERATOR, "", everything, Pager(1000, ""), dry_run=False)
        await system.rows("UPDATE pay_notify_task SET next_notify_time = now() WHERE next_notify_time IS NOT NULL")
        system.clock.advance(3600)  # longer than an endpoint is left alone
        await system.deliver()
        system.clock.advance(-3600)
        return [f"{row['id']} {row['state']}" for row in await system.rows(_UNTOLD)]

    found = ""


def each_once() -> None:
    """A history with the operations that a few random ones may not contain."""
    machine = ChannelMachine()
    for version in ("v2", "v3"):
        machine.a_bar_code_payment("wx_bar", 100, "confirmed", 1, version, False)
        machine.an_ordinary_payment("wx_native", 100, True, version)
        machine.a_merchant_changes_its_own_keys("wechatpay", 0)
    for left in (False, True):
        machine.a_bar_code_payment("alipay_bar", 100, "waits", 1, "", left)
    for code in CODES:
        machine.a_refund_in_progress_is_forgotten(code, "a", 0)
    machine.keys_of_alipay_need_two_operators(True)
    machine.a_merchant_changes_its_own_keys("alipay", 0)
    machine.an_approved_refund(100, True)
    machine.keys_of_alipay_need_two_operators(False)
    machine.an_approved_refund(100, False)
    machine.notifications_are_delivered(200)
    machine.notifications_are_sent_again(0, "resend")
    for check in (machine.the_books_balance, machine.the_ledger_has_the_same_sums, machine.nobody_approves_alone):
        check()
    machine.teardown()


@pytest.mark.timeout(1200)
def test_our_books_are_the_channels_books(
    database_url: str, redis_url: str, keys_dir: Path, other_keys_dir: Path, master_key_file: Path
) -> None:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        opened: Any = open_system(database_url, redis_url, keys_dir, master_key_file, channel_timeout=1.0)
        system: PayCenterSystem = runner.run(stack.enter_async_context(opened))
        other = runner.run(stack.enter_async_context(another_merchant(system, other_keys_dir)))
        ChannelMachine.system, ChannelMachine.runner = system, runner
        ChannelMachine.merchants = (merchant_of(keys_dir, system.simulator), other)
        for code in BAR_CODES:
            runner.run(system.add_channel(code))
        for merchant in ChannelMachine.merchants:
            family, config = merchant.configs["wx_native"]
            merchant.configs["wx_native"] = family, {**config, "use_platform_certificates": "true"}
        random.seed(0)
        try:
            each_once()
            run_state_machine_as_test(
                ChannelMachine,
                settings=settings(
                    max_examples=EXAMPLES, stateful_step_count=25, deadline=None, database=None, derandomize=EXAMPLES < 20
                ),
            )
            # The histories do reach money: otherwise the machine would prove nothing.
            reached = runner.run(system.rows(_REACHED))[0]
            kinds = runner.run(system.rows("SELECT kind, state, count(*) AS count FROM pay_case GROUP BY 1, 2"))
            print(dict(reached), {f"{row['kind']} {row['state']}": row["count"] for row in kinds})
            assert all(reached.values()), dict(reached)
        finally:
            runner.run(stack.aclose())
