"""How the hot statements and the lists behave when the tables have grown: few rows and many, side by side and in turn.

    make bench-large [ARGS="--orders 1000000"]

It loads orders over 90 days, each with an attempt, a notification and an event, every tenth with a refund. A list is a page of 50
with a filter, as the console asks for it; the time is the whole use case, the median of several calls. At the end all orders are
exported. The exit code is 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import asyncpg
from fixtures import App, fill_notifications, make_app, settings_of
from paycenter_server.bootstrap import Services, open_services
from paycenter_server.domain.callers import Caller
from paycenter_server.domain.states import NotificationEvent, NotificationState, OrderState, RefundState
from paycenter_server.http_console.sheets import WRITERS, Cell, RowWriter
from paycenter_server.services.attempts_submission import NewSubmission
from paycenter_server.services.orders import NewOrder
from paycenter_server.services.paging import Pager
from paycenter_server.services.refunds import NewRefund
from paycenter_server.storage import notifications_delivery as delivery_rows
from paycenter_server.storage.audit import AuditFilter
from paycenter_server.storage.migrate import ensure
from paycenter_server.storage.notifications import NotificationFilter
from paycenter_server.storage.notifications_delivery import DeliveryResult
from paycenter_server.storage.orders import OrderFilter
from paycenter_server.storage.refunds_lists import RefundFilter
from processes import Processes

DAYS = 90
LIST_MS = 20.0
OVERVIEW_MS = 100.0
OVERVIEW = ("what needs a person", "queues")
CLAIMED = 64
NOWHERE = "http://127.0.0.1:1"
# The hot paths: what they are, the least ratio of the time with few rows and with many, and how often each is measured.
HOT = {
    "create": ("insert: create", 0.95, 800),
    "get": ("look-up: get", 0.85, 800),
    "settle": ("submit and settle, mock", 1 / 1.15, 300),
    "refund": ("refund: reserve and settle, mock", 1 / 1.15, 200),
    "deliver": (f"claim and record of {CLAIMED}", 1 / 1.15, 100),
}
EXPORT_MIB = 100
_KEYS = {"id": "k.id", "create_time": "k.at", "update_time": "k.at", "order_id": "k.id"}


async def load(connection: asyncpg.Connection, app: App, count: int) -> None:
    """Copies of the paid order of the app with its rows, spread over the days before today."""
    await connection.execute(
        f"""CREATE TEMP TABLE k AS SELECT n, uuidv7(-(n * interval '{DAYS} days' / {count})) AS id,
              now() - n * interval '{DAYS} days' / {count} AS at FROM generate_series(1, {count}) n"""
    )
    for table, every, special in (
        ("pay_order", 1, {"merchant_order_id": "'L' || k.n", "expire_time": "k.at + interval '30 minutes'",
                          "success_time": "k.at", "channel_order_no": "'C' || k.n", "attempt_id": "NULL",
                          "state": "CASE WHEN k.n % 10 = 0 THEN 'REFUND' ELSE 'SUCCESS' END",
                          "refunded_amount": "CASE WHEN k.n % 10 = 0 THEN 10 ELSE 0 END"}),
        ("pay_attempt", 1, {"channel_order_no": "'C' || k.n", "expire_time": "k.at"}),
        ("pay_refund", 10, {"merchant_refund_no": "'R' || k.n", "out_refund_key": "k.id", "attempt_id": "k.id",
                            "success_time": "k.at"}),
        ("pay_notify_task", 1, {"data_id": "k.id", "merchant_order_id": "'L' || k.n"}),
    ):  # fmt: skip
        rows = await connection.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped "
            "AND attgenerated = ''", table,
        )  # fmt: skip
        columns = [row["attname"] for row in rows]
        values = {**_KEYS, **special}
        chosen = ", ".join(values.get(name, f"s.{name}") for name in columns)
        await connection.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {chosen} FROM k, "
            f"(SELECT * FROM {table} ORDER BY create_time LIMIT 1) s WHERE k.n % {every} = 0"
        )
    await connection.execute(
        """INSERT INTO pay_event (create_time, order_id, subject, subject_id, event, to_state, amount, paid_change, reserved_change,
             refunded_change, actor_kind, actor)
           SELECT k.at, k.id, 'ORDER', k.id, 'create', 'WAITING', 1990, 0, 0, 0, 'APP', 'benchmark' FROM k"""
    )
    # Their ids are not those of the rows that are there. The chain is not verified here.
    await connection.execute(
        f"""INSERT INTO pay_audit (id, time, actor_kind, actor, operator, act, object, outcome, app_key, peer, request_id,
             previous_hash, hash)
           SELECT 1000000 + {count} - k.n, k.at, 'OPERATOR', 'key', 'operator-' || k.n % 50, 'PayAppService/UpdatePayApp',
             'O' || k.n % 100000, CASE k.n % 1000 WHEN 0 THEN 'PERMISSION_DENIED' ELSE 'OK' END,
             'shop-' || k.n % 1000, '', '', '', '' FROM k"""
    )
    await connection.execute("VACUUM ANALYZE")
    # What the load has left to write is not to be written while the statements are measured.
    await connection.execute("CHECKPOINT")


def lists(services: Services, operator: Caller) -> dict[str, Callable[[], Awaitable[Any]]]:
    """A page of each list, by name."""
    old = datetime.now(UTC) - timedelta(days=60)
    day: dict[str, Any] = {"create_time_from": old, "create_time_to": old + timedelta(days=1)}

    def orders(app: str = "", **where: Any) -> Callable[[], Awaitable[Any]]:
        return lambda: services.orders.search(operator, app, OrderFilter(**where), Pager(50, ""))

    def refunds(app: str = "", **where: Any) -> Callable[[], Awaitable[Any]]:
        return lambda: services.refunds.search(operator, app, RefundFilter(**where), Pager(50, ""))

    def notifications(app: str = "", **where: Any) -> Callable[[], Awaitable[Any]]:
        return lambda: services.notifications.search(operator, app, NotificationFilter(**where), Pager(50, ""))

    def audit(**where: Any) -> Callable[[], Awaitable[Any]]:
        return lambda: services.audit.search(AuditFilter(**where), Pager(50, ""))

    return {
        "orders": orders(), "orders of an app": orders("shop"), "orders WAITING": orders(state=OrderState.WAITING),
        "orders CLOSED of an app": orders("shop", state=OrderState.CLOSED), "orders REFUND": orders(state=OrderState.REFUND),
        "orders of a rare channel": orders(channel_code="alipay_pc"), "orders of a day 60 days ago": orders(**day),
        "orders of that day, WAITING": orders(state=OrderState.WAITING, **day),
        "orders by merchant_order_id": orders(merchant_order_id="L77"),
        "orders by channel_order_no": orders(channel_order_no="C77"),
        "refunds": refunds(), "refunds FAILURE": refunds(state=RefundState.FAILURE), "refunds of that day": refunds(**day),
        "notifications": notifications(), "notifications FAILURE": notifications(state=NotificationState.FAILURE),
        "notifications by merchant_order_id": notifications(merchant_order_id="L77"),
        "notifications of that day": notifications(**day),
        "audit": audit(), "audit of an object": audit(object="O77"), "audit of an app": audit(app_key="shop-77"),
        "audit, refused": audit(outcome="PERMISSION_DENIED"),
        "audit of that day": audit(time_from=old, time_to=old + timedelta(days=1)),
        "what needs a person": lambda: services.overview.attention(operator),
        "queues": lambda: services.overview.queues(operator),
    }  # fmt: skip


async def milliseconds(work: Callable[[], Awaitable[Any]], times: int) -> float:
    """The median time of a call."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        await work()
        taken.append((time.perf_counter() - started) * 1000)
    return statistics.median(taken)


@dataclass(frozen=True)
class Side:
    """A database of the run: one with few rows, or the large one."""

    services: Services
    app: App
    caller: Caller
    url: str


def beside(made: Processes, name: str) -> Processes:
    """The same processes with another database of the same server, which is made."""
    url = urlsplit(made.urls.database_url)._replace(path=f"/{name}").geturl()
    other = copy(made)
    other.urls = replace(made.urls, database_url=url)
    other.settings = {**made.settings, "DATABASE_URL": url}
    return other


@asynccontextmanager
async def opened(made: Processes) -> AsyncIterator[Side]:
    """The services over the database, with an app whose first order is paid and refunded."""
    app = await make_app(made, f"{NOWHERE}/notify", paid=True)
    async with open_services(settings_of(made)) as services:
        yield Side(services, app, Caller(app.key_id, app.id, "shop"), made.urls.database_url)


class Hot:
    """The hot paths of a side. Each is a call that prepares, whose answer is the call that is measured."""

    def __init__(self, made: Processes, side: Side) -> None:
        self._made = made
        self._side = side

    def _new(self) -> NewOrder:
        return NewOrder("shop", f"{time.monotonic_ns()}", "Tea", "", 1990, "CNY", None, "203.0.113.7", "", "")

    async def create(self) -> Callable[[], Awaitable[Any]]:
        """CreatePayOrder."""
        new = self._new()
        return lambda: self._side.services.orders.create(self._side.caller, new)

    async def get(self) -> Callable[[], Awaitable[Any]]:
        """GetPayOrder by the merchant's number."""
        return lambda: self._side.services.orders.read(self._side.caller, merchant_order_id="sample")

    async def settle(self) -> Callable[[], Awaitable[Any]]:
        """SubmitPayOrder by the mock channel, which pays at once: the attempt is stored, and the payment is booked."""
        order = await self._side.services.orders.create(self._side.caller, self._new())
        new = NewSubmission(order.number, "mock", {}, "", "", "")
        return lambda: self._side.services.submission.submit(self._side.caller, new)

    async def refund(self) -> Callable[[], Awaitable[Any]]:
        """CreatePayRefund: the amount is reserved, and the mock channel makes it at once."""
        await (await self.settle())()
        last = await self._side.services.orders.search(self._side.caller, "", OrderFilter(), Pager(1, ""))
        order = last.items[0]
        new = NewRefund("shop", order.merchant_order_id, order.merchant_order_id, 10, "too much tea")
        return lambda: self._side.services.refunds.create(self._side.caller, new)

    async def deliver(self) -> Callable[[], Awaitable[Any]]:
        """The claim of 64 notifications, and the record of their results."""
        await fill_notifications(self._made, self._side.app, f"{NOWHERE}/notify", CLAIMED)
        return self._claim_and_record

    async def _claim_and_record(self) -> None:
        now = datetime.now(UTC)
        async with self._side.services.context.database.connection() as connection:
            await delivery_rows.due_endpoints(connection, now, "", 2000)
            claimed = await delivery_rows.claim_due(connection, now, now + timedelta(minutes=1), {NOWHERE: CLAIMED})
            assert len(claimed) == CLAIMED
            results = [
                DeliveryResult(task.id, task.notify_times, NotificationEvent.RECEIVED, None, task.notification_url, 200, 1, "", now)
                for task in claimed
            ]
            await delivery_rows.record(connection, results)


async def compare(small: Hot, large: Hot, name: str, times: int) -> tuple[float, float]:
    """The milliseconds of both, measured in turn, so that other work on the machine is beside both alike. The first quartile,
    because such work only makes a call longer."""
    found: dict[Hot, list[float]] = {small: [], large: []}
    # Before, statements are prepared, and the pages that every call changes are in the write-ahead log since the checkpoint.
    before = times // 2
    for number in range(times + before):
        for hot in (small, large) if number % 2 else (large, small):
            work = await getattr(hot, name)()
            started = time.perf_counter()
            await work()
            if number >= before:
                found[hot].append((time.perf_counter() - started) * 1000)
    return statistics.quantiles(found[small])[0], statistics.quantiles(found[large])[0]


async def run(made: Processes, count: int, *, exports: bool) -> bool:
    """Measure both databases in turn, then the lists of the large one. `exports`: write the files of all orders, too, which takes
    minutes."""
    few = beside(made, "few")
    connection = await asyncpg.connect(made.urls.database_url)
    await connection.execute("CREATE DATABASE few")
    await asyncio.to_thread(ensure, few.urls.database_url)
    async with opened(few) as small_side, opened(made) as large_side:
        started = time.monotonic()
        await load(connection, large_side.app, count)
        await connection.close()
        print(f"{count} orders loaded in {time.monotonic() - started:.0f} s")
        small, large = Hot(few, small_side), Hot(made, large_side)
        met = True
        print(f"\n{'one call, idle':40}{'few rows':>10}{'many':>10}  ms{'few / many':>14}")
        for name, (what, least, times) in HOT.items():
            fast, slow = await compare(small, large, name, times)
            good = fast / slow >= least
            met &= good
            print(f"{what:40}{fast:10.2f}{slow:10.2f}{fast / slow:17.2f}   goal >= {least:.2f}   {'reached' if good else 'MISSED'}")
        services, operator = large_side.services, Caller("benchmark", None, "")
        print(f"\n{'a page of':40}{'ms':>10}")
        for name, work in lists(services, operator).items():
            await work()
            value, most = await milliseconds(work, 7), OVERVIEW_MS if name in OVERVIEW else LIST_MS
            met &= value < most
            print(f"{name:40}{value:10.1f}  {'' if value < most else f'MISSED: more than {most:.0f} ms'}")
        for name in sorted(WRITERS) if exports else ():
            before, started = _peak(), time.monotonic()
            rows = await export(services, operator, name)
            grown = _peak() - before
            met &= grown < EXPORT_MIB
            why = "" if grown < EXPORT_MIB else f"MISSED: more than {EXPORT_MIB} MiB"
            print(f"export of {rows} orders as {name}: {time.monotonic() - started:.0f} s, {grown:.0f} MiB more memory  {why}")
    return met


async def export(services: Services, operator: Caller, name: str) -> int:
    """Write the file of all orders, as the console does, and keep nothing of it. The number of its rows."""
    writer, rows = cast(RowWriter, WRITERS[name]()), 0
    writer.begin(["Order number", "Created", "Amount", "Paid", "State", "Merchant's number", "Subject"])
    async for page in services.exports.orders(operator, "", OrderFilter()):
        rows += len(page)
        cells: list[list[Cell]] = [
            [one.number, one.create_time.isoformat(), Decimal(one.amount).scaleb(-2), Decimal(one.paid_amount).scaleb(-2),
             one.state.value, one.merchant_order_id, one.subject]
            for one in page
        ]  # fmt: skip
        await asyncio.to_thread(writer.rows, cells)
    writer.end()
    return rows


def _peak() -> float:
    """The most memory that this process has had so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    """Run as told by the arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--orders", type=int, default=1_000_000)
    parser.add_argument("--no-exports", action="store_true", help="do not write the files of all orders")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="paycenter-bench-") as folder, Processes(Path(folder), fsync=False) as made:
        return 0 if asyncio.run(run(made, options.orders, exports=not options.no_exports)) else 1


if __name__ == "__main__":
    sys.exit(main())
