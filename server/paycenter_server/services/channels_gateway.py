"""The channel gateway: it executes the operations of configured channels."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar, cast
from uuid import UUID

import structlog

from paycenter_server.channels.protocol import (
    AnswerError,
    Call,
    Callback,
    CallbackError,
    CallbackRequest,
    CloseOutcome,
    Codec,
    HoldsKeys,
    HttpResponse,
    PayOutcome,
    QueryOutcome,
    RefundOutcome,
    RequestContext,
    UnknownKeyError,
)
from paycenter_server.channels.records import call_record
from paycenter_server.channels.transport import NotSentError, TransportUnclearError
from paycenter_server.domain.channels import PayChannel
from paycenter_server.services.accounts_places import AccountPlaces, count_call
from paycenter_server.services.channels_configured import ConfiguredChannel, ConfiguredChannels
from paycenter_server.services.context import Context, deadline
from paycenter_server.services.limits import waiting_outside
from paycenter_server.telemetry import Sampled

T = TypeVar("T")
Read = Callback | CallbackError | UnknownKeyError | None
"""A callback that was read, or why it could not be; None if it was not tried."""
log = structlog.get_logger(__name__)

NOT_SENT = "NOT_SENT"
MOST_WAITING = 512
"""Calls of an account that wait for an answer at the same time, in a process. Each has a connection, and no place among the calls
of the server (`services/limits.py`): a channel that hangs must not use up the connections of the process."""
_LOGGED_A_SECOND = 10
# Anybody can send a callback with an unknown serial; an answer to our own request comes from the channel.
_PAUSE_AFTER_CALLBACK = timedelta(minutes=5)
_PAUSE_AFTER_ANSWER = timedelta(seconds=20)
_logged = Sampled("channel_calls_waiting_not_logged", _LOGGED_A_SECOND, 1)


class ChannelGateway:
    """Calls channels and reads their answers and callbacks. `channels`: the configured channels, which all calls are given."""

    def __init__(self, context: Context, places: AccountPlaces) -> None:
        self._context = context
        self._places = places
        self._waiting: Counter[UUID] = Counter()
        self.channels = ConfiguredChannels(context)

    async def perform(
        self,
        configured: ConfiguredChannel,
        operation: Callable[[Codec, RequestContext], Call[T] | T],
        *,
        not_after: datetime | None = None,
    ) -> T:
        """Build and sign a request, send it, and read the answer. After a failure the outcome is unclear.

        `not_after`: the request is not sent after this time.
        """
        codec = configured.codec
        await self._refresh_keys(configured)
        context = self._context.new_request_context()
        if configured.spec.signed:
            made = await self._context.signed(lambda: operation(codec, context))
        else:
            made = operation(codec, context)
        if not isinstance(made, Call):
            return made
        if not_after is not None and self._context.now() > not_after:
            log.warning("channel_too_late_to_send", channel=configured.channel.number, api=made.api)
            unsent: T = _not_sent(made, "it was not sent in time")
            return unsent
        return await self._send(configured, made, remake=lambda earlier: operation(earlier, context))

    async def _send(
        self,
        configured: ConfiguredChannel,
        call: Call[T],
        *,
        remake: Callable[[Codec], Call[T] | T] | None = None,
        fetching: bool = False,
    ) -> T:
        """Send, and read the answer. If an unknown key has signed it, the keys are fetched and it is read again. The outcome has
        the record of the call.

        `remake`: builds the call with another codec, to read the answer with earlier keys.
        """
        started, seconds, account = asyncio.get_running_loop().time(), self._seconds(), configured.account.id
        if self._waiting[account] >= MOST_WAITING:
            if _logged.permits():
                log.warning("channel_calls_waiting", **_names(configured, call), account=str(account), most=MOST_WAITING)
            why = f"{MOST_WAITING} calls of the account wait for an answer already"
            return _recorded(_not_sent(call, why), call, 0, f"not sent: {why}", 0)
        count_call()
        self._waiting[account] += 1
        try:
            with waiting_outside():
                response = await self._context.transport.send(call.request, seconds)
        except NotSentError as error:
            self._places.unanswered(configured.account.id)
            log.warning("channel_not_reached", **_names(configured, call), why=str(error))
            return _recorded(_not_sent(call, str(error)), call, 0, f"not sent: {error}", _milliseconds(started))
        except TransportUnclearError as error:
            if seconds >= self._context.options.channel_timeout:
                # A call with less time, because its caller has a deadline, says little about the channel.
                self._places.unanswered(configured.account.id)
            log.warning("channel_unclear", **_names(configured, call), why=str(error))
            return _recorded(call.unclear(str(error)), call, 0, str(error), _milliseconds(started))
        finally:
            self._waiting[account] -= 1
        milliseconds = _milliseconds(started)
        outcome = await self._read(configured, call, response, milliseconds, remake=remake, fetching=fetching)
        return _recorded(outcome, call, response.status, response.body, milliseconds)

    async def _read(
        self,
        configured: ConfiguredChannel,
        call: Call[T],
        response: HttpResponse,
        milliseconds: int,
        *,
        remake: Callable[[Codec], Call[T] | T] | None,
        fetching: bool,
    ) -> T:
        try:
            outcome = call.parse(response, self._context.now())
        except UnknownKeyError as error:
            why = str(error)
            if not fetching and await self.fetch_keys(configured, error.serial):
                try:
                    return self._log_outcome(
                        configured, call, call.parse(response, self._context.now()), response.status, milliseconds
                    )
                except (AnswerError, UnknownKeyError) as again:
                    why = str(again)
        except AnswerError as error:
            why = str(error)
        else:
            return self._log_outcome(configured, call, outcome, response.status, milliseconds)
        for earlier in await self._read_with_earlier_keys(configured, response, remake):
            return self._log_outcome(configured, call, earlier, response.status, milliseconds)
        self._places.unanswered(configured.account.id)
        log.warning("channel_answer_refused", **_names(configured, call), why=why, status=response.status, ms=milliseconds)
        return call.unclear(why)

    async def _read_with_earlier_keys(
        self, configured: ConfiguredChannel, response: HttpResponse, remake: Callable[[Codec], Call[T] | T] | None
    ) -> list[T]:
        """The outcome of an answer that the channel has signed with the key before a change, which it may still use."""
        for until, codec in configured.earlier if remake is not None else []:
            if remake is not None and self._context.now() < until:
                call = await self._context.in_thread(partial(remake, codec))
                with suppress(AnswerError, UnknownKeyError):
                    return [call.parse(response, self._context.now())] if isinstance(call, Call) else []
        return []

    def _log_outcome(self, configured: ConfiguredChannel, call: Call[T], outcome: T, status: int, milliseconds: int) -> T:
        """Log an answer that could be read, and report it to the breaker of the account.

        A refusal of our configuration (key, clock) is logged as an error, because repeating does not help. An answer without an
        error is at debug: the ledger has the call, and rendering the line takes a twentieth of its processor time.
        """
        if status >= 500:
            self._places.unanswered(configured.account.id)
        else:
            self._places.answered(configured.account.id, milliseconds / 1000)
        code, values = getattr(outcome, "error_code", ""), {**_names(configured, call), "status": status, "ms": milliseconds}
        if code in configured.spec.alarm_codes:
            log.error("channel_rejects_configuration", **values, code=code, message=getattr(outcome, "error_message", ""))
        else:
            write = log.info if code else log.debug
            write("channel_answered", **values, outcome=str(getattr(outcome, "status", outcome)), code=code)
        return outcome

    def _seconds(self) -> float:
        limit = self._context.options.channel_timeout
        end = deadline.get()
        if end is None:
            return limit
        return max(0.5, min(limit, end - asyncio.get_running_loop().time() - 0.3))

    async def fetch_keys(self, configured: ConfiguredChannel, serial: str | None, pause: timedelta = _PAUSE_AFTER_ANSWER) -> bool:
        """Fetch the channel's keys, at most once per `pause`, which is longer for callbacks. Returns whether there are new ones.

        Calls that need keys during a fetch wait for it. A cancelled caller does not end the fetch.
        """
        task = self._start_fetch(configured, serial, pause)
        if task is None:
            return False
        await asyncio.wait({task}, timeout=self._seconds())
        return task.done() and not task.cancelled() and task.exception() is None and task.result()

    def _start_fetch(self, configured: ConfiguredChannel, serial: str | None, pause: timedelta) -> asyncio.Task[bool] | None:
        """The running fetch, or a new one; None within the pause."""
        if configured.fetching is not None and not configured.fetching.done():
            return configured.fetching
        now = self._context.now()
        last = configured.key_fetches.get(pause)
        if last is not None and now - last < pause:
            return None
        configured.key_fetches[pause] = now
        configured.fetching = asyncio.create_task(self._fetch(configured, serial))
        configured.fetching.add_done_callback(_report)
        return configured.fetching

    async def _fetch(self, configured: ConfiguredChannel, serial: str | None) -> bool:
        deadline.set(None)  # the deadline of the caller that started it does not apply, because others wait too
        context = self._context.new_request_context()
        call = await self._context.in_thread(lambda: configured.codec.fetch_keys(serial, context))
        return call is not None and await self._send(configured, call, fetching=True)

    async def _refresh_keys(self, configured: ConfiguredChannel, pause: timedelta = _PAUSE_AFTER_ANSWER) -> None:
        """Fetch the keys if they are due. Without usable keys the call waits; otherwise the fetch runs in the background."""
        codec, now = configured.codec, self._context.now()
        if not codec.keys_due(now):
            return
        if isinstance(codec, HoldsKeys) and codec.has_keys(now):
            self._start_fetch(configured, None, pause)
        else:
            await self.fetch_keys(configured, None, pause)

    def read_callback(self, configured: ConfiguredChannel, request: CallbackRequest) -> Read:
        """Verify and read a callback with the present keys only, without a wait. None if they are to be fetched before."""
        now = self._context.now()
        return None if configured.codec.keys_due(now) else _read(configured, request, now)

    async def parse_callback(
        self, configured: ConfiguredChannel, request: CallbackRequest, *, fetch: bool = True, read: Read = None
    ) -> Callback:
        """Verify and read a callback, with the present keys or with earlier ones. CallbackError if it cannot be verified.

        `fetch`: fetch the channel's keys if the callback names an unknown one; otherwise UnknownKeyError. `read`: what
        `read_callback` has returned, None if it was not called.
        """
        now = self._context.now()
        await self._refresh_keys(configured, _PAUSE_AFTER_CALLBACK)
        outcome = read or _read(configured, request, now)
        if isinstance(outcome, Callback):
            return outcome
        for until, codec in configured.earlier:
            if now < until:
                with suppress(CallbackError, UnknownKeyError):
                    return codec.parse_callback(request, now)
        if isinstance(outcome, UnknownKeyError):
            if not fetch:
                raise outcome
            if await self.fetch_keys(configured, outcome.serial, _PAUSE_AFTER_CALLBACK):
                with suppress(UnknownKeyError):
                    return configured.codec.parse_callback(request, now)
        raise CallbackError(str(outcome)) from outcome

    async def verify_callback(
        self,
        candidates: Sequence[ConfiguredChannel],
        request: CallbackRequest,
        is_its: Callable[[ConfiguredChannel, Callback], bool],
        read: Read = None,
    ) -> tuple[ConfiguredChannel, Callback]:
        """Find the account that a callback is of, and read it. CallbackError if none of them has verified it.

        `is_its`: whether the message names this account. The keys of a channel may sign for several of its merchants, so the first
        account that verifies the bytes need not be the one. If it is none of them, the first that verified it is returned. `read`:
        what `read_callback` has returned for the first of them, None if it was not called.
        """
        refusals: list[str] = []
        unknown: list[ConfiguredChannel] = []
        verified: list[tuple[ConfiguredChannel, Callback]] = []
        # Keys are fetched only after no account has verified it with the keys that are known.
        for fetch, configured in itertools.chain(((False, one) for one in candidates), ((True, one) for one in unknown)):
            if fetch and verified:
                break
            try:
                known = read if configured is candidates[0] and not fetch else None
                callback = await self.parse_callback(configured, request, fetch=fetch, read=known)
            except UnknownKeyError:
                unknown.append(configured)
            except CallbackError as error:
                refusals.append(str(error))
            else:
                if is_its(configured, callback):
                    return configured, callback
                verified.append((configured, callback))
        if verified:
            return verified[0]
        raise CallbackError("; ".join(dict.fromkeys(refusals)))

    def callback_urls(self, channel: PayChannel) -> tuple[str, str]:
        """The callback URLs of a channel: for payments, and for refunds."""
        options = self._context.options
        return f"{options.order_callback_url}/{channel.number}", f"{options.refund_callback_url}/{channel.number}"


def _read(configured: ConfiguredChannel, request: CallbackRequest, now: datetime) -> Callback | CallbackError | UnknownKeyError:
    try:
        return configured.codec.parse_callback(request, now)
    except (CallbackError, UnknownKeyError) as error:
        return error


def _names(configured: ConfiguredChannel, call: Call[T]) -> dict[str, str]:
    """What every log line about a call names."""
    return {"channel": configured.channel.number, "api": call.api}


def _not_sent(call: Call[T], why: str) -> T:
    """The outcome of a request that was not sent."""
    outcome = call.unclear(f"not sent: {why}")
    if isinstance(outcome, PayOutcome | QueryOutcome | CloseOutcome | RefundOutcome):
        return cast(T, replace(outcome, error_code=NOT_SENT, not_sent=True))
    return outcome


def _milliseconds(started: float) -> int:
    return int((asyncio.get_running_loop().time() - started) * 1000)


def _recorded(outcome: T, call: Call[T], status: int, answer: bytes | str, milliseconds: int) -> T:
    """The outcome with the record of its call. What is no outcome (fetched keys) has none."""
    if isinstance(outcome, PayOutcome | QueryOutcome | CloseOutcome | RefundOutcome):
        return cast(T, replace(outcome, call=call_record(call.api, call.request, status, answer, milliseconds)))
    return outcome


def _report(task: asyncio.Task[bool]) -> None:
    """Log the failure of a fetch, because no caller may be waiting for it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("channel_keys_failed", exc_info=error)
    elif not task.cancelled() and not task.result():
        log.warning("channel_keys_not_fetched")
