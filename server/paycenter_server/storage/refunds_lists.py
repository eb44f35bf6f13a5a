"""Lists of pay_refund."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.states import RefundState
from paycenter_server.storage.database import Connection
from paycenter_server.storage.refunds import REFUNDS


@dataclass(frozen=True, slots=True)
class RefundFilter:
    """The filters of ListPayRefunds. Empty values do not filter. `refund_ids`: only these; `order_ids`: of these; None for any.
    `first_id`: no refund with a smaller key."""

    app_id: UUID | None = None
    channel_code: str = ""
    state: RefundState | None = None
    merchant_order_id: str = ""
    merchant_refund_no: str = ""
    channel_refund_no: str = ""
    create_time_from: datetime | None = None
    create_time_to: datetime | None = None
    refund_ids: tuple[UUID, ...] | None = None
    order_ids: tuple[UUID, ...] | None = None
    first_id: UUID | None = None


async def list_refunds(connection: Connection, where: RefundFilter, *, limit: int, before: UUID | None) -> list[PayRefund]:
    """List refunds, newest first, by keyset. A range of creation times reads only that range of the primary key."""
    from sqlalchemy import select

    from paycenter_server.storage.rendering import render
    from paycenter_server.storage.tables import pay_app, pay_refund

    table = pay_refund.c
    conditions = _conditions(where)
    if before is not None:
        conditions.append(table.id < before)
    statement = (
        select(*(table[name] for name in REFUNDS.columns), pay_app.c.app_key)
        .join(pay_app, pay_app.c.id == table.app_id)
        .where(*conditions)
    )
    text, arguments = render(statement.order_by(table.id.desc()).limit(limit))
    return REFUNDS.models(await connection.fetch(text, *arguments))


async def count_refunds(connection: Connection, where: RefundFilter) -> int:
    """Count the refunds of a list. The caller bounds the rows that are read by `first_id`."""
    from sqlalchemy import func, select

    from paycenter_server.storage.rendering import render
    from paycenter_server.storage.tables import pay_refund

    text, arguments = render(select(func.count()).select_from(pay_refund).where(*_conditions(where)))
    return int(await connection.fetchval(text, *arguments))


def _conditions(where: RefundFilter) -> list[Any]:
    from paycenter_server.storage.keyrange import end_key, first_key
    from paycenter_server.storage.tables import pay_refund

    table = pay_refund.c
    conditions: list[Any] = []
    for column, value in (
        (table.app_id, where.app_id),
        (table.channel_code, where.channel_code),
        (table.state, where.state.value if where.state else None),
        (table.merchant_order_id, where.merchant_order_id),
        (table.merchant_refund_no, where.merchant_refund_no),
        (table.channel_refund_no, where.channel_refund_no),
    ):
        if value:
            conditions.append(column == value)
    if where.create_time_from is not None:
        conditions += [table.create_time >= where.create_time_from, table.id >= first_key(where.create_time_from)]
    if where.create_time_to is not None:
        conditions += [table.create_time < where.create_time_to, table.id < end_key(where.create_time_to)]
    if where.first_id is not None:
        conditions.append(table.id >= where.first_id)
    if where.refund_ids is not None:
        conditions.append(table.id.in_(where.refund_ids))
    if where.order_ids is not None:
        conditions.append(table.order_id.in_(where.order_ids))
    return conditions
