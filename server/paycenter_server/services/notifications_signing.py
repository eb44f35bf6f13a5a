"""The signatures of notifications, and the headers that carry them.

They follow Standard Webhooks: `webhook-id`, `webhook-timestamp`, `webhook-signature: v1,<base64 HMAC-SHA256>` over
`id.timestamp.body`, one signature for each valid secret.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from uuid import UUID

from paycenter_server.domain.apps import valid_previous_secrets
from paycenter_server.services.secrets import SecretBox
from paycenter_server.version import USER_AGENT

_KEYS_KEPT = 1024


def secret_place(app_id: UUID) -> str:
    """The place to which the notification secret of an app is bound."""
    return f"pay_app:{app_id}:notification_secret"


def key_of(secret: str) -> hmac.HMAC:
    """The key in a notification secret, `whsec_…`, as a MAC of nothing that copies begin with."""
    return hmac.new(base64.b64decode(secret.removeprefix("whsec_")), digestmod=hashlib.sha256)


def sign(key: hmac.HMAC, number: str, timestamp: int, body: bytes) -> str:
    """One `v1,…` signature (Standard Webhooks)."""
    mac = key.copy()
    mac.update(f"{number}.{timestamp}.".encode() + body)
    return "v1," + base64.b64encode(mac.digest()).decode()


class NotificationSigner:
    """Signs with the secrets of apps. The keys that were used last are kept open: to open one costs more than a signature."""

    def __init__(self, box: SecretBox) -> None:
        # By the sealed text and the app: a secret that is replaced has another text, and one that was sealed for another app is
        # refused each time.
        self._key = lru_cache(maxsize=_KEYS_KEPT)(lambda sealed, app_id: key_of(box.open(sealed, secret_place(app_id))))

    def headers(
        self, number: str, body: bytes, now: datetime, *, app_id: UUID, secret: str, previous: Sequence[Mapping[str, str]]
    ) -> dict[str, str]:
        """The headers of a notification, with a signature by the secret of the app and by each previous one that still signs."""
        timestamp = int(now.timestamp())
        signatures = sign(self._key(secret, app_id), number, timestamp, body)
        if previous:
            older = [self._key(sealed, app_id) for sealed in valid_previous_secrets(previous, now)]
            signatures = " ".join([signatures, *(sign(key, number, timestamp, body) for key in older)])
        return {
            "content-type": "application/json; charset=utf-8",
            "user-agent": USER_AGENT,
            "webhook-id": number,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signatures,
        }
