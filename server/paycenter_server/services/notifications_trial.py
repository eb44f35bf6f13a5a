"""A test notification to an app's address: sent at once, signed as all are, stored nowhere."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.notifications import NotificationType
from paycenter_server.services.context import Context
from paycenter_server.services.identity import Caller, Identity
from paycenter_server.services.notifications_delivery import NotificationSender, clean, is_received
from paycenter_server.services.notifications_signing import NotificationSigner

TYPE = "paycenter.test"
"""The type of a test notification. Its data is empty, so that a receiver cannot take it for money."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What was sent and what came back. `received`: the answer would confirm a notification. `status` 0: there was no answer."""

    url: str
    number: str
    received: bool
    status: int
    answer: str
    duration_ms: int


class NotificationTrial:
    """Sends test notifications, for operators."""

    def __init__(self, context: Context, identity: Identity, sender: NotificationSender) -> None:
        self._context = context
        self._identity = identity
        self._sender = sender
        self._signer = NotificationSigner(context.box)

    async def send(self, caller: Caller, app_key: str, kind: NotificationType) -> Trial:
        """Post a test notification to the app's address for orders or for refunds. It takes at most ten seconds."""
        self._identity.require_operator(caller)
        app = await self._identity.app_of(caller, app_key)
        url = app.order_notification_url if kind is NotificationType.ORDER else app.refund_notification_url
        now = self._context.now()
        number = encode(Prefix.NOTIFICATION, self._context.new_key(now))
        stamp = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        body = json.dumps({"type": TYPE, "timestamp": stamp, "data": {}}, separators=(",", ":")).encode()
        headers = self._signer.headers(
            number, body, now, app_id=app.id, secret=app.notification_secret, previous=app.notification_secrets_previous
        )
        loop = asyncio.get_running_loop()
        begun = loop.time()
        answer = await self._sender.send(url, headers, body)
        duration = int((loop.time() - begun) * 1000)
        return Trial(url, number, is_received(app.notification_success, answer), answer.status, clean(answer.text), duration)
