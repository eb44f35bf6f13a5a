"""Delivery of notifications: claimed from PostgreSQL in batches, sent without a transaction, recorded in batches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

import structlog

from paycenter_server.domain.addresses import endpoint_of
from paycenter_server.domain.apps import NotificationSuccess
from paycenter_server.domain.events import Actor, ActorKind, acting
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.schedule import NOTIFICATION_DELAYS, notification_delay
from paycenter_server.domain.states import NotificationEvent
from paycenter_server.domain.values import value
from paycenter_server.services.cases import Cases
from paycenter_server.services.claims import Claims
from paycenter_server.services.context import Context
from paycenter_server.services.notifications_endpoints import Endpoints
from paycenter_server.services.notifications_signing import NotificationSigner
from paycenter_server.storage import notifications_delivery as delivery_rows
from paycenter_server.storage.database import Conflict, is_connection_loss
from paycenter_server.storage.notifications_delivery import DeliveryResult, DueNotification

log = structlog.get_logger(__name__)

_JOB = Actor(ActorKind.JOB, "pay_notify_job")
LEASE = timedelta(seconds=60)
LOOKED_AT = 2000
"""The most endpoints that a pass looks at, and the most quick ones beside them. More would stop the event loop for too long."""
_ANSWER_KEPT = 2000
# While the breaker of an endpoint has been open for OPEN_BEFORE_GIVING_UP, what has been due for GIVE_UP_AFTER ends without a
# further delivery. Without this, rows that wait for a trial would never end.
OPEN_BEFORE_GIVING_UP = timedelta(hours=1)
GIVE_UP_AFTER = timedelta(seconds=sum(NOTIFICATION_DELAYS))
_GIVE_UP_BATCH = 200
"""The most notifications that a pass gives up."""
RECORD_ROWS = 256
"""The most results of one statement."""
RECORD_SECONDS = 0.01
"""The shortest time between the beginnings of two statements with results, if several are waiting."""
LOCKED_SECONDS = 0.5
"""After this time the result of a notification that another transaction has locked is recorded again, until it is recorded."""
_Outcome = tuple[DueNotification, DeliveryResult]


@value
class DeliveryResponse:
    """The answer of a receiver. `status` 0: there was none, and `text` is the reason.

    `blocked`: nothing was sent, because the address guard of this process does not permit the address.
    """

    status: int
    text: str
    retry_after: float | None = None
    blocked: bool = False


class NotificationSender(Protocol):
    """A port: posts one notification. It never raises, and takes at most ten seconds."""

    async def send(self, url: str, headers: dict[str, str], body: bytes) -> DeliveryResponse:
        """Post, and return the answer or the reason why there was none."""
        ...


class NotificationDelivery:
    """Claims, sends and records notifications. Several instances may run at once, in one process or in many."""

    def __init__(self, context: Context, sender: NotificationSender) -> None:
        self._context = context
        self._sender = sender
        self._signer = NotificationSigner(context.box)
        self._cases = Cases(context)
        self._endpoints = Endpoints()
        self._claims = Claims[str, DueNotification](
            _JOB.name, context.clock, self._endpoints.places, due=self._due, take=self._take,
            key=lambda task: task.endpoint, work=self._deliver, share=context.other_workers.send,
        )  # fmt: skip
        self._first = ""
        """The first endpoint that the next pass looks at."""
        self._overdue: dict[str, tuple[datetime, datetime]] = {}
        """The endpoints of which something is to be given up: since when it is due, and the breaker is open."""
        self._outcomes: list[_Outcome] = []
        self._recorder: asyncio.Task[None] | None = None
        self._locked: list[_Outcome] = []
        self._lock_wait: asyncio.Task[None] | None = None
        self._reported: set[UUID] = set()

    async def deliver_due(self) -> int:
        """Start the delivery of what is due, as far as there are places, and return the number. The rest follows as places become
        free.

        If another call is looking, this call only makes it look once more.
        """
        started = await self._claims.start_due()
        await self._give_up_overdue()
        return started

    async def _due(self) -> list[str]:
        """The endpoints that have due notifications, among LOOKED_AT of them, that with the earliest first.

        Where there are more endpoints, a pass goes on after the last one of the pass before, and at the end begins again. Those
        that have answered quickly are looked at by each, so that they do not wait for their turn.
        """
        now, first = self._context.now(), self._first
        async with self._context.database.connection() as connection:
            due, last = await delivery_rows.due_endpoints(connection, now, first, LOOKED_AT)
            if first and last is None:
                again, last = await delivery_rows.due_endpoints(connection, now, "", LOOKED_AT)
                due.update(again)
            if (first or last is not None) and (fast := self._endpoints.places.fast(LOOKED_AT)):
                due.update(await delivery_rows.due_of_endpoints(connection, now, fast))
        self._first = last or ""
        self._note_overdue(due, now)
        return sorted(due, key=due.__getitem__)

    async def _take(self, places: Mapping[str, int]) -> list[DueNotification]:
        now = self._context.now()
        async with self._context.database.connection() as connection:
            return await delivery_rows.claim_due(connection, now, now + LEASE, places)

    def _note_overdue(self, due: Mapping[str, datetime], now: datetime) -> None:
        """Note the endpoints where something has waited for a trial of an open breaker for as long as the retry schedule takes."""
        for name, earliest in due.items():
            if earliest > now - GIVE_UP_AFTER:
                continue
            since = self._endpoints.open_since(name)
            if since is None or since > now - OPEN_BEFORE_GIVING_UP:
                continue
            self._overdue[name] = (earliest, since)

    async def _give_up_overdue(self) -> None:
        """End what has waited too long, _GIVE_UP_BATCH at most: of each endpoint the same number, of those that wait longest.

        The next pass finds what is left. It runs after the claims, which do not wait for it.
        """
        noted, self._overdue = self._overdue, {}
        if not noted:
            return
        names = sorted(noted, key=noted.__getitem__)[:_GIVE_UP_BATCH]
        now, places = self._context.now(), dict.fromkeys(names, _GIVE_UP_BATCH // len(names))
        async with self._context.database.connection() as connection:
            tasks = await delivery_rows.claim_due(connection, now - GIVE_UP_AFTER, now + LEASE, places)
        for task in tasks:
            name, (_, since) = task.endpoint, noted[task.endpoint]
            why = f"{name} has not answered since {since:%Y-%m-%d %H:%M} UTC; resend it when it answers again"
            self._add_unsent(task, NotificationEvent.GIVE_UP, why)

    def stop(self) -> None:
        """Claim nothing more. Deliveries that have begun continue; `settle` waits for them."""
        self._claims.stop()
        self._overdue.clear()

    async def settle(self) -> None:
        """Wait until all started deliveries, and those of the backlog, are recorded."""
        await self._claims.settle()
        while tasks := [task for task in (self._recorder, self._lock_wait) if task is not None]:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

    async def _deliver(self, task: DueNotification) -> None:
        received: DeliveryResponse | None = None
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            if task.superseded:
                self._add_unsent(task, NotificationEvent.SUPERSEDE, "a newer notification replaces it")
                return
            try:
                received = await self._post(task)
                response = received
            except Exception as error:
                # For example a secret that cannot be opened. It is recorded like every failure, so that it ends and is visible.
                log.exception("notification_not_sent", task=encode(Prefix.NOTIFICATION, task.id))
                response = DeliveryResponse(0, f"not sent: {type(error).__name__}: {error}")
            event, next_time = self._judge(task, response)
            self._add(task, event, next_time, response, seconds=loop.time() - begun)
        finally:
            self._free_place(task, received, loop.time() - begun)

    def _free_place(self, task: DueNotification, received: DeliveryResponse | None, seconds: float) -> None:
        if received is None or received.blocked:
            self._endpoints.places.give_back(task.endpoint)
        elif received.status:
            self._endpoints.answered(task.endpoint, seconds)
        elif self._endpoints.unanswered(task.endpoint, self._context.now()):
            log.warning("notification_endpoint_does_not_answer", endpoint=task.endpoint, why=received.text)

    def _add_unsent(self, task: DueNotification, event: NotificationEvent, why: str) -> None:
        """Add the end of a notification that was claimed and not sent. One that is superseded ends as that in any case."""
        if task.superseded:
            event, why = NotificationEvent.SUPERSEDE, "a newer notification replaces it"
        self._add(task, event, None, DeliveryResponse(0, f"not sent: {why}"), times=0)

    def _add(
        self,
        task: DueNotification,
        event: NotificationEvent,
        next_time: datetime | None,
        response: DeliveryResponse,
        *,
        seconds: float = 0.0,
        times: int = 1,
    ) -> None:
        """Add a result to those that are recorded together."""
        answer = clean(response.text)
        if response.blocked:
            number = encode(Prefix.NOTIFICATION, task.id)
            log.warning("notification_blocked", task=number, app=task.app_key, url=task.notification_url, why=answer)
        if event is NotificationEvent.GIVE_UP:
            log.error("notification_given_up", task=encode(Prefix.NOTIFICATION, task.id), app=task.app_key, why=answer[:200])
        if event is NotificationEvent.RECEIVED:
            problem = ""
        else:
            problem = f"HTTP {response.status}: {answer[:200]}" if response.status else answer[:500]
        result = DeliveryResult(
            task_id=task.id, claimed_times=task.notify_times, event=event, next_notify_time=next_time, url=task.notification_url,
            http_status=response.status, duration_ms=int(seconds * 1000), answer=answer,
            at=self._context.now(), endpoint=_endpoint(task), problem=problem, times=times,
        )  # fmt: skip
        self._outcomes.append((task, result))
        self._start_recorder()

    def _start_recorder(self) -> None:
        if self._recorder is None:
            self._recorder = asyncio.create_task(self._record())

    async def _post(self, task: DueNotification) -> DeliveryResponse:
        number, body = encode(Prefix.NOTIFICATION, task.id), task.payload.encode()
        headers = self._signer.headers(
            number, body, self._context.now(), app_id=task.app_id, secret=task.notification_secret,
            previous=task.notification_secrets_previous,
        )  # fmt: skip
        return await self._sender.send(task.notification_url, headers, body)

    def _judge(self, task: DueNotification, received: DeliveryResponse) -> tuple[NotificationEvent, datetime | None]:
        if is_received(task.notification_success, received):
            return NotificationEvent.RECEIVED, None
        if received.status == 410:
            return NotificationEvent.GIVE_UP, None
        jitter = self._context.random_bits(16) / 65_536
        # A resend starts the schedule again.
        step = task.notify_times + 1 - task.schedule_start_times
        delay = notification_delay(step, jitter, received.retry_after)
        if delay is None:
            return NotificationEvent.GIVE_UP, None
        event = NotificationEvent.REFUSED if received.status else NotificationEvent.UNANSWERED
        return event, self._context.now() + delay

    async def _record(self) -> None:
        """Record the results so far in one statement, and repeat until none is left.

        If several have come during a statement, the next one begins RECORD_SECONDS after it began, so that more share it. Nobody
        waits for a record: what was sent is sent.
        """
        loop = asyncio.get_running_loop()
        begun = 0.0
        try:
            while self._outcomes:
                if 1 < len(self._outcomes) < RECORD_ROWS and (seconds := begun + RECORD_SECONDS - loop.time()) > 0:
                    await asyncio.sleep(seconds)
                begun = loop.time()
                batch, self._outcomes = self._outcomes[:RECORD_ROWS], self._outcomes[RECORD_ROWS:]
                with acting(_JOB):
                    await self._store_all(batch)
        finally:
            self._recorder = None
            if self._outcomes:
                self._start_recorder()

    async def _store_all(self, batch: Sequence[_Outcome]) -> bool:
        """Store results, and if that fails each alone, so that one does not lose those of the others. False if the connection was
        lost.

        What another transaction has locked is stored later. After a lost connection or a time-out the results may be stored, so
        they are not stored again. What is not stored is sent again after the lease: delivery is at least once.
        """
        try:
            self._store_later(await self._store(batch))
        except Exception as error:
            if is_connection_loss(error):
                self._not_stored(batch)
                return False
            if len(batch) > 1:
                await self._store_each(batch)
            elif isinstance(error, Conflict):
                self._store_later(batch)
            else:
                self._not_stored(batch)
        return True

    async def _store_each(self, batch: Sequence[_Outcome]) -> None:
        for number, outcome in enumerate(batch, 1):
            if not await self._store_all([outcome]):
                # The others were not tried alone: they are recorded with the next ones, or lost together.
                self._outcomes = [*batch[number:], *self._outcomes]
                return

    def _not_stored(self, batch: Sequence[_Outcome]) -> None:
        self._reported.difference_update(task.id for task, _ in batch)
        log.exception("deliveries_not_recorded", deliveries=len(batch), first=_numbers(batch))

    def _store_later(self, outcomes: Sequence[_Outcome]) -> None:
        """Store these after LOCKED_SECONDS. They are few: a locked notification is not claimed again."""
        if new := [outcome for outcome in outcomes if outcome[0].id not in self._reported]:
            self._reported.update(task.id for task, _ in new)
            log.warning("deliveries_wait_for_locks", deliveries=len(new), first=_numbers(new))
        self._locked += outcomes
        if self._locked and self._lock_wait is None:
            self._lock_wait = asyncio.create_task(self._wait_for_locks())

    async def _wait_for_locks(self) -> None:
        try:
            await asyncio.sleep(LOCKED_SECONDS)
        finally:
            self._outcomes, self._locked, self._lock_wait = [*self._locked, *self._outcomes], [], None
            self._start_recorder()

    async def _store(self, batch: Sequence[_Outcome]) -> Sequence[_Outcome]:
        """Store results by one statement, or with the cases of those that are given up by one transaction. Those that are not
        stored, because their notifications are locked, are returned."""
        ended = [outcome for outcome in batch if outcome[1].event is NotificationEvent.GIVE_UP]
        results = [result for _, result in batch]
        if not ended:
            async with self._context.database.connection() as connection:
                recorded = await delivery_rows.record(connection, results)
        else:
            async with self._context.database.transaction() as transaction:
                recorded = await delivery_rows.record(transaction, results)
                for task, result in ended:
                    if task.id in recorded.changed:
                        await self._cases.notification_given_up(transaction, task, result.problem)
        if self._reported:
            self._reported.difference_update(task.id for task, _ in batch if task.id not in recorded.locked)
        return [outcome for outcome in batch if outcome[0].id in recorded.locked]


def _numbers(outcomes: Sequence[_Outcome]) -> list[str]:
    """The numbers of the first ten notifications, for the log."""
    return [encode(Prefix.NOTIFICATION, task.id) for task, _ in outcomes[:10]]


def _endpoint(task: DueNotification) -> str:
    """The endpoint of the URL to which it went. The URL may have changed since the row got its endpoint."""
    try:
        return endpoint_of(task.notification_url)
    except ValueError:
        return ""


def is_received(rule: NotificationSuccess, received: DeliveryResponse) -> bool:
    """Whether an answer confirms a notification under the rule of its app."""
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
    if text.isascii() and "\0" not in text:
        return text[:_ANSWER_KEPT]
    return text[:_ANSWER_KEPT].replace("\0", "").encode("utf-8", "replace").decode()
