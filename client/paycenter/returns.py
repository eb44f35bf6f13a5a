"""The signed way back from the cashier: the query of the app's return URL. It needs only the standard library."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

_NAMES = ("pay_order_id", "merchant_order_id", "state", "timestamp")


class ReturnError(Exception):
    """The address is not one to which the cashier sends payers. The text is for your log."""


@dataclass(frozen=True, slots=True)
class Return:
    """The order with which the payer comes back. `state` is SUCCESS, REFUND, CLOSED or WAITING, as it was at `timestamp`."""

    pay_order_id: str
    merchant_order_id: str
    state: str
    timestamp: int


def verify_return(url: str, *secrets: str, tolerance: float = 3600, now: float | None = None) -> Return:
    """What the payer's browser brings back, after a check of its signature with the app's notification secrets (`whsec_…`).

    It is good for a page of thanks. Deliver goods by a notification, or after reading the order. `tolerance`: the largest age in
    seconds. Raises ReturnError.
    """
    query: Mapping[str, list[str]] = parse_qs(urlsplit(url).query, keep_blank_values=True)
    values = {name: query.get(name, []) for name in (*_NAMES, "sign")}
    if any(len(found) != 1 for found in values.values()):
        raise ReturnError("the address has not each of pay_order_id, merchant_order_id, state, timestamp and sign once")
    result = {name: values[name][0] for name in _NAMES}
    # A framework may hand over unpaired surrogates. They are in no signed value, so nothing matches.
    text = "\n".join(result[name] for name in _NAMES).encode(errors="surrogatepass")
    expected = [
        hmac.new(base64.b64decode(secret.removeprefix("whsec_")), text, hashlib.sha256).hexdigest() for secret in secrets
    ]  # fmt: skip
    if not any(hmac.compare_digest(values["sign"][0].encode(errors="surrogatepass"), one.encode()) for one in expected):
        raise ReturnError("the signature does not match")
    at = int(result["timestamp"])  # of us, because it is signed
    if abs((time.time() if now is None else now) - at) > tolerance:
        raise ReturnError("the address is too old")
    return Return(result["pay_order_id"], result["merchant_order_id"], result["state"], at)
