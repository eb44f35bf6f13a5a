"""The statement that inserts orders."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from uuid import UUID

from paycenter_server.domain.events import Cause, Subject
from paycenter_server.domain.orders import AT_CREATE, SAME_AT_CREATE, PayOrder
from paycenter_server.domain.states import ORDER, OrderEvent, created
from paycenter_server.storage.database import HARDLY_WAITING, WriteConnection
from paycenter_server.storage.events import Change, cause_values, named, noting
from paycenter_server.storage.orders import ORDERS

# What a new order has besides is the default of its column, or the value of another: each argument costs the server time.
GIVEN = tuple(name for name in ORDERS.columns if name not in {*AT_CREATE, *SAME_AT_CREATE, "state"})
_VALUES = attrgetter(*GIVEN)
_TYPES = dict(zip(ORDERS.columns, ORDERS.array_types, strict=True))
_ARRAYS = ", ".join(f"${number}::{_TYPES[name]}" for number, name in enumerate(GIVEN, 1))
_CREATED = Change(Subject.ORDER, named(OrderEvent.CREATE), order_id="id", after="state", amount="amount")


def _inserting(before: str, join: str) -> str:
    return f"""
WITH {before}made AS (INSERT INTO pay_order ({", ".join(GIVEN)}, state, {", ".join(SAME_AT_CREATE)})
  SELECT given.*, {named(created(ORDER, OrderEvent.CREATE))}, {", ".join(SAME_AT_CREATE.values())}
  FROM unnest({_ARRAYS}) AS given({", ".join(GIVEN)}){join}
  ON CONFLICT (merchant_order_id, app_id) DO NOTHING RETURNING id, state, amount),
noted AS ({noting("made", len(GIVEN) + 1, _CREATED, keys="$1::uuid[]")})
SELECT id FROM made
"""


INSERT = _inserting(f"{HARDLY_WAITING}, ", " CROSS JOIN hardly_waiting")
"""Its arguments are arrays: the values of the fields `GIVEN`, and those of the causes."""

_INSERT_WAITING = _inserting("", "")


async def insert_orders(connection: WriteConnection, orders: Sequence[tuple[PayOrder, Cause]]) -> set[UUID]:
    """Insert new orders in one statement. The ids of those whose apps had no order with their merchant_order_id.

    They are inserted in the order of their unique keys, so that two processes never wait for each other in a circle.

    LockTimeout, with nothing inserted, if another transaction has locked an app, or inserts an order with the same number.
    """
    return await _insert(connection, INSERT, orders)


async def insert_order(connection: WriteConnection, order: PayOrder, cause: Cause) -> bool:
    """Insert one order. It waits for what another transaction has locked."""
    return bool(await _insert(connection, _INSERT_WAITING, [(order, cause)]))


async def _insert(connection: WriteConnection, statement: str, orders: Sequence[tuple[PayOrder, Cause]]) -> set[UUID]:
    ordered = sorted(orders, key=lambda item: (item[0].merchant_order_id, item[0].app_id))
    columns = zip(*[_VALUES(order) for order, _ in ordered], strict=True)
    causes = zip(*[cause_values(cause) for _, cause in ordered], strict=True)
    return {row["id"] for row in await connection.fetch(statement, *columns, *causes)}
