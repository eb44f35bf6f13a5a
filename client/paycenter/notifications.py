"""Verification of notifications by Standard Webhooks (https://www.standardwebhooks.com). It needs only the standard library."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

_SECONDS = re.compile(r"[0-9]{1,12}", re.ASCII)


class NotificationError(Exception):
    """The request is not a valid notification. Answer it with 401 or 400. The text is for your log."""


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification with a valid signature.

    `id` ("N…") stays the same when it is sent again: store it and act once. `type` is for example `pay_order.success`;
    docs/events of PayCenter lists all types, ignore those that you do not know. `timestamp` is the time of the event (aware).
    `object_id` is the number of the order or refund that it reports ("O…", "F…") and `version` that object's version: store
    the version with the object, and ignore a notification that is not newer. `data` contains the numbers, the state and the
    amounts in fen.
    """

    id: str
    type: str
    timestamp: datetime
    data: dict[str, Any]
    object_id: str
    version: int

    def is_newer_than(self, seen: Notification | int | None) -> bool:
        """Whether this reports a later state of its object than `seen`: the last notification that you acted on, or its version.

        None means that there is none. A notification is not newer than itself. ValueError if `seen` is about another object,
        because versions of two objects cannot be compared.
        """
        if seen is None:
            return True
        if isinstance(seen, int):
            return self.version > seen
        if seen.object_id != self.object_id:
            raise ValueError(f"{self.object_id} and {seen.object_id} are two objects; compare notifications about one")
        return self.version > seen.version


class NotificationVerifier:
    """Verifies notifications with an app's notification secrets (`whsec_…`). During a rotation give the old and the new one."""

    def __init__(self, *secrets: str, tolerance: float = 300) -> None:
        """`tolerance`: largest difference of `webhook-timestamp` from now in seconds. ValueError for an invalid secret."""
        if not secrets:
            raise ValueError("at least one notification secret is required")
        self._keys = tuple(_key(secret) for secret in secrets)
        self._tolerance = tolerance

    def verify(
        self, headers: Mapping[str, str], body: bytes | bytearray | memoryview, *, now: float | datetime | None = None
    ) -> Notification:
        """The notification, after a check of its signature, time and form.

        `body`: the received bytes, not JSON that was parsed and written again. `now`: Unix seconds or an aware
        datetime, for tests. Raises NotificationError.
        """
        if isinstance(body, str):
            raise TypeError("body must be the bytes that were received")
        raw = bytes(body)
        lower = {name.lower(): value for name, value in headers.items()}
        number, stamp = _header(lower, "webhook-id"), _header(lower, "webhook-timestamp")
        signatures = _header(lower, "webhook-signature")
        self._check_signature(number, stamp, raw, signatures)
        self._check_time(stamp, now)
        return _parse(number, raw)

    def _check_signature(self, number: str, stamp: str, raw: bytes, signatures: str) -> None:
        signed = f"{number}.{stamp}.".encode("utf-8", "surrogateescape") + raw
        expected = [hmac.new(key, signed, hashlib.sha256).digest() for key in self._keys]
        matches = False
        for signature in signatures.split(" "):
            version, _, encoded = signature.partition(",")
            if version != "v1":
                continue
            try:
                given = base64.b64decode(encoded, validate=True)
            except (binascii.Error, ValueError):
                continue
            for digest in expected:
                # No early exit, so that the duration does not show which secret or signature matched.
                matches |= hmac.compare_digest(digest, given)
        if not matches:
            raise NotificationError("no signature matches; check the notification secret, and that the body is unchanged")

    def _check_time(self, stamp: str, now: float | datetime | None) -> None:
        if not _SECONDS.fullmatch(stamp):
            raise NotificationError("webhook-timestamp is not a number of seconds")
        moment = time.time() if now is None else now.timestamp() if isinstance(now, datetime) else now
        apart = moment - int(stamp)
        if abs(apart) > self._tolerance:
            raise NotificationError(f"webhook-timestamp is {apart:.0f} s from now; more than {self._tolerance:.0f} s is a replay")


def _key(secret: str) -> bytes:
    encoded = secret.removeprefix("whsec_").rstrip("=")
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        # The message does not contain the value, because it may be logged.
        raise ValueError('a notification secret is "whsec_" and base64')
    return key


def _header(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name, "")
    if not value:
        raise NotificationError(f"the header {name} is missing")
    return value


def _parse(number: str, raw: bytes) -> Notification:
    try:
        document = json.loads(raw)
        kind, data, happened = document["type"], document["data"], datetime.fromisoformat(document["timestamp"])
        object_id, version = document["object_id"], document["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise NotificationError("the signature is valid, but the body is not a notification") from None
    typed = isinstance(kind, str) and isinstance(data, dict) and isinstance(object_id, str) and type(version) is int
    if not typed or happened.tzinfo is None:
        raise NotificationError("the signature is valid, but the body is not a notification")
    return Notification(number, kind, happened, data, object_id, version)
