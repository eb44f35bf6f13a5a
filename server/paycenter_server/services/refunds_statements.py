"""The statements of refunds: those of refunds that arrive together are shared."""

from __future__ import annotations

from contextlib import suppress

from paycenter_server.domain.events import Cause
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.services.context import Context
from paycenter_server.services.gathering import WAITS_OF_CHANNEL_CALLS, Gathering
from paycenter_server.storage import refunds as rows
from paycenter_server.storage import refunds_shared as shared
from paycenter_server.storage.database import LockTimeout
from paycenter_server.storage.refunds_shared import Intent, Success


class RefundStatements:
    """Stores intents and successes. What the shared statement leaves out is stored by a statement of its own."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._intents = Gathering(context, shared.reserve_and_insert_each, waits=WAITS_OF_CHANNEL_CALLS)
        self._successes = Gathering(context, shared.succeed_each, waits=WAITS_OF_CHANNEL_CALLS)

    async def reserve_and_insert(self, refund: PayRefund, cause: Cause) -> bool:
        """See `reserve_and_insert` in storage/refunds.py."""
        with suppress(LockTimeout):  # it waits below, where it holds up nobody else
            if await self._intents.add(Intent(refund, cause)):
                return True
        async with self._context.database.connection() as connection:
            return await rows.reserve_and_insert(connection, refund, cause)

    async def succeed(self, success: Success) -> PayRefund | bool:
        """See `succeed` in storage/refunds.py. The refund as it is then, or whether it is done and must be read."""
        with suppress(LockTimeout):
            stored = await self._successes.add(success)
            if stored is not None:
                return stored
        async with self._context.database.connection() as connection:
            done = await rows.succeed(
                connection, success.refund, success.cause, success.task, channel_refund_no=success.channel_refund_no,
                success_time=success.success_time, now=success.now,
            )  # fmt: skip
        return bool(done)
