"""Random histories of orders, submits, refunds, closings and jobs, with late, lost and refused payments: books balance."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from paycenter_server.domain.cases import Decision
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.orders import PayOrder
from support.cases import ANNE, BEN
from support.system import PayCenterSystem, open_system

_BALANCE = """
SELECT count(*) FROM pay_order o
LEFT JOIN LATERAL (SELECT coalesce(sum(amount) FILTER (WHERE state = 'WAITING'), 0) AS waiting,
  coalesce(sum(amount) FILTER (WHERE state = 'SUCCESS'), 0) AS done FROM pay_refund r
  WHERE r.order_id = o.id AND r.case_id IS NULL) sums ON true
WHERE o.refunded_amount + o.reserved_amount > o.paid_amount OR sums.waiting <> o.reserved_amount OR sums.done <> o.refunded_amount
   OR (o.state = 'REFUND') <> (o.refunded_amount > 0)
   OR (o.state IN ('SUCCESS', 'REFUND')) <> (
     SELECT count(*) = 1 FROM pay_attempt t WHERE t.id = o.attempt_id AND t.state = 'SUCCESS')
"""
# No payment is both booked and refunded as the money of a case.
_TWICE = """
SELECT count(*) FROM pay_refund r JOIN pay_order o ON o.attempt_id = r.attempt_id
WHERE r.case_id IS NOT NULL AND r.state = 'SUCCESS' AND o.state IN ('SUCCESS', 'REFUND')
  AND NOT EXISTS (SELECT 1 FROM pay_case c WHERE c.refund_id = r.id AND c.kind = 'REFUND_MISMATCH')
"""
# Every payment that belongs to no order has a case, and each event is notified at most once.
_SURPLUS = """
SELECT count(*) FROM pay_attempt t JOIN pay_order o ON o.id = t.order_id
WHERE t.state = 'SUCCESS' AND o.attempt_id IS DISTINCT FROM t.id AND NOT EXISTS (SELECT 1 FROM pay_case c WHERE c.attempt_id = t.id)
"""
_TOLD = """
SELECT count(*) FROM pay_order o WHERE o.state IN ('SUCCESS', 'REFUND') AND (SELECT count(*) FROM pay_notify_task t
  WHERE t.data_id = o.id AND t.event = 'pay_order.success') <> 1
"""
_DROPPED = """
SELECT (SELECT count(*) FROM pay_attempt WHERE state IN ('WAITING', 'UNKNOWN') AND next_check_time IS NULL)
     + (SELECT count(*) FROM pay_refund WHERE state = 'WAITING' AND next_check_time IS NULL)
     + (SELECT count(*) FROM pay_order WHERE state = 'WAITING' AND next_check_time IS NULL)
"""


class MoneyMachine(RuleBasedStateMachine):
    """`system` and `runner` are set by the test."""

    system: PayCenterSystem
    runner: asyncio.Runner
    orders = Bundle("orders")

    def run(self, work: Any) -> Any:
        try:
            return self.runner.run(work)
        except PayCenterError as error:
            return error

    @rule(target=orders, amount=st.integers(1, 1000))
    def create(self, amount: int) -> PayOrder:
        order: PayOrder = self.run(self.system.order(amount=amount))
        return order

    @rule(
        order=orders,
        behaviour=st.sampled_from(["success", "failure", "timeout", "lost", "late", "late_after_close", "never"]),
        refund=st.sampled_from(["success", "failure", "timeout", "pending"]),
        late=st.sampled_from(["1", "30", "9000"]),
    )
    def submit(self, order: PayOrder, behaviour: str, refund: str, late: str) -> None:
        self.run(self.system.submit(order, "mock", behaviour=behaviour, refund=refund, late_seconds=late))

    @rule(order=orders, amount=st.integers(1, 700), number=st.sampled_from(["a", "b", "c", None]))
    def refund(self, order: PayOrder, amount: int, number: str | None) -> None:
        changes = {"merchant_refund_no": f"{order.merchant_order_id}-{number}"} if number else {}
        self.run(self.system.refund(order, amount, **changes))

    @rule(order=orders, amounts=st.lists(st.integers(1, 500), min_size=2, max_size=5))
    def refunds_at_once(self, order: PayOrder, amounts: list[int]) -> None:
        async def together() -> None:
            await asyncio.gather(*(self.system.refund(order, amount) for amount in amounts), return_exceptions=True)

        self.run(together())

    @rule(order=orders)
    def close(self, order: PayOrder) -> None:
        self.run(self.system.services.orders.close(self.system.caller, order.number))

    @rule(order=orders, amount=st.integers(1, 1000))
    def update_price(self, order: PayOrder, amount: int) -> None:
        self.run(self.system.services.orders.update_price(self.system.caller, order.number, amount))

    @rule(first=st.sampled_from(Decision), second=st.sampled_from(Decision))
    def operators_decide(self, first: Decision, second: Decision) -> None:
        """Two operators decide every unresolved case at the same moment."""

        async def together() -> None:
            rows = await self.system.rows("SELECT id FROM pay_case WHERE resolve_time IS NULL")
            decide = self.system.services.case_decisions.decide
            calls = [
                decide(by, encode(Prefix.CASE, row["id"]), decision, "why")
                for row in rows
                for by, decision in ((ANNE, first), (BEN, second))
            ]
            for result in await asyncio.gather(*calls, return_exceptions=True):
                assert not isinstance(result, BaseException) or isinstance(result, PayCenterError), result

        self.run(together())

    @rule(seconds=st.sampled_from([1, 31, 600, 4000]))
    def time_passes(self, seconds: int) -> None:
        self.system.clock.advance(seconds)

    @rule()
    def jobs_run(self) -> None:
        async def all_of_them() -> None:
            jobs = self.system.services.jobs
            await asyncio.gather(jobs.sync_orders(), jobs.expire_orders(), jobs.sync_refunds())

        self.run(all_of_them())

    @invariant()
    def the_books_balance(self) -> None:
        async def look() -> list[int]:
            return [await self.system.value(query) for query in (_BALANCE, _SURPLUS, _TOLD, _DROPPED, _TWICE)]

        assert self.runner.run(look()) == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("policy", ["REFUND", "ACCEPT", "HOLD"])
def test_the_books_balance_whatever_happens(
    policy: str, database_url: str, redis_url: str, keys_dir: Path, master_key_file: Path
) -> None:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        system = runner.run(stack.enter_async_context(open_system(database_url, redis_url, keys_dir, master_key_file)))
        runner.run(system.value("UPDATE pay_app SET surplus_policy = $1 RETURNING 1", policy))
        MoneyMachine.system, MoneyMachine.runner = system, runner
        random.seed(0)
        try:
            run_state_machine_as_test(
                MoneyMachine, settings=settings(max_examples=25, stateful_step_count=30, deadline=None, database=None)
            )
        finally:
            runner.run(stack.aclose())
