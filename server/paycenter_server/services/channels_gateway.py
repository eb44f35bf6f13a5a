"""The channel gateway: it caches configured codecs and executes their operations."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
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
from paycenter_server.channels.specs import ChannelSpec
from paycenter_server.channels.transport import NotSentError, TransportUnclearError
from paycenter_server.domain.accounts import PayAccount
from paycenter_server.domain.channels import PayBinding, PayChannel
from paycenter_server.services import channels_errors
from paycenter_server.services.accounts_keys import Keys
from paycenter_server.services.accounts_places import AccountPlaces, count_call
from paycenter_server.services.channels_cache import ChannelCache
from paycenter_server.services.context import Context, deadline
from paycenter_server.services.limits import waiting_outside
from paycenter_server.storage import accounts as account_rows
from paycenter_server.storage import channels as channel_rows
from paycenter_server.storage.database import retryable_error

T = TypeVar("T")
log = structlog.get_logger(__name__)

NOT_SENT = "NOT_SENT"
_FRESH_SECONDS = 1.0
# Anybody can send a callback with an unknown serial; an answer to our own request comes from the channel.
_PAUSE_AFTER_CALLBACK = timedelta(minutes=5)
_PAUSE_AFTER_ANSWER = timedelta(seconds=20)


@dataclass
class ConfiguredChannel:
    """A channel over one account: the rows, the spec of its code, and the codec for this binding.

    `earlier`: codecs with the account's earlier keys, and until when they are valid. They only read callbacks and answers.
    """

    channel: PayChannel
    binding: PayBinding
    account: PayAccount
    spec: ChannelSpec
    codec: Codec
    loaded: float
    earlier: list[tuple[datetime, Codec]] = field(default_factory=list)
    key_fetches: dict[timedelta, datetime] = field(default_factory=dict)
    fetching: asyncio.Task[bool] | None = None

    def differing_fact(self, facts: Mapping[str, str], now: datetime, *, identity: bool = False) -> str:
        """The first fact of a message that is not that of this account; "" if it names the account.

        `identity`: only the merchant is compared. Facts that change with the keys (Alipay's seller_id) may also be those of earlier
        keys that are still valid.
        """
        codecs = [self.codec, *(codec for until, codec in self.earlier if now < until)]
        found = []
        for codec in codecs:
            wanted = self.spec.identity_facts(codec) if identity else codec.account
            found.append(next((name for name, ours in wanted.items() if facts.get(name) != ours), ""))
        return "" if "" in found else found[0]

    @property
    def current(self) -> bool:
        """Whether new payments of the channel are made over this account."""
        return self.channel.binding_id == self.binding.id


class ChannelGateway:
    """Codecs by binding. Rows are read again after a second. Keys are parsed again only if account or binding have changed."""

    def __init__(self, context: Context, places: AccountPlaces) -> None:
        self._context = context
        self._places = places
        self._keys = Keys(context)
        self._known: dict[UUID, ConfiguredChannel] = {}
        self._building: dict[UUID, asyncio.Lock] = {}
        self._rows = ChannelCache(context)

    async def get(self, channel_id: UUID) -> ConfiguredChannel:
        """The channel over its current account. CHANNEL_NOT_FOUND if there is none."""
        async with self._context.database.connection() as connection:
            channel = await channel_rows.get_channel(connection, channel_id)
        if channel is None:
            raise channels_errors.channel_not_found()
        return await self.bound(channel.binding_id)

    async def of_code(self, app_id: UUID, code: str) -> PayChannel | None:
        """The channel of an app as it was at most a second ago, enabled or not; None if there is none."""
        return await self._rows.channel(app_id, code)

    async def all_of(self, channel_id: UUID, *, again: bool = False) -> list[ConfiguredChannel]:
        """The channel over every account that it has or had and whose keys can be read, the current one first, as it was at most a
        second ago; with `again` as it is now. CHANNEL_NOT_FOUND if there is no channel."""
        bindings = await self._rows.bindings(channel_id, again=again)
        if not bindings:
            raise channels_errors.channel_not_found()
        usable, failure = [], None
        for binding_id in bindings:
            # One account whose keys cannot be read must not stop the callbacks of the others.
            try:
                usable.append(await self.bound(binding_id))
            except Exception as error:
                if retryable_error(error) is not None:
                    raise
                log.error("binding_unusable", channel_id=channel_id, binding_id=binding_id, why=f"{error}"[:300])
                failure = failure or error
        if not usable and failure is not None:
            raise failure
        return usable

    async def bound(self, binding_id: UUID) -> ConfiguredChannel:
        """The channel over the account of this binding, disabled or not, because its payments are settled. CHANNEL_NOT_FOUND if
        there is none."""
        now = asyncio.get_running_loop().time()
        known = self._known.get(binding_id)
        if known is not None and now - known.loaded < _FRESH_SECONDS:
            return known
        async with self._building.setdefault(binding_id, asyncio.Lock()):
            known = self._known.get(binding_id)
            if known is not None and now - known.loaded < _FRESH_SECONDS:
                return known
            async with self._context.database.connection() as connection:
                binding = await channel_rows.get_binding(connection, binding_id)
                channel = await channel_rows.get_channel(connection, binding.channel_id) if binding else None
                account = await account_rows.get_account(connection, binding.account_id) if binding else None
            if binding is None or channel is None or account is None:
                self._known.pop(binding_id, None)
                raise channels_errors.channel_not_found()
            if known is not None and (known.account.version, known.binding.version) == (account.version, binding.version):
                known.loaded, known.channel = now, channel
                return known
            spec = self._context.registry.get(channel.code)
            if spec is None:
                raise channels_errors.channel_not_installed(channel.code)
            # Parsing a private key takes more than 50 ms, so it runs in a thread.
            codec, earlier = await self._off_loop(lambda: self._build(spec, account, binding))
            built = ConfiguredChannel(channel, binding, account, spec, codec, now, earlier)
            self._known[binding_id] = built
            return built

    def _build(self, spec: ChannelSpec, account: PayAccount, binding: PayBinding) -> tuple[Codec, list[tuple[datetime, Codec]]]:
        """The codec with the present keys, and those with earlier keys."""
        keys, way = self._keys.clear_account(account), self._keys.clear_binding(binding)
        earlier = [
            (datetime.fromisoformat(entry["until"]), {**keys, **self._keys.clear_account(account, entry["config"])})
            for entry in account.valid_earlier_keys(self._context.now())
        ]
        return spec.build({**keys, **way}), [(until, spec.build({**before, **way})) for until, before in earlier]

    def forget(self, channel_id: UUID) -> None:
        """Read the rows of the channel again at its next use in this process, because they have changed."""
        self._forget(lambda known: known.channel.id == channel_id)

    def forget_account(self, account_id: UUID) -> None:
        """Read the rows of every channel over this account again at their next use in this process."""
        self._forget(lambda known: known.account.id == account_id)

    def _forget(self, which: Callable[[ConfiguredChannel], bool]) -> None:
        self._rows.forget()
        for known in self._known.values():
            if which(known):
                known.loaded = float("-inf")

    def clear_config(self, configured: ConfiguredChannel) -> Mapping[str, str]:
        """The whole configuration with its secrets in clear text, for use inside the process only."""
        return {**self._keys.clear_account(configured.account), **self._keys.clear_binding(configured.binding)}

    async def _off_loop(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._context.signers, work)

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
        made = await self._off_loop(lambda: operation(codec, context))
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
        bound = log.bind(channel=configured.channel.number, api=call.api)
        started, seconds = asyncio.get_running_loop().time(), self._seconds()
        count_call()
        try:
            with waiting_outside():
                response = await self._context.transport.send(call.request, seconds)
        except NotSentError as error:
            self._places.unanswered(configured.account.id)
            bound.warning("channel_not_reached", why=str(error))
            return _recorded(_not_sent(call, str(error)), call, 0, f"not sent: {error}", _milliseconds(started))
        except TransportUnclearError as error:
            if seconds >= self._context.options.channel_timeout:
                # A call with less time, because its caller has a deadline, says little about the channel.
                self._places.unanswered(configured.account.id)
            bound.warning("channel_unclear", why=str(error))
            return _recorded(call.unclear(str(error)), call, 0, str(error), _milliseconds(started))
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
        bound = log.bind(channel=configured.channel.number, api=call.api)
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
        bound.warning("channel_answer_refused", why=why, status=response.status, ms=milliseconds)
        return call.unclear(why)

    async def _read_with_earlier_keys(
        self, configured: ConfiguredChannel, response: HttpResponse, remake: Callable[[Codec], Call[T] | T] | None
    ) -> list[T]:
        """The outcome of an answer that the channel has signed with the key before a change, which it may still use."""
        for until, codec in configured.earlier if remake is not None else []:
            if remake is not None and self._context.now() < until:
                call = await self._off_loop(partial(remake, codec))
                with suppress(AnswerError, UnknownKeyError):
                    return [call.parse(response, self._context.now())] if isinstance(call, Call) else []
        return []

    def _log_outcome(self, configured: ConfiguredChannel, call: Call[T], outcome: T, status: int, milliseconds: int) -> T:
        """Log an answer that could be read, and report it to the breaker of the account.

        A refusal of our configuration (key, clock) is logged as an error, because repeating does not help.
        """
        if status >= 500:
            self._places.unanswered(configured.account.id)
        else:
            self._places.answered(configured.account.id, milliseconds / 1000)
        code = getattr(outcome, "error_code", "")
        bound = log.bind(channel=configured.channel.number, api=call.api, status=status, ms=milliseconds)
        if code in configured.spec.alarm_codes:
            bound.error("channel_rejects_configuration", code=code, message=getattr(outcome, "error_message", ""))
        else:
            bound.info("channel_answered", outcome=str(getattr(outcome, "status", outcome)), code=code)
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
        call = await self._off_loop(lambda: configured.codec.fetch_keys(serial, context))
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

    async def parse_callback(self, configured: ConfiguredChannel, request: CallbackRequest, *, fetch: bool = True) -> Callback:
        """Verify and read a callback, with the present keys or with earlier ones. CallbackError if it cannot be verified.

        `fetch`: fetch the channel's keys if the callback names an unknown one; otherwise UnknownKeyError.
        """
        now = self._context.now()
        await self._refresh_keys(configured, _PAUSE_AFTER_CALLBACK)
        try:
            return configured.codec.parse_callback(request, now)
        except (CallbackError, UnknownKeyError) as error:
            failed = error
        for until, codec in configured.earlier:
            if now < until:
                with suppress(CallbackError, UnknownKeyError):
                    return codec.parse_callback(request, now)
        if isinstance(failed, UnknownKeyError):
            if not fetch:
                raise failed
            if await self.fetch_keys(configured, failed.serial, _PAUSE_AFTER_CALLBACK):
                with suppress(UnknownKeyError):
                    return configured.codec.parse_callback(request, now)
        raise CallbackError(str(failed)) from failed

    async def verify_callback(
        self,
        candidates: Sequence[ConfiguredChannel],
        request: CallbackRequest,
        is_its: Callable[[ConfiguredChannel, Callback], bool],
    ) -> tuple[ConfiguredChannel, Callback]:
        """Find the account that a callback is of, and read it. CallbackError if none of them has verified it.

        `is_its`: whether the message names this account. The keys of a channel may sign for several of its merchants, so the first
        account that verifies the bytes need not be the one. If it is none of them, the first that verified it is returned.
        """
        refusals: list[str] = []
        unknown: list[ConfiguredChannel] = []
        verified: list[tuple[ConfiguredChannel, Callback]] = []
        # Keys are fetched only after no account has verified it with the keys that are known.
        for fetch, configured in itertools.chain(((False, one) for one in candidates), ((True, one) for one in unknown)):
            if fetch and verified:
                break
            try:
                callback = await self.parse_callback(configured, request, fetch=fetch)
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
