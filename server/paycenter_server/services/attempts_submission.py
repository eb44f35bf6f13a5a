"""Submitting an order to a channel: commit the intent, call the channel, commit the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from paycenter_server.channels.protocol import PayRequest, QueryStatus
from paycenter_server.domain.attempts import MOST_ATTEMPTS, PayAttempt, new_attempt
from paycenter_server.domain.errors import invalid
from paycenter_server.domain.ids import Prefix, decode
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.schedule import ORDER_SYNC_DELAYS, due_after
from paycenter_server.domain.states import OPEN_ATTEMPT, AttemptState, OrderState
from paycenter_server.services import accounts_errors, channels_errors, orders_errors
from paycenter_server.services.attempts import AttemptSettlement, SettleResult
from paycenter_server.services.attempts_answers import Shown, SubmitAnswers
from paycenter_server.services.attempts_checks import NewSubmission, check_submission
from paycenter_server.services.attempts_statements import SubmitStatements
from paycenter_server.services.channels_configured import ConfiguredChannel
from paycenter_server.services.channels_gateway import ChannelGateway
from paycenter_server.services.context import Context, deadline
from paycenter_server.services.events import cause
from paycenter_server.services.gathering import WAITS_OF_CHANNEL_CALLS, Gathering
from paycenter_server.services.identity import Caller, Identity
from paycenter_server.services.limits import waiting_outside
from paycenter_server.services.orders import Orders
from paycenter_server.services.payments import Known, Payments
from paycenter_server.services.payments_direct import DirectPayments
from paycenter_server.storage import accounts as account_rows
from paycenter_server.storage import attempts as attempt_rows
from paycenter_server.storage import cases as case_rows
from paycenter_server.storage import orders as order_rows
from paycenter_server.storage.orders import Submittable

__all__ = ["NewSubmission", "Submission"]

# Alipay, "Bar code payment": query every 3 to 6 s. The second is the longest time that a call waits for the payer.
_BAR_STEP = 3.0
_BAR_WAIT = 30.0
# How often a submit stores its attempt while other calls change the order.
_TRIES = 3


@dataclass(frozen=True, slots=True)
class _Draft:
    """An attempt that is not stored yet, with the request that makes it payable."""

    attempt: PayAttempt
    request: PayRequest


@dataclass(frozen=True, slots=True)
class _Work:
    """A call to the channel. `fresh`: the attempt was stored by this submit."""

    configured: ConfiguredChannel
    known: Known
    request: PayRequest
    fresh: bool


def _open(seen: Submittable) -> list[PayAttempt]:
    """The attempts that may still be paid, oldest first."""
    return [attempt for attempt in seen.attempts if attempt.state in OPEN_ATTEMPT]


def _refuse_too_many(seen: Submittable) -> None:
    """TOO_MANY_ATTEMPTS if the order cannot have another attempt."""
    if len(seen.attempts) >= MOST_ATTEMPTS:
        raise orders_errors.too_many_attempts(seen.order)


class Submission:
    """Submits orders. An order has one open attempt, as far as the channels allow it."""

    def __init__(
        self,
        context: Context,
        identity: Identity,
        orders: Orders,
        gateway: ChannelGateway,
        payments: Payments,
        direct: DirectPayments,
        attempts: AttemptSettlement,
    ) -> None:
        self._context = context
        self._identity = identity
        self._orders = orders
        self._gateway = gateway
        self._attempts = attempts
        self._reads = Gathering(context, order_rows.read_to_submit, waits=WAITS_OF_CHANNEL_CALLS)
        self._statements = SubmitStatements(context)
        self._answers = SubmitAnswers(context, payments, direct, attempts, self._statements)

    async def submit(self, caller: Caller, new: NewSubmission) -> tuple[PayOrder, PayAttempt]:
        """Submit an order. Returns its current state, and the attempt with the display content."""
        seen = await self._read(decode(Prefix.ORDER, new.order_number))
        if not self._identity.owns(caller, seen.order.app_id):
            raise orders_errors.order_not_found()
        await self._payable(seen)
        await self._identity.app_of(caller, seen.order.app_key, enabled=True, cached=True)
        configured = await self._channel(seen.order.app_id, new.channel_code)
        check_submission(new, configured.spec)
        attempt, shown = await self._context.run_to_completion(self._run(seen, configured, new))
        if shown is not None:
            return shown
        order, attempts = await self._orders.read(caller, number=new.order_number)
        return order, next((one for one in attempts if one.id == attempt.id), attempt)

    async def _read(self, order_id: UUID | None) -> Submittable:
        """The order with its attempts and what holds its money, of one moment. ORDER_NOT_FOUND if there is none."""
        seen = await self._reads.add(order_id) if order_id else None
        if seen is None:
            raise orders_errors.order_not_found()
        return seen

    async def _payable(self, seen: Submittable) -> None:
        """ORDER_UNDER_REVIEW if money of the order is held: another payment, or a new order, would make the payer pay twice."""
        order = seen.order
        if seen.held is not None:
            async with self._context.database.connection() as connection:
                held = await case_rows.get_case(connection, seen.held)
            raise orders_errors.order_under_review(order, held) if held else orders_errors.order_changed()
        if order.state in (OrderState.SUCCESS, OrderState.REFUND):
            raise orders_errors.order_paid()
        now = self._context.now()
        if order.state is OrderState.CLOSED or order.expire_time <= now:
            raise orders_errors.order_ended(order, now)

    async def _channel(self, app_id: UUID, code: str) -> ConfiguredChannel:
        channel = await self._gateway.channels.of_code(app_id, code)
        if channel is None:
            raise channels_errors.channel_code_not_found(code)
        if not channel.enabled:
            raise channels_errors.channel_disabled(code)
        configured = await self._gateway.channels.bound(channel.binding_id)
        if not configured.account.enabled:
            raise accounts_errors.account_disabled(configured.account)
        if configured.spec.development_only and self._context.options.production:
            raise channels_errors.channel_not_allowed(code)
        return configured

    async def _run(self, seen: Submittable, configured: ConfiguredChannel, new: NewSubmission) -> tuple[PayAttempt, Shown]:
        """Make the order payable at the channel. The attempt as it was before the channel's answer, and what is shown."""
        order = seen.order
        draft = self._draft(order, configured, new)
        others = [attempt for attempt in _open(seen) if not self._same(order, attempt, configured, new)]
        if len(others) == len(_open(seen)):
            _refuse_too_many(seen)  # before an attempt that can be paid is closed for nothing
        tolerated = await self._close(others, configured)
        if others:  # the queries took time: the life of the attempt begins now
            seen = await self._read_again(order)
            draft = self._draft(order, configured, new)
        attempt, fresh = await self._intent(seen, configured, new, draft, tolerated)
        request = draft.request if fresh else self._request_of(order, configured, attempt)
        work = _Work(configured, Known(order, attempt), request, fresh)
        shown: Shown = None
        if configured.spec.attempt_life is not None:
            await self._bar_code(work)
        elif fresh or not self._answers.showable(configured, attempt):
            shown = await self._call(work)
        return attempt, shown

    async def _bar_code(self, work: _Work) -> None:
        """Send a bar code payment and wait until it is decided, the deadline is near, or the longest waiting time has passed.

        It is sent once. The caller may repeat the call, which then only queries. The sync job queries too, and cancels the payment
        at the channel at the expiry of the attempt.
        """
        attempt = work.known.attempt
        if work.fresh:
            await self._call(work)
        loop = asyncio.get_running_loop()
        end = loop.time() + _BAR_WAIT
        if (caller_ends := deadline.get()) is not None:
            end = min(end, caller_ends - _BAR_STEP)
        ask = not work.fresh
        while True:
            async with self._context.database.connection() as connection:
                current = await attempt_rows.get_attempt(connection, attempt.id)
            if current is None or current.state not in (AttemptState.WAITING, AttemptState.UNKNOWN):
                return
            last = loop.time() + _BAR_STEP > end
            if ask or (last and current.state is AttemptState.UNKNOWN):
                answer = await self._answers.ask(current)
                if answer.status is QueryStatus.PAID:
                    return
                if last and current.state is AttemptState.UNKNOWN:
                    raise channels_errors.channel_unclear(attempt.channel_code)
            if last:
                return
            with waiting_outside():
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
        self, seen: Submittable, configured: ConfiguredChannel, new: NewSubmission, draft: _Draft, tolerated: set[UUID]
    ) -> tuple[PayAttempt, bool]:
        """The open attempt with the same content, or the draft, which is stored (True).

        The statement that stores it compares the order with what was read. If it stores nothing, the order is read again.
        """
        for tries in range(_TRIES):
            for attempt in _open(seen):
                if self._same(seen.order, attempt, configured, new):
                    return attempt, False
                if attempt.id not in tolerated:
                    raise orders_errors.order_changed()
            # The statement stores nothing if the order has got another attempt since it was read.
            _refuse_too_many(seen)
            if tries:
                await self._refuse_disabled(configured)
            if await self._statements.insert(draft.attempt, seen.order, cause()):
                return draft.attempt, True
            seen = await self._read_again(seen.order)
        raise orders_errors.order_changed()

    async def _refuse_disabled(self, configured: ConfiguredChannel) -> None:
        async with self._context.database.connection() as connection:
            account = await account_rows.get_account(connection, configured.account.id)
        if account is None or not account.enabled:
            raise accounts_errors.account_disabled(configured.account)

    async def _read_again(self, order: PayOrder) -> Submittable:
        """The order as it is now. ORDER_CHANGED if it has another amount, and the errors of an order that cannot be paid."""
        seen = await self._read(order.id)
        await self._payable(seen)
        if seen.order.amount != order.amount:
            raise orders_errors.order_changed()
        return seen

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

    async def _call(self, work: _Work) -> Shown:
        outcome = await self._gateway.perform(work.configured, lambda codec, context: codec.pay(work.request, context))
        if outcome.not_sent:
            attempt = work.known.attempt
            if work.fresh:
                await self._answers.close_unsent(attempt, outcome)
            raise channels_errors.channel_unreachable(attempt.channel_code, outcome.error_message)
        return await self._answers.store(work.configured, work.known, outcome)
