"""Callbacks of channels: verify the bytes, compare the facts, store them, and then acknowledge (rules 4 and 5)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from uuid import UUID

import structlog

from paycenter_server.channels.protocol import (
    Callback,
    CallbackError,
    CallbackRequest,
    CallbackResponse,
    Payment,
    QueryStatus,
    Refunded,
)
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.events import CALLBACK_REFUSED, CALLBACK_REPEATED, Actor, ActorKind, Cause, set_actor
from paycenter_server.domain.ids import NUMBER_LENGTH, Prefix, decode
from paycenter_server.services.attempts import AttemptSettlement
from paycenter_server.services.channels_configured import ConfiguredChannel
from paycenter_server.services.channels_gateway import ChannelGateway, Read
from paycenter_server.services.context import Context
from paycenter_server.services.events import callback_cause, with_verdict
from paycenter_server.services.payments import BeingCancelledError, Booked, FactsMismatchError, Known, Payments, compare_identity
from paycenter_server.services.payments_direct import DirectPayments
from paycenter_server.services.refunds_settlement import RefundSettlement
from paycenter_server.storage.database import retryable_error
from paycenter_server.telemetry import Sampled

log = structlog.get_logger(__name__)

NOT_FOUND = CallbackResponse(404, b"no such channel")
UNAVAILABLE = CallbackResponse(503, b"not stored, send again")


_LOGGED_A_SECOND = 100
"""Refused callbacks: anybody may send them, so the others are counted."""
_logged = Sampled("callback_refusals_not_logged", _LOGGED_A_SECOND, 1)


@lru_cache(maxsize=1024)  # the same few addresses again and again
def _channel_id(number: str) -> UUID | None:
    return decode(Prefix.CHANNEL, number)


class Callbacks:
    """Receives all callbacks. Payments of a disabled channel or account are booked too.

    The address names a channel. Every account that the channel has or had may have signed the message. It is booked through the
    binding of the attempt or refund that it names, if that is over the account that signed it.
    """

    def __init__(
        self,
        context: Context,
        gateway: ChannelGateway,
        payments: Payments,
        direct: DirectPayments,
        attempts: AttemptSettlement,
        refunds: RefundSettlement,
    ) -> None:
        self._context = context
        self._direct = direct
        self._gateway = gateway
        self._payments = payments
        self._attempts = attempts
        self._refunds = refunds

    async def receive(self, channel_number: str, request: CallbackRequest) -> CallbackResponse:
        """The answer in the channel's own form. If the callback is not stored, its status makes the channel send it again.

        Payments and refunds are distinguished by content and not by address, because channels mix them.
        """
        key = _channel_id(channel_number) if len(channel_number) == NUMBER_LENGTH else None
        if key is None:
            return NOT_FOUND
        try:
            candidates = await self._gateway.channels.all_of(key)  # each account that the channel has or had
        except PayCenterError as error:
            if error.reason is Reason.CHANNEL_NOT_FOUND:
                return NOT_FOUND
            raise
        configured = candidates[0]
        names = {"channel": channel_number, "code": configured.channel.code}
        set_actor(Actor(ActorKind.CALLBACK, channel_number))
        try:
            read = self._gateway.read_callback(configured, request)
            # It needs no task of its own: what is booked directly is booked although the request is cancelled.
            if isinstance(read, Callback) and await self._book_directly(configured, read, request):
                callback = read
            else:
                configured, callback = await self._context.run_to_completion(self._store(key, candidates, request, read))
        except CallbackError as error:
            if _logged.permits():
                log.warning("callback_refused", why=str(error), **names)
            return configured.codec.acknowledge(False, "the callback cannot be verified")
        except FactsMismatchError as error:
            log.error("callback_facts_mismatch", why=str(error), **names)
            return configured.codec.acknowledge(False, "the callback does not match our records")
        except Exception as error:
            if (known := retryable_error(error)) is not None:
                why = f"{type(error).__name__}: {error}"[:300]
                log.warning("callback_not_stored", reason=known.reason.value, why=why, **names)
            else:
                log.exception("callback_not_stored", **names)
            return configured.codec.acknowledge(False, "not stored, send again")
        return callback.answer or configured.codec.acknowledge(True, "")

    async def _store(
        self, channel_id: UUID, candidates: Sequence[ConfiguredChannel], request: CallbackRequest, read: Read
    ) -> tuple[ConfiguredChannel, Callback]:
        """Store what was not booked directly. `read`: by the first of the candidates."""
        try:
            signer, callback = await self._verified(candidates, request, read)
        except (CallbackError, FactsMismatchError):
            # Another process may have moved the channel to the account that signed the message.
            present = await self._gateway.channels.all_of(channel_id, again=True)
            if {one.binding.id for one in present} == {one.binding.id for one in candidates}:
                raise
            signer, callback = await self._verified(present, request, None)
        if callback is not read and await self._book_directly(signer, callback, request):
            return signer, callback
        configured, known = await self._owner(signer, callback)
        if configured is not signer:
            # The message came to the address of another channel. Its facts are read as the owner's codec reads them.
            callback = await self._gateway.parse_callback(configured, request)
        cause, payment, compare = callback_cause(request, callback), None, False
        if callback.payment is not None and callback.payment.status is QueryStatus.PAID:
            if callback.payment.payment is None:
                raise FactsMismatchError("the message names no payment")
            payment = callback.payment.payment
            booked = await self._book(configured, payment, cause, known)
            compare = booked is Booked.ALREADY and payment.refunded is not Refunded.NOTHING
            compare = compare and (callback.refund is None or payment.refunded_amount is not None)
        if callback.refund is not None:
            await self._refunds.receive_callback(configured, callback.refund, cause)
        if compare and payment is not None:
            await self._refunds.compare_refunded(payment, cause)
        return configured, callback

    async def _book_directly(self, signer: ConfiguredChannel, callback: Callback, request: CallbackRequest) -> bool:
        """Book a payment that is what it should be in one statement. False if the rows must be read to decide about the message.

        What is booked names the account: every fact of it is compared, and so those of the merchant.
        """
        outcome = callback.payment
        if outcome is None or outcome.payment is None or outcome.status is not QueryStatus.PAID or callback.refund is not None:
            return False
        booked = await self._direct.book(signer, outcome.payment, callback_cause(request, callback))
        if booked:
            log.debug("callback_stored", channel=signer.channel.number, result=Booked.BOOKED.value)
        return booked

    async def _verified(
        self, candidates: Sequence[ConfiguredChannel], request: CallbackRequest, read: Read
    ) -> tuple[ConfiguredChannel, Callback]:
        signer, callback = await self._gateway.verify_callback(candidates, request, self._names_merchant, read)
        self._compare_merchant(signer, callback)
        return signer, callback

    def _compare_merchant(self, signer: ConfiguredChannel, callback: Callback) -> None:
        """One key may sign for several merchants (Alipay's certificate), so the message must name the account that verified it."""
        now = self._context.now()
        if callback.payment is not None and callback.payment.payment is not None:
            compare_identity(signer, callback.payment.payment.account, now)
        if callback.refund is not None and callback.refund.facts is not None:
            compare_identity(signer, callback.refund.facts.account, now)

    def _names_merchant(self, signer: ConfiguredChannel, callback: Callback) -> bool:
        try:
            self._compare_merchant(signer, callback)
        except FactsMismatchError:
            return False
        return True

    async def _owner(self, signer: ConfiguredChannel, callback: Callback) -> tuple[ConfiguredChannel, Known | None]:
        """The binding of the attempt that the message is about, if that is over the same account, with the attempt and its order;
        otherwise the one that verified the message."""
        numbers = [callback.payment.payment.out_trade_no] if callback.payment and callback.payment.payment else []
        if callback.refund is not None and callback.refund.facts is not None:
            refund = await self._refunds.refund_of(callback.refund.facts.out_refund_no)
            numbers += [refund.out_trade_no] if refund else []
            numbers.append(callback.refund.facts.out_trade_no)
        for number in numbers:
            known = await self._payments.known(number)
            if known is not None and known.attempt.account_id == signer.account.id:
                return await self._gateway.channels.bound(known.attempt.binding_id), known
        return signer, None

    async def _note(self, out_trade_no: str, event: str, cause: Cause) -> None:
        """Note in the ledger a verified callback that changed nothing, if its number is that of an attempt."""
        attempt = await self._attempts.attempt_of(out_trade_no)
        if attempt is not None:
            await self._attempts.note(attempt, event, cause)

    async def _book(self, configured: ConfiguredChannel, payment: Payment, cause: Cause, known: Known | None) -> Booked | None:
        """What became of the payment; None if a query has decided about it."""
        try:
            booked = await self._payments.book(configured, payment, cause, known=known)
            log.info("callback_stored", channel=configured.channel.number, result=booked.value)
            if booked is Booked.ALREADY:
                await self._note(payment.out_trade_no, CALLBACK_REPEATED, cause)
            return booked
        except FactsMismatchError as error:
            await self._note(payment.out_trade_no, CALLBACK_REFUSED, with_verdict(cause, str(error)))
            raise
        except BeingCancelledError:
            # The message may be older than the cancellation, so only the answer to a new query is valid.
            outcome = await self._attempts.query_number(payment.out_trade_no)
            if outcome.status not in (QueryStatus.PAID, QueryStatus.CLOSED):
                raise
            log.info("callback_of_cancelled", channel=configured.channel.number, out_trade_no=payment.out_trade_no)
            return None
