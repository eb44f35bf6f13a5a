"""Delivery of notifications: claimed from PostgreSQL in batches, sent without a transaction, recorded in batches.

The signature follows Standard Webhooks: `webhook-id`, `webhook-timestamp`, `webhook-signature: v1,<base64 HMAC-SHA256>` over
`id.timestamp.body`, one signature for each valid secret.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import structlog

from paycenter_server.domain.apps import NotificationSuccess
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.schedule import notification_delay
from paycenter_server.domain.states import NotificationEvent
from paycenter_server.services.context import Context
from paycenter_server.storage import notifications as notification_rows
from paycenter_server.storage.notifications import DeliveryResult, DueNotification
from paycenter_server.version import USER_AGENT

log = structlog.get_logger(__name__)

LEASE = timedelta(seconds=60)
_BATCH = 200
_PER_APP = 64
_ANSWER_KEPT = 2000


@dataclass(frozen=True, slots=True)
class DeliveryResponse:
    """The answer of a receiver. `status` 0: there was none, and `text` is the reason."""

    status: int
    text: str
    retry_after: float | None = None


class NotificationSender(Protocol):
    """A port: posts one notification. It never raises, and takes at most ten seconds."""

    async def send(self, url: str, headers: dict[str, str], body: bytes) -> DeliveryResponse:
        """Post, and return the answer or the reason why there was none."""
        ...


def secret_place(app_id: UUID) -> str:
    """The place to which the notification secret of an app is bound."""
    return f"pay_app:{app_id}:notification_secret"


def sign(secret: str, number: str, timestamp: int, body: str) -> str:
    """One `v1,…` signature (Standard Webhooks); `secret` is `whsec_…`."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.new(key, f"{number}.{timestamp}.{body}".encode(), hashlib.sha256)
    return "v1," + base64.b64encode(mac.digest()).decode()


class NotificationDelivery:
    """Claims, sends and records notifications. Several instances may run at once, in one process or in many."""

    def __init__(self, context: Context, sender: NotificationSender) -> None:
        self._context = context
        self._sender = sender
        self._busy: Counter[UUID] = Counter()
        self._deliveries: set[asyncio.Task[None]] = set()
        self._claims: set[asyncio.Future[int]] = set()
        self._wake = asyncio.Event()
        self._claiming = False
        self._results: list[DeliveryResult] = []
        self._recorder: asyncio.Task[None] | None = None

    async def deliver_due(self) -> int:
        """Start the delivery of everything that is due, and return the number. A slow receiver uses only the places of its own app.

        If another call is claiming, this call only makes it claim once more.
        """
        self._wake.set()
        if self._claiming:
            return 0
        self._claiming = True
        try:
            return await self._claim_due()
        finally:
            self._claiming = False

    async def _claim_due(self) -> int:
        started = 0
        while self._wake.is_set():
            self._wake.clear()
            while True:
                now = self._context.now()
                full = [app for app, count in self._busy.items() if count >= _PER_APP]
                async with self._context.database.connection() as connection:
                    tasks = await notification_rows.claim_due(connection, now, now + LEASE, _BATCH, _PER_APP, full)
                for task in tasks:
                    self._busy[task.app_id] += 1
                    delivery = asyncio.create_task(self._deliver(task))
                    self._deliveries.add(delivery)
                    delivery.add_done_callback(self._deliveries.discard)
                started += len(tasks)
                if not tasks:
                    break
        return started

    async def settle(self) -> None:
        """Wait until all started deliveries are recorded."""
        while self._deliveries or self._claims or self._recorder is not None:
            waiting: list[asyncio.Future[Any]] = [*self._deliveries, *self._claims]
            if self._recorder is not None:
                waiting.append(self._recorder)
            await asyncio.wait(waiting)

    async def _deliver(self, task: DueNotification) -> None:
        try:
            delivery = await self._post(task)
        except Exception as error:
            # For example a secret that cannot be opened. It is recorded like every failure, so that it ends and is visible.
            log.exception("notification_not_sent", task=encode(Prefix.NOTIFICATION, task.id))
            delivery = self._delivery(task, DeliveryResponse(0, f"not sent: {type(error).__name__}: {error}"), 0)
        finally:
            self._free_place(task.app_id)
        self._results.append(delivery)
        if self._recorder is None:
            self._recorder = asyncio.create_task(self._record())

    def _free_place(self, app_id: UUID) -> None:
        was_full = self._busy[app_id] >= _PER_APP
        self._busy[app_id] -= 1
        if self._busy[app_id] <= 0:
            del self._busy[app_id]
        if was_full:
            # Due notifications of this app may have been skipped while it had no free place.
            again = asyncio.ensure_future(self.deliver_due())
            self._claims.add(again)
            again.add_done_callback(self._claim_done)

    def _claim_done(self, claim: asyncio.Future[int]) -> None:
        self._claims.discard(claim)
        if not claim.cancelled() and (error := claim.exception()) is not None:
            log.warning("notification_claim_failed", why=str(error))

    async def _post(self, task: DueNotification) -> DeliveryResult:
        started = self._context.now()
        number, timestamp = encode(Prefix.NOTIFICATION, task.id), int(started.timestamp())
        signatures = [sign(secret, number, timestamp, task.payload) for secret in self._secrets(task, started)]
        headers = {
            "content-type": "application/json; charset=utf-8",
            "user-agent": USER_AGENT,
            "webhook-id": number,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(signatures),
        }
        loop = asyncio.get_running_loop()
        begun = loop.time()
        received = await self._sender.send(task.notification_url, headers, task.payload.encode())
        duration = int((loop.time() - begun) * 1000)
        return self._delivery(task, received, duration)

    def _delivery(self, task: DueNotification, received: DeliveryResponse, duration: int) -> DeliveryResult:
        event, next_time = self._judge(task, received)
        return DeliveryResult(
            task_id=task.id, claimed_times=task.notify_times, event=event, next_notify_time=next_time, url=task.notification_url,
            request=task.payload, http_status=received.status, duration_ms=duration, answer=clean(received.text),
            at=self._context.now(),
        )  # fmt: skip

    def _secrets(self, task: DueNotification, now: datetime) -> list[str]:
        place = secret_place(task.app_id)
        secrets = [self._context.box.open(task.notification_secret, place)]
        until = task.notification_secret_previous_until
        if task.notification_secret_previous and until and until > now:
            secrets.append(self._context.box.open(task.notification_secret_previous, place))
        return secrets

    def _judge(self, task: DueNotification, received: DeliveryResponse) -> tuple[NotificationEvent, datetime | None]:
        if _is_received(task.notification_success, received):
            return NotificationEvent.RECEIVED, None
        if received.status == 410:
            return NotificationEvent.GIVE_UP, None
        jitter = self._context.random_bits(16) / 65_536
        # A resend starts the schedule again.
        step = task.notify_times + 1 - task.schedule_start_times
        delay = notification_delay(step, jitter, received.retry_after)
        if delay is None:
            log.error("notification_given_up", task=encode(Prefix.NOTIFICATION, task.id), app=task.app_key)
            return NotificationEvent.GIVE_UP, None
        event = NotificationEvent.REFUSED if received.status else NotificationEvent.UNANSWERED
        return event, self._context.now() + delay

    async def _record(self) -> None:
        """Record the results so far in one statement, and repeat until none is left."""
        try:
            while self._results:
                batch, self._results = self._results[:500], self._results[500:]
                try:
                    async with self._context.database.connection() as connection:
                        await notification_rows.record(connection, batch)
                except Exception:
                    # Not recorded: after the lease they are sent again. Delivery is at least once.
                    log.exception("deliveries_not_recorded", deliveries=len(batch))
        finally:
            self._recorder = None
            if self._results:
                self._recorder = asyncio.create_task(self._record())


def _is_received(rule: NotificationSuccess, received: DeliveryResponse) -> bool:
    if not 200 <= received.status < 300:
        return False
    if rule is NotificationSuccess.HTTP_2XX:
        return True
    try:
        body = json.loads(received.text)
    except (ValueError, RecursionError):
        return False
    return isinstance(body, dict) and body.get("code") == 0 and not isinstance(body.get("code"), bool)


def clean(text: str) -> str:
    """An answer in a form that can be stored: no NUL, no unpaired surrogates, at most 2,000 characters."""
    return text[:_ANSWER_KEPT].replace("\0", "").encode("utf-8", "replace").decode()
