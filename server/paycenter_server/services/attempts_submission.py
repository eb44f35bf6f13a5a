"""Submitting an order to a channel: commit the intent, call the channel, commit the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

import structlog

from paycenter_server.channels.protocol import PayOutcome, PayRequest, PayStatus, QueryOutcome, QueryStatus
from paycenter_server.domain.attempts import PayAttempt, new_attempt
from paycenter_server.domain.errors import invalid
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.schedule import ORDER_SYNC_DELAYS, due_after
from paycenter_server.domain.states import AttemptState, OrderState
from paycenter_server.domain.validation import Check
from paycenter_server.services import errors
from paycenter_server.services.attempts import BEING_CANCELLED, FACTS_MISMATCH, AttemptSettlement, SettleResult
from paycenter_server.services.channels_gateway import ChannelGateway, ConfiguredChannel
from paycenter_server.services.context import Context, deadline
from paycenter_server.services.events import cause
from paycenter_server.services.identity import Caller, Identity
from paycenter_server.services.orders import Orders
from paycenter_server.services.payments import BeingCancelledError, FactsMismatchError, Payments
from paycenter_server.storage import accounts as account_rows
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import cases as case_rows
from paycenter_server.storage import channels as channel_rows
from paycenter_server.storage import orders as order_rows
from paycenter_server.storage.database import Connection

log = structlog.get_logger(__name__)

_MAX_EXTRAS = 16
# Alipay, "Bar code payment": query every 3 to 6 s. The second is the longest time that a call waits for the payer.
_BAR_STEP = 3.0
_BAR_WAIT = 30.0


@dataclass(frozen=True, slots=True)
class NewSubmission:
    """The values of a submit request."""

    order_number: str
    channel_code: str
    extras: Mapping[str, str]
    display_mode: str
    return_url: str
    user_ip: str


@dataclass(frozen=True, slots=True)
class _Draft:
    """An attempt that is not stored yet, with the request that makes it payable."""

    attempt: PayAttempt
    request: PayRequest


class Submission:
    """Submits orders. An order has one open attempt, as far as the channels allow it."""

    def __init__(
        self,
        context: Context,
        identity: Identity,
        orders: Orders,
        gateway: ChannelGateway,
        payments: Payments,
        attempts: AttemptSettlement,
    ) -> None:
        self._context = context
        self._identity = identity
        self._orders = orders
        self._gateway = gateway
        self._payments = payments
        self._attempts = attempts

    async def submit(self, caller: Caller, new: NewSubmission) -> tuple[PayOrder, PayAttempt]:
        """Submit an order. Returns its current state, and the attempt with the display content."""
        order = await self._orders.load(caller, new.order_number)
        async with self._context.database.connection() as connection:
            await self._payable(connection, order)
        await self._identity.app_of(caller, order.app_key, enabled=True, cached=True)
        configured = await self._channel(order.app_id, new.channel_code)
        self._check(new, configured)
        attempt = await self._context.run_to_completion(self._run(order, configured, new))
        return await self._orders.load(caller, new.order_number), attempt

    async def _payable(self, connection: Connection, order: PayOrder) -> None:
        """ORDER_UNDER_REVIEW if money of the order is held: another payment, or a new order, would make the payer pay twice."""
        if (held := await case_rows.held_case(connection, order.id)) is not None:
            raise errors.order_under_review(order, held)
        if order.state in (OrderState.SUCCESS, OrderState.REFUND):
            raise errors.order_paid()
        now = self._context.now()
        if order.state is OrderState.CLOSED or order.expire_time <= now:
            raise errors.order_ended(order, now)

    async def _channel(self, app_id: UUID, code: str) -> ConfiguredChannel:
        async with self._context.database.connection() as connection:
            channel = await channel_rows.get_channel_by_code(connection, app_id, code)
        if channel is None:
            raise errors.channel_code_not_found(code)
        if not channel.enabled:
            raise errors.channel_disabled(code)
        configured = await self._gateway.bound(channel.binding_id)
        if not configured.account.enabled:
            raise errors.account_disabled(configured.account)
        if configured.spec.development_only and self._context.options.production:
            raise errors.channel_not_allowed(code)
        return configured

    def _check(self, new: NewSubmission, configured: ConfiguredChannel) -> None:
        check = Check()
        modes = configured.spec.display_modes
        if new.display_mode and new.display_mode not in modes:
            offered = ", ".join(mode for mode in modes if mode) or "none"
            check.fail("display_mode", f"the channel {new.channel_code!r} offers: {offered}")
        for required in configured.spec.required_extras:
            if not any(new.extras.get(name) for name in required.names):
                wanted = " or ".join(required.names)
                check.fail(f"channel_extras.{required.names[0]}", f"the channel {new.channel_code!r} needs {wanted}")
        if len(new.extras) > _MAX_EXTRAS:
            check.fail("channel_extras", f"has {len(new.extras)} entries; the most is {_MAX_EXTRAS}")
        for name, value in new.extras.items():
            check.text(f"channel_extras.{name}"[:100], value, 512)
            check.text("channel_extras", name, 64, minimum=1)
        check.url("return_url", new.return_url)
        if new.user_ip:
            check.ip("user_ip", new.user_ip)
        check.done()

    async def _run(self, order: PayOrder, configured: ConfiguredChannel, new: NewSubmission) -> PayAttempt:
        draft = self._draft(order, configured, new)
        others = await self._other_attempts(order, configured, new)
        tolerated = await self._close(others, configured)
        if others:  # the queries took time: the life of the attempt begins now
            draft = self._draft(order, configured, new)
        attempt, fresh = await self._intent(order, configured, new, draft, tolerated)
        request = draft.request if fresh else self._request_of(order, configured, attempt)
        if configured.spec.attempt_life is not None:
            await self._bar_code(configured, attempt, request, fresh=fresh)
        elif fresh or not self._showable(configured, attempt):
            await self._call(configured, attempt, request, fresh=fresh)
        async with self._context.database.connection() as connection:
            return await attempt_rows.get_attempt(connection, attempt.id) or attempt

    def _showable(self, configured: ConfiguredChannel, attempt: PayAttempt) -> bool:
        """Whether the stored display content is still valid, so that the channel need not be called."""
        life = timedelta(minutes=configured.spec.content_minutes)
        fresh = attempt.state is AttemptState.WAITING and self._context.now() - attempt.update_time < life
        return bool(attempt.display_content) and fresh

    async def _bar_code(self, configured: ConfiguredChannel, attempt: PayAttempt, request: PayRequest, *, fresh: bool) -> None:
        """Send a bar code payment and wait until it is decided, the deadline is near, or the longest waiting time has passed.

        It is sent once. The caller may repeat the call, which then only queries. The sync job queries too, and cancels the payment
        at the channel at the expiry of the attempt.
        """
        if fresh:
            await self._call(configured, attempt, request, fresh=True)
        loop = asyncio.get_running_loop()
        end = loop.time() + _BAR_WAIT
        if (caller_ends := deadline.get()) is not None:
            end = min(end, caller_ends - _BAR_STEP)
        ask = not fresh
        while True:
            async with self._context.database.connection() as connection:
                current = await attempt_rows.get_attempt(connection, attempt.id)
            if current is None or current.state not in (AttemptState.WAITING, AttemptState.UNKNOWN):
                return
            last = loop.time() + _BAR_STEP > end
            if ask or (last and current.state is AttemptState.UNKNOWN):
                answer = await self._ask(current)
                if answer.status is QueryStatus.PAID:
                    return
                if last and current.state is AttemptState.UNKNOWN:
                    raise errors.channel_unclear(attempt.channel_code)
            if last:
                return
            await asyncio.sleep(_BAR_STEP)
            ask = True

    def _same(self, order: PayOrder, attempt: PayAttempt, configured: ConfiguredChannel, new: NewSubmission) -> bool:
        """Whether an open attempt has the content of this submit, so that its number is used again."""
        return (
            attempt.binding_id == configured.binding.id
            # After the expiry that the channel allows another attempt follows. A bar code attempt is only queried.
            and (attempt.expire_time > self._context.now() or configured.spec.attempt_life is not None)
            and attempt.amount == order.amount
            and dict(attempt.channel_extras) == dict(new.extras)
            and attempt.wanted_mode == new.display_mode
            and attempt.return_url == (new.return_url or order.return_url)
        )

    async def _other_attempts(self, order: PayOrder, configured: ConfiguredChannel, new: NewSubmission) -> list[PayAttempt]:
        """The open attempts with other content than this submit."""
        async with self._context.database.connection() as connection:
            attempts = await attempt_rows.open_attempts(connection, order.id)
        return [attempt for attempt in attempts if not self._same(order, attempt, configured, new)]

    async def _close(self, others: Sequence[PayAttempt], configured: ConfiguredChannel) -> set[UUID]:
        """Query and close attempts at their channels. Returns the ids of those that could not be closed.

        An attempt that stays payable over another account does not prevent the submit, because a second payment becomes surplus
        money.
        """
        tolerated = set()
        here = (configured.channel.id, configured.account.id)
        for attempt in others:
            settled = await self._attempts.settle_or_close(attempt)
            if settled is SettleResult.PAID:
                raise await self._attempts.found_paid(attempt.order_id)
            if settled in (SettleResult.UNCLEAR, SettleResult.TOO_SOON) and here == (attempt.channel_id, attempt.account_id):
                raise await self._attempts.pending(attempt)
            if settled is not SettleResult.CLOSED:
                tolerated.add(attempt.id)
        return tolerated

    def _draft(self, order: PayOrder, configured: ConfiguredChannel, new: NewSubmission) -> _Draft:
        """Build attempt and request. INVALID_FIELD names every field that the channel would refuse."""
        now, spec = self._context.now(), configured.spec
        lives = [life for life in (spec.attempt_life, spec.longest_life) if life is not None]
        attempt = new_attempt(
            self._context.new_key(now), now, order, channel_id=configured.channel.id,
            account_id=configured.account.id, binding_id=configured.binding.id, channel_code=configured.channel.code,
            wanted_mode=new.display_mode, channel_extras=new.extras, return_url=new.return_url or order.return_url,
            user_ip=new.user_ip or order.user_ip,
            expire_time=min([order.expire_time, *((now + life).replace(microsecond=0) for life in lives)]),
            next_check_time=due_after(now, ORDER_SYNC_DELAYS, 1), fee_rate_ppm=configured.channel.fee_rate_ppm,
        )  # fmt: skip
        request = self._request_of(order, configured, attempt)
        if wrong := spec.limits(request):
            raise invalid(list(wrong))
        return _Draft(attempt, request)

    async def _intent(
        self, order: PayOrder, configured: ConfiguredChannel, new: NewSubmission, draft: _Draft, tolerated: set[UUID]
    ) -> tuple[PayAttempt, bool]:
        """Under the lock of the order: the open attempt with the same content, or the draft, which is stored (True)."""
        async with self._context.database.transaction() as connection:
            current = await order_rows.lock_order(connection, order.id)
            if current is None:
                raise errors.order_not_found()
            await self._payable(connection, current)
            if current.amount != order.amount:
                raise errors.order_changed()
            for attempt in await attempt_rows.open_attempts(connection, order.id):
                if self._same(current, attempt, configured, new):
                    return attempt, False
                if attempt.id not in tolerated:
                    raise errors.order_changed()
            if not await account_rows.hold_enabled(connection, configured.account.id):
                raise errors.account_disabled(configured.account)
            await attempt_rows.insert_attempt(connection, draft.attempt, cause())
            return draft.attempt, True

    def _request_of(self, order: PayOrder, configured: ConfiguredChannel, attempt: PayAttempt) -> PayRequest:
        callback_url, _ = self._gateway.callback_urls(configured.channel)
        return PayRequest(
            out_trade_no=attempt.out_trade_no,
            subject=order.subject,
            body=order.body,
            amount=attempt.amount,
            currency=attempt.currency,
            expire_time=attempt.expire_time,
            callback_url=callback_url,
            return_url=attempt.return_url,
            user_ip=attempt.user_ip,
            extras=attempt.channel_extras,
            display_mode=attempt.wanted_mode or configured.spec.display_modes[0],
        )

    async def _call(self, configured: ConfiguredChannel, attempt: PayAttempt, request: PayRequest, *, fresh: bool) -> None:
        outcome = await self._gateway.perform(configured, lambda codec, context: codec.pay(request, context))
        if outcome.not_sent:
            if fresh:
                await self._close_unsent(attempt, outcome)
            raise errors.channel_unreachable(attempt.channel_code, outcome.error_message)
        await self._store(configured, attempt, outcome)

    async def _close_unsent(self, attempt: PayAttempt, outcome: PayOutcome) -> None:
        """Close an attempt whose request was not sent, unless a parallel call with the same content has got display content."""
        async with self._context.database.connection() as connection:
            await attempt_rows.close_attempt(
                connection, attempt.id, self._context.now(), cause(outcome.call), code=outcome.error_code,
                message=outcome.error_message, next_look=None, unshown=True,
            )  # fmt: skip

    async def _store(self, configured: ConfiguredChannel, attempt: PayAttempt, outcome: PayOutcome) -> None:
        now = self._context.now()
        next_check = due_after(now, ORDER_SYNC_DELAYS, 0)
        if outcome.status is PayStatus.PAID and outcome.payment is not None:
            try:
                await self._payments.book(configured, outcome.payment, cause(outcome.call))
            except BeingCancelledError as error:
                # Paid while it was being cancelled: only queries from now on are valid, so the attempt is queried soon.
                await self._unclear(attempt, BEING_CANCELLED, str(error), outcome)
                await self._attempts.look_again(attempt)
                raise errors.channel_unclear(attempt.channel_code) from error
            except FactsMismatchError as error:
                log.error("pay_facts_mismatch", out_trade_no=attempt.out_trade_no, why=str(error))
                await self._unclear(attempt, FACTS_MISMATCH, str(error), outcome)
                raise errors.channel_unclear(attempt.channel_code) from error
        elif outcome.status is PayStatus.WAITING:
            async with self._context.database.connection() as connection:
                shown = await attempt_rows.answered(
                    connection, attempt.id, outcome.display_mode, outcome.display_content, now, next_check, cause(outcome.call)
                )
            if not shown:
                await self._accepted_too_late(attempt)
        elif outcome.status is PayStatus.REFUSED:
            async with self._context.database.connection() as connection:
                closed = await attempt_rows.close_attempt(
                    connection, attempt.id, now, cause(outcome.call), code=outcome.error_code, message=outcome.error_message,
                    next_look=self._attempts.first_look(), unshown=True,
                )  # fmt: skip
                current = await attempt_rows.get_attempt(connection, attempt.id)
            if not closed and current is not None and self._showable(configured, current):
                return  # a parallel call with the same content was accepted, and its content is shown
            if current is not None and current.state is AttemptState.SUCCESS:
                return
            if not closed and current is not None and current.state in (AttemptState.WAITING, AttemptState.UNKNOWN):
                await self._refused_again(current, outcome)
                return
            raise errors.channel_refused(attempt.channel_code, outcome.error_code, outcome.error_message)
        else:
            unclear = await self._unclear(attempt, outcome.error_code, outcome.error_message, outcome)
            # A bar code payment is queried by the waiting call after some seconds, not at once.
            if configured.spec.attempt_life is None and (await self._ask(unclear)).status is not QueryStatus.PAID:
                raise errors.channel_unclear(attempt.channel_code)

    async def _accepted_too_late(self, attempt: PayAttempt) -> None:
        """The attempt is payable at the channel, but was paid or closed here meanwhile, for example by a parallel call."""
        async with self._context.database.connection() as connection:
            current = await attempt_rows.get_attempt(connection, attempt.id)
        if current is None or current.state is not AttemptState.CLOSED:
            return
        await self._attempts.look_again(current)
        await self._attempts.settle_or_close(current)
        raise errors.order_changed()

    async def _refused_again(self, attempt: PayAttempt, outcome: PayOutcome) -> None:
        """A repeated request was refused, but the payer has seen the first one and may have paid it, so the channel is queried."""
        settled = await self._attempts.settle_or_close(attempt)
        if settled is SettleResult.PAID:
            return
        if settled is SettleResult.STILL_PAYABLE:
            await self._attempts.give_up_on(attempt)
        raise errors.channel_refused(attempt.channel_code, outcome.error_code, outcome.error_message)

    async def _unclear(self, attempt: PayAttempt, code: str, message: str, outcome: PayOutcome) -> PayAttempt:
        """Store an unclear answer. Returns the attempt with its error."""
        now = self._context.now()
        async with self._context.database.connection() as connection:
            next_check = due_after(now, ORDER_SYNC_DELAYS, 0)
            await attempt_rows.unclear(connection, attempt.id, code, message, now, next_check, cause(outcome.call))
        return replace(attempt, channel_error_code=code, channel_error_message=message)

    async def _ask(self, attempt: PayAttempt) -> QueryOutcome:
        """Query the same number after an unclear answer (rule 2). CHANNEL_REFUSED, with the first error of the channel, if the
        attempt is closed there."""
        answer = await self._attempts.query(attempt)
        if answer.status is QueryStatus.CLOSED:
            code, message = attempt.channel_error_code or answer.error_code, attempt.channel_error_message or answer.error_message
            async with self._context.database.connection() as connection:
                await attempt_rows.close_attempt(
                    connection, attempt.id, self._context.now(), cause(), code=code, message=message,
                    next_look=self._attempts.first_look(),
                )  # fmt: skip
            raise errors.channel_refused(attempt.channel_code, code, message)
        return answer
