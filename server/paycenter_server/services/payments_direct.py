"""The booking of a payment without reading its order before: what callbacks usually need."""

from __future__ import annotations

from collections.abc import Sequence

from paycenter_server.channels.protocol import Payment, Refunded
from paycenter_server.domain.events import Cause
from paycenter_server.domain.ids import Prefix, decode_bytes
from paycenter_server.domain.money import MAX_AMOUNT
from paycenter_server.services import notifications_payloads as payloads
from paycenter_server.services.channels_configured import ConfiguredChannel
from paycenter_server.services.context import Context
from paycenter_server.services.gathering import Gathering
from paycenter_server.storage import payments_direct as direct_rows
from paycenter_server.storage.database import LockTimeout, WriteConnection, key_of
from paycenter_server.storage.payments_direct import DirectBooking


class DirectPayments:
    """Books payments in which nothing is odd, those that are reported at the same time by one statement."""

    def __init__(self, context: Context) -> None:
        self._context = context
        # A booking is most of its statement's cost, so that waiting for more of them saves nothing.
        self._gathering = Gathering(context, self._book, seconds=0, to_completion=True)

    async def book(self, configured: ConfiguredChannel, payment: Payment, cause: Cause) -> bool:
        """Book a payment of an open attempt. False, with nothing changed, if anything differs: then `Payments.book` decides.

        `configured`: the binding that has verified the message. If the caller is cancelled, it is booked all the same.
        """
        booking = self.booking(configured, payment, cause)
        if booking is None:
            return False
        try:
            return await self._gathering.add(booking)
        except LockTimeout:
            return False

    async def _book(self, connection: WriteConnection, bookings: Sequence[DirectBooking]) -> list[bool]:
        booked = await direct_rows.book(connection, bookings)
        if any(booked):
            self._context.wake_up.send()
        return booked

    def booking(self, configured: ConfiguredChannel, payment: Payment, cause: Cause) -> DirectBooking | None:
        """What the statement is given; None if the facts alone show that the attempt must be read."""
        attempt, now = decode_bytes(Prefix.ATTEMPT, payment.out_trade_no), self._context.now()
        if attempt is None or payment.amount is None or not 0 < payment.amount <= MAX_AMOUNT or not payment.currency:
            return None
        if payment.refunded is not Refunded.NOTHING or configured.differing_fact(payment.account, now):
            return None
        success_time, channel_order_no = payment.success_time or now, payment.channel_order_no[:64]
        return DirectBooking(
            attempt_id=key_of(attempt),
            account_id=configured.account.id,
            binding_id=configured.binding.id,
            amount=payment.amount,
            currency=payment.currency,
            channel_order_no=channel_order_no,
            channel_user_id=payment.channel_user_id[:255],
            success_time=success_time,
            fee_rate_ppm=configured.channel.fee_rate_ppm,
            notification_id=self._context.new_key(now),
            event=payloads.ORDER_SUCCESS,
            payload=payloads.order_paid_with_gaps(
                now,
                amount=payment.amount,
                out_trade_no=payment.out_trade_no,
                channel_order_no=channel_order_no,
                success_time=success_time,
            ),
            at=now,
            cause=cause,
        )
