"""Migrations that add and drop columns while calls run: no caller and no channel is disturbed."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from paycenter import PayCenterError
from paycenter.v1 import pay_app_service_pb2 as app_pb
from paycenter.v1 import pay_channel_service_pb2 as channel_pb
from paycenter.v1 import pay_order_service_pb2 as order_pb
from paycenter.v1 import pay_refund_service_pb2 as refund_pb
from paycenter_server.storage import apps, attempts, channels, orders, refunds
from paycenter_server.storage.database import Database
from support.grpc_rig import Rig, open_rig
from support.system import CAUSE, PayCenterSystem
from support.waiting import eventually

TABLES = ("pay_order", "pay_attempt", "pay_refund", "pay_app", "pay_channel")
ROUNDS = 8


@pytest.fixture
async def rig(system: PayCenterSystem) -> AsyncIterator[Rig]:
    async with open_rig(system) as opened:
        yield opened


async def test_a_prepared_statement_in_a_transaction_survives(system: PayCenterSystem) -> None:
    """One connection, so that each statement is prepared before the table changes, and used in a transaction after it."""
    key, now = uuid.uuid4(), system.clock.now()
    database = Database(system.database_url, size=1)
    await database.open()

    async def use_every_table() -> None:
        async with database.transaction() as transaction:
            await orders.lock_order(transaction, key)
            await orders.close_order(transaction, key, now, CAUSE)
            await attempts.lock_attempt(transaction, key)
            await attempts.claim_due(transaction, now - timedelta(days=1), now, {key: 1})
            await refunds.get_refund(transaction, key)
            await refunds.claim_due(transaction, now - timedelta(days=1), now, {key: 1})
            await apps.get_app_by_id(transaction, key)
            await channels.get_channel(transaction, key)

    await use_every_table()
    migrator = await asyncpg.connect(system.database_url)
    try:
        for table in TABLES:
            await migrator.execute(f"ALTER TABLE {table} ADD COLUMN later text NOT NULL DEFAULT 'x'")
            await use_every_table()
            await migrator.execute(f"ALTER TABLE {table} DROP COLUMN later")
            await use_every_table()
    finally:
        for table in TABLES:
            await migrator.execute(f"ALTER TABLE {table} DROP COLUMN IF EXISTS later")
        await migrator.close()
        await database.close()


async def test_columns_come_and_go_under_load(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    errors: Counter[str] = Counter()
    done: Counter[str] = Counter()
    ended = asyncio.Event()

    async def attempt(name: str, call: Any) -> Any:
        try:
            answer = await call
        except PayCenterError as error:
            errors[f"{name}: {error.reason or error.code.name}"] += 1
            return None
        done[name] += 1
        return answer

    async def payer(number: int) -> None:
        """Creates, pays, refunds, reads, lists, closes."""
        while not ended.is_set():
            order = await attempt("create", rig.order())
            if order is None:
                continue
            await attempt("submit", rig.shop.submit_order(order, "mock"))
            for call in range(2):
                refund = rig.shop.create_refund(
                    merchant_order_id=order.merchant_order_id, merchant_refund_no=f"{order.merchant_order_id}-{call}", amount=10,
                    reason="退货",
                )  # fmt: skip
                await attempt("refund", refund)
            await attempt("get", rig.shop.get_order(id=order.id))
            open_order = await attempt("create", rig.order())
            if open_order is not None:
                await attempt("price", rig.shop.orders.UpdatePayOrderPrice(
                    order_pb.UpdatePayOrderPriceRequest(id=open_order.id, amount=200)))  # fmt: skip
                await attempt("close", rig.shop.close_order(open_order))
            await attempt("list orders", rig.shop.orders.ListPayOrders(order_pb.ListPayOrdersRequest(page_size=5)))
            await attempt("list refunds", rig.shop.refunds.ListPayRefunds(refund_pb.ListPayRefundsRequest(page_size=5)))

    async def administrator() -> None:
        channel = rig.system.channels["wx_native"]
        while not ended.is_set():
            await attempt("app", rig.op.apps.UpdatePayApp(app_pb.UpdatePayAppRequest(app_key="shop", remark="r")))
            await attempt("channel", rig.op.channels.UpdatePayChannel(channel_pb.UpdatePayChannelRequest(id=channel, remark="r")))
            await attempt("codes", rig.shop.list_channel_codes())
            await attempt("channels", rig.op.channels.ListPayChannels(channel_pb.ListPayChannelsRequest(app_key="shop")))

    async def worker() -> None:
        while not ended.is_set():
            await rig.system.services.jobs.sync_orders()
            await rig.system.services.jobs.expire_orders()
            await rig.system.services.jobs.sync_refunds()
            await rig.system.deliver()

    async def progress() -> None:
        wanted = done.total() + 20

        async def reached() -> bool:
            return done.total() >= wanted

        await eventually(reached, 20)

    migrator = await asyncpg.connect(rig.system.database_url)
    tasks = [asyncio.create_task(work) for work in (*(payer(number) for number in range(6)), administrator(), worker())]
    try:
        await progress()
        for _ in range(ROUNDS):
            for table in TABLES:
                await migrator.execute(f"ALTER TABLE {table} ADD COLUMN later text NOT NULL DEFAULT 'x'")
            await progress()
            for table in TABLES:
                await migrator.execute(f"ALTER TABLE {table} DROP COLUMN later")
            await progress()
    finally:
        ended.set()
        await asyncio.gather(*tasks)
        for table in TABLES:
            await migrator.execute(f"ALTER TABLE {table} DROP COLUMN IF EXISTS later")
        await migrator.close()
    print(f"{done.total()} calls, errors: {dict(errors)}")
    assert not errors, errors
    assert len(done) == 12, done
    assert "Traceback" not in capsys.readouterr().out
