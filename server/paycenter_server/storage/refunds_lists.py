"""Lists of pay_refund."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.states import RefundState
from paycenter_server.storage.database import Connection
from paycenter_server.storage.lists import Conditions, conditions_of, count_rows, list_rows
from paycenter_server.storage.refunds import REFUNDS


@dataclass(frozen=True, slots=True)
class RefundFilter:
    """The filters of ListPayRefunds. Empty values do not filter. `refund_ids`: only these; None for any.
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
    first_id: UUID | None = None

    @property
    def reads_many(self) -> bool:
        """Whether no index has the refunds, so that many may be read to find one."""
        by_number = self.channel_refund_no or self.refund_ids is not None
        return not by_number and bool(self.channel_code or self.state)


async def list_refunds(connection: Connection, where: RefundFilter, *, limit: int, before: UUID | None) -> list[PayRefund]:
    """List refunds, newest first, by keyset."""
    return await list_rows(connection, REFUNDS, _conditions(where), limit=limit, before=before)


async def count_refunds(connection: Connection, where: RefundFilter) -> int:
    """Count the refunds of a list. The caller bounds the rows that are read by `first_id`."""
    return await count_rows(connection, REFUNDS, _conditions(where))


def _conditions(where: RefundFilter) -> Conditions:
    equal = {
        "channel_code": where.channel_code, "state": where.state and where.state.value,
        "merchant_order_id": where.merchant_order_id, "merchant_refund_no": where.merchant_refund_no,
        "channel_refund_no": where.channel_refund_no,
    }  # fmt: skip
    return conditions_of(
        REFUNDS, equal, {"id": where.refund_ids}, app_id=where.app_id,
        created=(where.create_time_from, where.create_time_to), first_id=where.first_id,
    )  # fmt: skip
