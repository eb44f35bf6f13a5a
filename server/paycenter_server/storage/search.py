"""Finding rows by the numbers of others: the app's, the channel's. Each statement reads one index.

OFFSET 0 keeps the planner from reading all rows in the order of their ids instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from paycenter_server.storage.database import Connection

MOST = 50
"""The most rows that are found. Different apps may use the same number, and a channel's number may come in several attempts."""

_ORDERS = """SELECT id FROM (
    SELECT id FROM pay_order WHERE merchant_order_id = $1 AND ($2::uuid IS NULL OR app_id = $2) OFFSET 0) o
  ORDER BY id DESC LIMIT $3"""
_REFUNDS = """SELECT id FROM (
    SELECT id FROM pay_refund WHERE merchant_refund_no = $1 AND ($2::uuid IS NULL OR app_id = $2) OFFSET 0) r
  ORDER BY id DESC LIMIT $3"""


_BY_CHANNEL_NO = """SELECT id FROM (SELECT id FROM {} WHERE {} = $1 AND ($2::uuid IS NULL OR app_id = $2) OFFSET 0) f
  ORDER BY id DESC LIMIT $3"""
_ORDERS_BY_CHANNEL_NO = _BY_CHANNEL_NO.format("pay_order", "channel_order_no")
_REFUNDS_BY_CHANNEL_NO = _BY_CHANNEL_NO.format("pay_refund", "channel_refund_no")


async def orders_by_merchant_id(connection: Connection, number: str, app_id: UUID | None = None) -> list[UUID]:
    """The orders with this merchant_order_id, of one app or of all."""
    return [row["id"] for row in await connection.fetch(_ORDERS, number, app_id, MOST)]


async def refunds_by_merchant_no(connection: Connection, number: str, app_id: UUID | None = None) -> list[UUID]:
    """The refunds with this merchant_refund_no, of one app or of all."""
    return [row["id"] for row in await connection.fetch(_REFUNDS, number, app_id, MOST)]


async def orders_by_channel_no(connection: Connection, number: str, app_id: UUID | None = None) -> list[UUID]:
    """The orders that were paid under this number of the channel, of one app or of all."""
    return [row["id"] for row in await connection.fetch(_ORDERS_BY_CHANNEL_NO, number, app_id, MOST)]


async def refunds_by_channel_no(connection: Connection, number: str, app_id: UUID | None = None) -> list[UUID]:
    """The refunds that were made under this number of the channel, of one app or of all."""
    return [row["id"] for row in await connection.fetch(_REFUNDS_BY_CHANNEL_NO, number, app_id, MOST)]


async def order_of_attempt(connection: Connection, attempt_id: UUID) -> UUID | None:
    """The order of an attempt; None if there is no such attempt."""
    found = await connection.fetchval("SELECT order_id FROM pay_attempt WHERE id = $1", attempt_id)
    return found if isinstance(found, UUID) else None


async def refund_of_out_key(connection: Connection, key: UUID) -> UUID | None:
    """The refund with this present out_refund_no; None if there is none."""
    found = await connection.fetchval("SELECT id FROM pay_refund WHERE out_refund_key = $1", key)
    return found if isinstance(found, UUID) else None


async def objects_of_orders(connection: Connection, order_ids: Sequence[UUID]) -> list[UUID]:
    """The refunds and the cases of these orders."""
    rows = await connection.fetch(
        """SELECT id FROM pay_refund WHERE order_id = ANY($1)
           UNION ALL SELECT id FROM pay_case WHERE order_id = ANY($1)""",
        list(order_ids),
    )
    return [row["id"] for row in rows]
