"""Locks, deadlocks and schema changes: whatever PostgreSQL refuses for the moment, callers and channels are asked to repeat."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import grpc
import pytest
from integration.test_bar_codes import make_point_of_sale
from integration.test_sidecar import post, tapped
from paycenter_server.domain.errors import Reason
from paycenter_server.domain.states import RefundState
from paycenter_server.storage.database import retryable_error
from support.grpc_rig import fails, open_rig
from support.system import PayCenterSystem
from support.waiting import eventually

WAITING = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"


@asynccontextmanager
async def direct(system: PayCenterSystem) -> AsyncIterator[Any]:
    """A connection of the test's own. It never is the victim of a deadlock: it looks for one only after a minute."""
    connection = await asyncpg.connect(system.database_url, server_settings={"deadlock_timeout": "1min"})
    try:
        yield connection
    finally:
        await connection.close()


async def waiting(system: PayCenterSystem, count: int) -> None:
    """Until so many connections wait for a lock."""

    async def enough() -> bool:
        return bool(await system.value(WAITING) >= count)

    await eventually(enough)


async def test_a_refund_and_a_callback_of_the_same_attempt(system: PayCenterSystem) -> None:
    """The callback locks the order, then the attempt; the refund's foreign keys lock the attempt, then the order."""
    system.books_are_checked = False
    pos = await make_point_of_sale(system, "alipay")
    await system.simulator.fault(pos.api, pos.waits)
    async with tapped(system) as tap, direct(system) as order_lock, direct(system) as attempt_lock:
        order = await system.order()
        attempt = await pos.scan(order)
        await system.simulator.pay(attempt.out_trade_no)
        body, headers = await tap.first()
        holds_order = order_lock.transaction()
        await holds_order.start()
        await order_lock.execute("SELECT 1 FROM pay_order WHERE id = $1 FOR UPDATE", order.id)
        url = f"{system.sidecar}/callback/order/{system.channels[pos.code]}"
        callback = asyncio.ensure_future(post(system, url, body, headers=headers))
        await waiting(system, 1)
        # Meanwhile the payment is booked by somebody else, as by a query, so the callback looks again at order and attempt.
        await attempt_lock.execute(
            "UPDATE pay_attempt SET state = 'SUCCESS', paid_amount = amount, success_time = now(), next_check_time = NULL"
        )
        holds_attempt = attempt_lock.transaction()
        await holds_attempt.start()
        await attempt_lock.execute("SELECT 1 FROM pay_attempt WHERE id = $1 FOR SHARE", attempt.id)
        await order_lock.execute(
            "UPDATE pay_order SET state = 'SUCCESS', paid_amount = amount, attempt_id = $2, channel_id = $3, channel_code = $4, "
            "success_time = now(), next_check_time = NULL WHERE id = $1",
            order.id, attempt.id, attempt.channel_id, attempt.channel_code,
        )  # fmt: skip
        await holds_order.commit()
        await waiting(system, 1)  # the callback has the order, and waits for the attempt
        refund = asyncio.ensure_future(system.refund(await system.read(order), 30))
        await waiting(system, 2)  # the refund's row is inserted, and waits for the order
        await holds_attempt.commit()
        status, text = await callback
        assert (status, text) == (200, "success")
        assert (await refund).amount == 30
    assert (await system.read(order)).refunded_amount + (await system.read(order)).reserved_amount == 30


async def test_a_deadlock_is_a_conflict_that_can_be_repeated(system: PayCenterSystem) -> None:
    async with open_rig(system) as rig, direct(system) as other:
        order = await system.paid()
        (attempt,) = await system.services.orders.attempts(order)

        def refund() -> Any:
            return rig.shop.create_refund(
                merchant_order_id=order.merchant_order_id, merchant_refund_no="R-deadlock", amount=10, reason="退货"
            )

        async with other.transaction():
            await other.execute("SELECT 1 FROM pay_order WHERE id = $1 FOR NO KEY UPDATE", order.id)
            call = asyncio.ensure_future(refund())
            await waiting(system, 1)  # the refund holds the account; its reservation waits for the order
            lock = asyncio.ensure_future(
                other.execute("SELECT 1 FROM pay_account WHERE id = $1 FOR NO KEY UPDATE", attempt.account_id)
            )
            async with fails("DATABASE_CONFLICT", grpc.StatusCode.ABORTED) as caught:
                await call
            await lock
            assert caught[0].retry_after == 0.2
            assert caught[0].metadata["cause"] == "DeadlockDetectedError"
        assert await system.value("SELECT count(*) FROM pay_refund") == 0
        assert (await refund()).amount == 10
        assert (await system.read(order)).reserved_amount + (await system.read(order)).refunded_amount == 10


@pytest.mark.parametrize("code", ["wx_native", "alipay_qr"])
async def test_a_callback_in_a_deadlock_is_sent_again(
    system: PayCenterSystem, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with tapped(system) as tap, direct(system) as other:
        order = await system.order()
        attempt = await system.submit(order, code)
        await system.simulator.pay(attempt.out_trade_no)
        body, headers = await tap.first()
        url = f"{system.sidecar}/callback/order/{system.channels[code]}"
        async with other.transaction():
            await other.execute("SELECT 1 FROM pay_attempt WHERE id = $1 FOR UPDATE", attempt.id)
            call = asyncio.ensure_future(post(system, url, body, headers=headers))
            await waiting(system, 1)
            await other.execute("SELECT 1 FROM pay_order WHERE id = $1 FOR UPDATE", order.id)
            status, text = await call
        assert "success" not in text.lower() and (status >= 500 or code == "alipay_qr"), (status, text)
        assert (await system.read(order)).state.value == "WAITING"
        logged = capsys.readouterr().out
        assert "DATABASE_CONFLICT" in logged and "Traceback" not in logged
        assert (await post(system, url, body, headers=headers))[0] in (200, 204)
        assert (await system.read(order)).state.value == "SUCCESS"


def test_which_refusals_of_the_database_are_worth_a_repetition() -> None:
    conflicts = (
        asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError,
        asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError,
    )  # fmt: skip
    away = (
        asyncpg.DiskFullError, asyncpg.ReadOnlySQLTransactionError, asyncpg.PostgresIOError, asyncpg.OutOfMemoryError,
        asyncpg.UndefinedColumnError,
        asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError, ConnectionResetError, TimeoutError,
    )  # fmt: skip
    for kinds, reason in ((conflicts, Reason.DATABASE_CONFLICT), (away, Reason.DATABASE_UNAVAILABLE)):
        for kind in kinds:
            known = retryable_error(kind("x"))
            assert known is not None and known.reason is reason, kind
            assert known.retry_after
    for other in (asyncpg.UniqueViolationError("x"), asyncpg.DataError("x"), ValueError("x")):
        assert retryable_error(other) is None, other


@pytest.mark.parametrize(
    "lost", [asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError, ConnectionResetError, TimeoutError]
)
def test_after_a_lost_connection_no_error_says_that_nothing_was_done(lost: type[Exception]) -> None:
    known = retryable_error(lost("x"))
    assert known is not None
    assert "was not stored" not in known.message
    assert "may have been carried out, or not. Read the resource, or repeat the call with the same number" in known.message
    refused = retryable_error(asyncpg.DiskFullError("x"))
    assert refused is not None
    assert "was not stored" in refused.message


async def test_a_refund_that_was_sent_is_not_called_one_that_was_not_stored(system: PayCenterSystem) -> None:
    """The disk is full after the channel has refunded: only the success is not stored."""
    order = await system.paid("mock")
    await system.rows("CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
                      "$$ BEGIN RAISE EXCEPTION 'full' USING ERRCODE = 'disk_full'; END $$")  # fmt: skip
    await system.rows("CREATE TRIGGER full_disk BEFORE UPDATE ON pay_refund EXECUTE FUNCTION full_disk()")
    try:
        with pytest.raises(asyncpg.DiskFullError) as caught:
            await system.refund(order, 40, merchant_refund_no="R1")
    finally:
        await system.rows("DROP FUNCTION full_disk CASCADE")
    known = retryable_error(caught.value)
    assert known is not None
    assert "What it has stored or sent before stays" in known.message
    assert (await system.read(order)).reserved_amount == 40
    assert (await system.decided(await system.refund(order, 40, merchant_refund_no="R1"))).state is RefundState.SUCCESS
    assert (await system.read(order)).refunded_amount == 40


async def test_what_was_committed_before_the_connection_was_lost_is_not_called_undecided(system: PayCenterSystem) -> None:
    order = await system.order()
    async with direct(system) as connection:
        with pytest.raises(asyncpg.PostgresConnectionError) as caught:
            await connection.execute(
                f"""DO $$ BEGIN
                      UPDATE pay_order SET subject = 'committed' WHERE id = '{order.id}';
                      COMMIT;
                      PERFORM pg_terminate_backend(pg_backend_pid());
                    END $$"""
            )
    assert (await system.read(order)).subject == "committed"
    known = retryable_error(caught.value)
    assert known is not None
    assert known.reason is Reason.DATABASE_UNAVAILABLE
    assert "may have been carried out" in known.message
