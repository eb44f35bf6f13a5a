"""Delivery of notifications to the merchant, with each channel's retry schedule."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import aiohttp
from yarl import URL

from paycenter_server.simulator.clock import Clock, Scheduler
from paycenter_server.simulator.faults import FaultPlan, FaultRule
from paycenter_server.simulator.store import DocumentStore
from paycenter_server.simulator.trades import Trade
from paycenter_server.simulator.wire_log import WireLog

__all__ = ["Notification", "NotificationFormat", "Notifier"]

_TIMEOUT_SECONDS = 5
_ANSWER_BYTES = 65536
_DELAY_FAULTS = ("late", "reordered")


@dataclass(slots=True)
class Notification:
    """One notification and the state of its delivery.

    payload is the content before encryption and signing. step is the number of finished sends of the retry schedule, and due is the
    time of the next one. state is WAITING, DONE (accepted) or GAVE_UP. wrong_signatures is the number of next sends with a wrong
    signature. held: a fault rule has delayed the next send and must not delay it again.
    """

    id: str
    protocol: str
    trade_key: str
    event: str
    url: str
    payload: dict[str, Any]
    signer: str
    created: float
    due: float
    step: int = 0
    state: str = "WAITING"
    wrong_signatures: int = 0
    held: bool = False
    attempts: list[dict[str, Any]] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """For the document store."""
        return asdict(self)


class NotificationFormat(Protocol):
    """The notification format of one protocol. retry_schedule: seconds between one send and the next."""

    retry_schedule: tuple[int, ...]

    def encode(self, notification: Notification, signature_fault: str, rule: FaultRule | None) -> tuple[dict[str, str], bytes]:
        """Headers and body of one send. signature_fault: "", `bad_signature`, `unsigned`, `other_key` or `signtest`."""

    def accepted(self, status: int, body: bytes) -> bool:
        """Whether the merchant accepted the notification, which ends the retries."""


class Notifier:
    """All notifications and their delivery."""

    def __init__(self, store: DocumentStore, clock: Clock, scheduler: Scheduler, faults: FaultPlan, log: WireLog) -> None:
        self._store, self._clock, self._scheduler, self._faults, self._log = store, clock, scheduler, faults, log
        self._formats: dict[str, tuple[str, NotificationFormat]] = {}
        self._notifications: dict[str, Notification] = {}
        self._of_trade: dict[str, list[Notification]] = {}
        self._reordered: list[Notification] = []
        self._session: aiohttp.ClientSession | None = None

    def register(self, protocol: str, api: str, encoding: NotificationFormat) -> None:
        """Add the format of a protocol. api: the name in fault rules, with an optional format after a slash."""
        self._formats[protocol] = (api, encoding)

    async def start(self) -> None:
        """Open the client session."""
        # One connection per send, because a stale connection to a restarted receiver would use up one send of the retry schedule.
        connector = aiohttp.TCPConnector(limit=100, force_close=True)
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False, trust_env=False)

    def load(self) -> None:
        """Read the document store and schedule the pending notifications."""
        for document in sorted(self._store.all("notification"), key=lambda item: float(item["created"])):
            notification = Notification(**document)
            self._index(notification)
            if notification.state == "WAITING":
                self._schedule(notification)

    async def stop(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()

    def clear(self) -> None:
        """Remove all notifications from memory."""
        self._notifications.clear()
        self._of_trade.clear()
        self._reordered.clear()

    def forget_unstored(self, trade: Trade) -> None:
        """After a rollback: remove the notifications of this trade that are not stored."""
        for notification in list(self.of(trade)):
            if self._store.get("notification", notification.id) is None:
                self._of_trade[trade.key].remove(notification)
                del self._notifications[notification.id]

    def of(self, trade: Trade) -> list[Notification]:
        """The notifications of a trade, oldest first."""
        return self._of_trade.get(trade.key, [])

    def send(
        self,
        trade: Trade,
        event: str,
        url: str,
        payload: dict[str, Any],
        signer: str,
        *,
        delay: float = 0.0,
        copies: int = 1,
        wrong_signatures: int = 0,
        protocol: str = "",
    ) -> Notification | None:
        """Queue a notification. Returns None if there is no address. copies: how often the same notification is sent.

        protocol: the registered protocol, if it is not the trade's own.
        """
        if not url:
            return None
        now = self._clock.now()
        notification = Notification(
            str(uuid.uuid4()),
            protocol or trade.protocol,
            trade.key,
            event,
            url,
            payload,
            signer,
            now,
            now + delay,
            wrong_signatures=wrong_signatures,
        )
        self._index(notification)
        self._save(notification)
        self._schedule(notification)
        for _ in range(copies - 1):
            self._scheduler.schedule(notification.due, lambda: self._send_again(notification))
        return notification

    def resend(self, notification: Notification) -> None:
        """Send it again now, in addition to the retry schedule."""
        self._scheduler.schedule(self._clock.now(), lambda: self._send_again(notification))

    def _index(self, notification: Notification) -> None:
        self._notifications[notification.id] = notification
        self._of_trade.setdefault(notification.trade_key, []).append(notification)

    def _save(self, notification: Notification) -> None:
        self._store.put("notification", notification.id, notification.document())

    def _schedule(self, notification: Notification) -> None:
        due = notification.due
        self._scheduler.schedule(due, lambda: self._send_scheduled(notification, due))

    async def _send_again(self, notification: Notification, *, held: bool = False) -> None:
        if notification.id not in self._notifications:
            return
        rule = self._rule(notification, held=held)
        if rule is not None and rule.fault in _DELAY_FAULTS:
            self._scheduler.schedule(self._clock.now() + rule.seconds, lambda: self._send_again(notification, held=True))
            return
        if await self._attempt(notification, "again", rule):
            notification.state = "DONE"
        if notification.id in self._notifications:  # a reset may have removed it
            self._save(notification)

    def _postpone(self, notification: Notification, rule: FaultRule) -> None:
        """Delay the send until a time of the clock, or until another notification of the trade has been sent."""
        notification.due, notification.held = max(notification.due, self._clock.now()) + rule.seconds, True
        self._record_attempt(notification, f"step {notification.step}", 0, False, rule.fault)
        if rule.fault == "reordered":
            self._reordered.append(notification)
        self._schedule(notification)
        self._save(notification)

    def _release_reordered(self, after: Notification) -> None:
        """Send the notifications that were delayed until another notification of their trade was sent."""
        for notification in [held for held in self._reordered if held.trade_key == after.trade_key and held is not after]:
            self._reordered.remove(notification)
            notification.due = self._clock.now()
            self._schedule(notification)

    async def _send_scheduled(self, notification: Notification, due: float) -> None:
        """One send of the retry schedule. The time of the next send is relative to the due time of this one."""
        if notification.state != "WAITING" or notification.id not in self._notifications or notification.due != due:
            return
        rule = self._rule(notification, held=notification.held)
        notification.held = False
        if rule is not None and rule.fault in _DELAY_FAULTS:
            self._postpone(notification, rule)
            return
        if notification in self._reordered:
            self._reordered.remove(notification)
        accepted = await self._attempt(notification, f"step {notification.step}", rule)
        retry_schedule = self._formats[notification.protocol][1].retry_schedule
        if notification.id not in self._notifications:
            return
        if accepted or notification.state == "DONE":
            notification.state = "DONE"
        elif notification.step >= len(retry_schedule):
            notification.state = "GAVE_UP"
        else:
            notification.due += retry_schedule[notification.step]
            notification.step += 1
            self._schedule(notification)
        self._save(notification)

    def _rule(self, notification: Notification, *, held: bool) -> FaultRule | None:
        # A delayed send is not delayed again, even if the rule still has uses.
        without = _DELAY_FAULTS if held else ()
        return self._faults.take(
            self._formats[notification.protocol][0], (notification.trade_key.partition(":")[2],), without=without
        )

    async def _attempt(self, notification: Notification, label: str, rule: FaultRule | None) -> bool:
        encoding = self._formats[notification.protocol][1]
        fault = rule.fault if rule else ""
        if fault == "drop":
            self._record_attempt(notification, label, 0, False, "dropped by a fault rule")
            return False
        if rule is not None and fault == "slow":
            await asyncio.sleep(rule.seconds)
        if fault == "signtest":
            await self._post(notification, encoding, label + ", probe", "signtest", rule)
        signature_fault = fault if fault in ("bad_signature", "unsigned", "other_key") else ""
        if not signature_fault and notification.wrong_signatures > 0:
            notification.wrong_signatures -= 1
            signature_fault = "bad_signature"
        accepted = await self._post(notification, encoding, label, signature_fault, rule)
        if fault == "duplicate":
            accepted = await self._post(notification, encoding, label + ", duplicate", signature_fault, rule) or accepted
        return accepted

    async def _post(
        self, notification: Notification, encoding: NotificationFormat, label: str, signature_fault: str, rule: FaultRule | None
    ) -> bool:
        assert self._session is not None
        headers, body = encoding.encode(notification, signature_fault, rule)
        number = notification.trade_key.partition(":")[2]
        api = self._formats[notification.protocol][0].partition("/")[0]
        entry = self._log.add(self._clock.now(), "out", notification.protocol, api, number, "POST", notification.url)
        entry.request_headers, entry.request_body = headers, WireLog.text(body)
        entry.verdict, entry.fault = signature_fault or "correctly signed", rule.fault if rule else ""
        try:
            url = URL(notification.url, encoded=True)
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                answer_body = b""
                async for chunk in answer.content.iter_chunked(_ANSWER_BYTES):
                    answer_body += chunk
                    if len(answer_body) >= _ANSWER_BYTES:
                        break
                entry.set_answer(answer.status, answer.headers, answer_body)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            entry.answer_body = f"{type(error).__name__}: {error}"
            self._record_attempt(notification, label, 0, False, entry.answer_body)
            return False
        accepted = encoding.accepted(entry.status, answer_body)
        self._record_attempt(notification, label, entry.status, accepted, signature_fault)
        self._release_reordered(notification)
        return accepted

    def _record_attempt(self, notification: Notification, label: str, status: int, accepted: bool, remark: str) -> None:
        notification.attempts.append(
            {"time": self._clock.now(), "send": label, "status": status, "accepted": accepted, "remark": remark}
        )
