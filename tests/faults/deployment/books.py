"""The end of a run: everything is settled, then our books, the channels' and the app's are compared to the fen."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from faults.deployment.processes import Deployment
from faults.deployment.shop import Receiver
from paycenter_server.bootstrap import open_database
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.services.books import check_books
from support.system import Simulator
from support.waiting import pause

# Rows that somebody must still look at, and notifications that are still to be sent.
_OPEN = """
SELECT (SELECT count(*) FROM pay_attempt WHERE state IN ('WAITING', 'UNKNOWN')) AS attempts,
       (SELECT count(*) FROM pay_refund WHERE state = 'WAITING') AS refunds,
       (SELECT count(*) FROM pay_order WHERE state = 'WAITING') AS orders,
       (SELECT count(*) FROM pay_notify_task WHERE state IN ('WAITING', 'REQUEST_SUCCESS', 'REQUEST_FAILURE')) AS notifications
"""
# Time passes: whatever has a next check is due, what may still be carried out is old, and orders without money expire.
_TIME_PASSES = (
    "UPDATE pay_attempt SET next_check_time = now() WHERE next_check_time > now() + interval '2 s'",
    "UPDATE pay_refund SET next_check_time = now() WHERE next_check_time > now() + interval '2 s'",
    "UPDATE pay_order SET next_check_time = now() WHERE next_check_time > now() + interval '2 s' AND expire_time < now()",
    "UPDATE pay_notify_task SET next_notify_time = now() WHERE next_notify_time > now() + interval '2 s'",
)
_LATER = "UPDATE pay_refund SET unclear_send_time = unclear_send_time - interval '11 minutes' WHERE state = 'WAITING'"
_END = (
    "UPDATE pay_order SET expire_time = least(expire_time, now() - interval '1 s') WHERE state = 'WAITING'",
    "UPDATE pay_attempt SET expire_time = least(expire_time, now() - interval '1 s') WHERE state IN ('WAITING', 'UNKNOWN')",
)


@dataclass
class Report:
    """What a run found. `lost`, `doubled` and `orphaned` name each thing; they are empty in a good run."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    orphaned: list[str] = field(default_factory=list)
    untrue: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)
    cases: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    seed: int = 0
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether every book agrees."""
        return not (self.lost or self.doubled or self.orphaned or self.untrue or self.unexpected)

    def __str__(self) -> str:
        lines = [
            f"seed {self.seed}, {self.seconds:.0f} s; faults {self.faults}; cases {self.cases}; {self.totals}",
            f"lost {len(self.lost)}, doubled {len(self.doubled)}, orphaned {len(self.orphaned)}; "
            f"untrue last words {len(self.untrue)}, unexpected answers {len(self.unexpected)}",
        ]
        for name in ("lost", "doubled", "orphaned", "untrue", "unexpected"):
            lines += [f"  {name}: {item}" for item in getattr(self, name)[:20]]
        return "\n".join(lines)


async def settle(deployment: Deployment, seconds: float = 180) -> None:
    """Let time pass, here and at the channels, until nothing is open. AssertionError names what stays open."""
    for merchant in deployment.merchants:
        await merchant.simulator.advance(3 * 3600)
    end, ended = time.monotonic() + seconds, time.monotonic() + 5
    while True:
        for statement in _TIME_PASSES:
            await deployment.rows(statement)
        if time.monotonic() > ended:
            for statement in (*_END, _LATER):
                await deployment.rows(statement)
        (left,) = await deployment.rows(_OPEN)
        if not any(left.values()):
            break
        assert time.monotonic() < end, f"still open: {dict(left)}; {await _open_rows(deployment)}"
        await pause(0.5)
    # The looks at final states, too.
    looked = time.monotonic() + 20
    due = "SELECT count(*) FROM pay_attempt WHERE next_check_time <= now()"
    while await deployment.value(due) and time.monotonic() < looked:
        await pause(0.2)


async def _open_rows(deployment: Deployment) -> list[str]:
    what = "channel_code || ' ' || state || ' ' || coalesce(channel_error_message, '') || ' checks ' || check_count"
    rows = await deployment.rows(
        f"""SELECT 'attempt ' || id || ' ' || {what} AS row FROM pay_attempt WHERE state IN ('WAITING', 'UNKNOWN')
            UNION ALL SELECT 'refund ' || id || ' ' || {what} FROM pay_refund WHERE state = 'WAITING'
            UNION ALL SELECT 'order ' || id FROM pay_order WHERE state = 'WAITING' LIMIT 10"""
    )
    return [row["row"] for row in rows]


Rows = Callable[..., Awaitable[list[Any]]]


async def trades_of(simulators: Sequence[Simulator]) -> dict[str, Mapping[str, Any]]:
    """The trades of all channels by out_trade_no, those of two simulators as one."""
    found: dict[str, Mapping[str, Any]] = {}
    for simulator in simulators:
        for trade in await simulator.get("/simulator/trades"):
            before = found.get(trade["out_trade_no"])
            if before is None or (trade["paid"] and not before["paid"]):
                found[trade["out_trade_no"]] = trade
    return found


async def compare_books(report: Report, rows: Rows, simulators: Sequence[Simulator], order_id: UUID | None = None) -> None:
    """Compare our books with the channels', for one order or for all."""
    one = "WHERE $1::uuid IS NULL OR {} = $1"
    attempts = {
        encode(Prefix.ATTEMPT, row["id"]): row
        for row in await rows(f"SELECT * FROM pay_attempt {one.format('order_id')}", order_id)
    }
    orders = {row["id"]: row for row in await rows(f"SELECT * FROM pay_order {one.format('id')}", order_id)}
    refunds = await rows(f"SELECT * FROM pay_refund {one.format('order_id')}", order_id)
    cases = await rows("SELECT * FROM pay_case")
    trades = await trades_of(simulators)
    if order_id is not None:
        trades = {number: trade for number, trade in trades.items() if number in attempts}
    # A channel that contradicted itself about an amount: an operator is asked.
    asked = {case["attempt_id"] for case in cases if case["kind"] == "REFUND_MISMATCH" and case["state"] == "OPEN"}
    _compare_payments(report, attempts, trades, asked)
    _compare_refunds(report, attempts, refunds, trades)
    _compare_orders(report, orders, attempts, cases)
    report.totals = {
        "orders": len(orders), "paid trades": sum(trade["paid"] for trade in trades.values()),
        "paid fen": sum(trade["paid_amount"] for trade in trades.values() if trade["paid"]),
        "refunded fen": sum(trade["refunded"] for trade in trades.values()), "refunds": len(refunds),
    }  # fmt: skip
    report.cases = dict(Counter(f"{case['kind']} {case['state']}" for case in cases))


async def compare(deployment: Deployment, receiver: Receiver, paid: list[str], unexpected: list[str]) -> Report:
    """Compare the books of all sides, the ledger, and what the app was told."""
    report = Report(unexpected=[*unexpected, *receiver.refused])
    simulators = [merchant.simulator for merchant in deployment.merchants]
    await compare_books(report, deployment.rows, simulators)
    known = await trades_of(simulators)
    report.lost += [f"{number} was paid, and no channel knows it" for number in paid if number not in known]
    orders, refunds = await deployment.rows("SELECT * FROM pay_order"), await deployment.rows("SELECT * FROM pay_refund")
    # Nothing is open there that is settled here: no trade that can still be paid, no refund that is still to be carried out.
    for number, trade in known.items():
        if trade["state"] in ("NOTPAY", "USERPAYING") and not trade["expired"]:
            report.orphaned.append(f"{number} can still be paid at the channel")
        report.orphaned += [
            f"{number}: the refund {refund['number']} is {refund['state']} at the channel"
            for refund in trade["refunds"] if refund["state"] == "PROCESSING"
        ]  # fmt: skip
    _compare_words(report, orders, refunds, receiver)
    async with open_database(deployment.settings) as database:
        async for checked in check_books(database):
            report.doubled += [f"books: {difference}" for difference in checked.differences]
    report.totals["notifications"] = sum(receiver.counts.values())
    return report


def _compare_payments(report: Report, attempts: Mapping[str, Any], trades: Mapping[str, Any], asked: Set[UUID]) -> None:
    for number, trade in trades.items():
        if not trade["paid"]:
            continue
        ours = attempts.get(number)
        if ours is None:
            report.orphaned.append(f"{number} is paid at the channel, and there is no attempt")
        elif ours["paid_amount"] != trade["paid_amount"]:
            # A bar code payment that was cancelled gives all of its money back; it may be closed here.
            cancelled = trade["refunded"] == trade["paid_amount"] and ours["state"] == "CLOSED"
            if not cancelled and ours["id"] not in asked:
                report.lost.append(
                    f"{number}: {trade['paid_amount']} paid at the channel, {ours['paid_amount']} here, {ours['state']}"
                )
    for number, ours in attempts.items():
        if ours["state"] == "SUCCESS" and ours["channel_code"] != "mock" and not (number in trades and trades[number]["paid"]):
            report.doubled.append(f"{number} is booked, and the channel has no money")


def _compare_refunds(report: Report, attempts: Mapping[str, Any], refunds: list[Any], trades: Mapping[str, Any]) -> None:
    ours: dict[UUID, int] = defaultdict(int)
    for refund in refunds:
        if refund["state"] == "SUCCESS":
            ours[refund["attempt_id"]] += refund["amount"]
    for number, attempt in attempts.items():
        if attempt["channel_code"] == "mock":
            continue
        trade = trades.get(number)
        there = trade["refunded"] if trade is not None else 0
        here = ours[attempt["id"]]
        cancelled = trade is not None and attempt["state"] == "CLOSED" and there == trade["paid_amount"]
        if there > here and not cancelled:
            report.doubled.append(f"{number}: {there} went back at the channel, {here} by the books")
        elif here > there:
            report.lost.append(f"{number}: {here} went back by the books, {there} at the channel")


def _compare_orders(report: Report, orders: Mapping[UUID, Any], attempts: Mapping[str, Any], cases: list[Any]) -> None:
    with_case = {case["attempt_id"] for case in cases}
    keys = Counter(order["merchant_order_id"] for order in orders.values())
    report.doubled += [f"{name}: {count} orders" for name, count in keys.items() if count > 1]
    for number, attempt in attempts.items():
        if attempt["state"] != "SUCCESS":
            continue
        order = orders[attempt["order_id"]]
        if order["attempt_id"] != attempt["id"] and attempt["id"] not in with_case:
            report.orphaned.append(f"{number} is paid, is not its order's payment, and has no case")
    for order in orders.values():
        own = [attempt for attempt in attempts.values() if attempt["id"] == order["attempt_id"]]
        if (order["state"] in ("SUCCESS", "REFUND")) != bool(own and own[0]["state"] == "SUCCESS"):
            report.orphaned.append(f"order {order['merchant_order_id']} is {order['state']} without a paid attempt")
        if order["refunded_amount"] + order["reserved_amount"] > order["paid_amount"] or order["reserved_amount"]:
            report.doubled.append(f"order {order['merchant_order_id']}: refunded, reserved and paid amounts do not fit")


def _compare_words(report: Report, orders: list[Any], refunds: list[Any], receiver: Receiver) -> None:
    truth = {"SUCCESS": "pay_order.success", "REFUND": "pay_order.success", "CLOSED": "pay_order.closed"}
    for order in orders:
        said = receiver.last_word(encode(Prefix.ORDER, order["id"]))
        if said != truth[order["state"]]:
            report.untrue.append(
                f"order {order['merchant_order_id']} is {order['state']}, and its app was told {said or 'nothing'}"
            )
    for refund in refunds:
        kind = ("pay_refund.", "pay_order.surplus_refund")[refund["case_id"] is not None]
        ends = {"SUCCESS": ("success", "ed"), "FAILURE": ("failure", "_failed")}[refund["state"]]
        said = receiver.last_word(encode(Prefix.REFUND, refund["id"]))
        if said != kind + ends[refund["case_id"] is not None]:
            report.untrue.append(
                f"refund {refund['merchant_refund_no']} is {refund['state']}, and its app was told {said or 'nothing'}"
            )
