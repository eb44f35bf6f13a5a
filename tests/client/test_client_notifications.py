"""The verifier, compared with the `standardwebhooks` package in both directions; and money."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paycenter.money import fen_to_yuan, yuan_to_fen
from paycenter.notifications import NotificationError, NotificationVerifier
from paycenter_server.services.notifications_signing import key_of, sign
from standardwebhooks.webhooks import Webhook

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(range(1, 33))).decode()
PAYLOAD = {
    "type": "pay_order.success", "timestamp": "2026-01-01T08:00:00+08:00", "object_id": "O1", "version": 2,
    "data": {"amount": 1234, "subject": "茶"},
}  # fmt: skip
BODY = json.dumps(PAYLOAD, ensure_ascii=False, separators=(",", ":")).encode()


def signed(body: bytes = BODY, secret: str = SECRET, number: str = "N1", at: float | None = None) -> dict[str, str]:
    stamp = int(time.time() if at is None else at)
    signature = Webhook(secret).sign(number, datetime.fromtimestamp(stamp, UTC), body.decode())
    return {"webhook-id": number, "webhook-timestamp": str(stamp), "webhook-signature": signature}


def test_what_the_package_signs_we_verify() -> None:
    notification = NotificationVerifier(SECRET).verify(signed(), BODY)
    assert notification.id == "N1"
    assert notification.type == "pay_order.success"
    assert notification.timestamp == datetime(2026, 1, 1, tzinfo=UTC)
    assert notification.data == PAYLOAD["data"]
    assert (notification.object_id, notification.version) == ("O1", 2)


def test_of_two_notifications_about_one_object_the_larger_version_is_newer() -> None:
    """A receiver that was down gets an old notification late, or one twice: neither may replace what it has acted on."""
    seen = NotificationVerifier(SECRET).verify(signed(), BODY)
    body = json.dumps({**PAYLOAD, "type": "pay_order.closed", "version": 1}).encode()
    late = NotificationVerifier(SECRET).verify(signed(body), body)
    assert seen.is_newer_than(None)
    assert seen.is_newer_than(late)
    assert seen.is_newer_than(late.version)
    assert not late.is_newer_than(seen)
    assert not late.is_newer_than(2)
    assert not seen.is_newer_than(seen)
    other = json.dumps({**PAYLOAD, "object_id": "O2"}).encode()
    with pytest.raises(ValueError, match="O2 and O1"):
        NotificationVerifier(SECRET).verify(signed(other), other).is_newer_than(seen)


@pytest.mark.parametrize("wrong", [{"version": "2"}, {"version": True}, {"version": None}, {"object_id": 1}])
def test_a_body_without_an_object_or_a_version_is_refused(wrong: dict[str, Any]) -> None:
    body = json.dumps({**PAYLOAD, **wrong}).encode()
    with pytest.raises(NotificationError, match="not a notification"):
        NotificationVerifier(SECRET).verify(signed(body), body)


def test_what_the_server_signs_both_verify() -> None:
    stamp = int(time.time())
    headers = {"webhook-id": "N2", "webhook-timestamp": str(stamp), "webhook-signature": sign(key_of(SECRET), "N2", stamp, BODY)}
    assert NotificationVerifier(SECRET).verify(headers, BODY).id == "N2"
    assert Webhook(SECRET).verify(BODY, headers) == PAYLOAD


@given(st.text(max_size=200), st.text("abcN019-_.", min_size=1, max_size=40), st.binary(min_size=1, max_size=64))
def test_both_agree(text: str, number: str, key: bytes) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    body = json.dumps({**PAYLOAD, "data": {"text": text}}).encode()
    headers = signed(body, secret, number)
    assert NotificationVerifier(secret).verify(headers, body).data == {"text": text}
    assert Webhook(secret).verify(body, headers)


def test_headers_in_any_case() -> None:
    assert NotificationVerifier(SECRET).verify({name.title(): value for name, value in signed().items()}, BODY).id == "N1"


def test_unpadded_secret_and_other_buffers() -> None:
    assert NotificationVerifier(SECRET.rstrip("=")).verify(signed(), bytearray(BODY)).id == "N1"
    assert NotificationVerifier(SECRET.removeprefix("whsec_")).verify(signed(), memoryview(BODY)).id == "N1"


def test_while_a_secret_is_rotated() -> None:
    both = signed(secret=OTHER)
    both["webhook-signature"] += " " + signed()["webhook-signature"]
    assert NotificationVerifier(SECRET).verify(both, BODY).id == "N1"
    assert NotificationVerifier(OTHER, SECRET).verify(signed(), BODY).id == "N1"


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-signature": ""},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "v1,not base64!"},
        {"webhook-signature": "v1a,AAAA"},
        {"webhook-signature": "v1"},
        {"webhook-id": "N9"},
        {"webhook-id": ""},
        {"webhook-timestamp": ""},
        {"webhook-timestamp": str(int(time.time()) + 1)},
    ],
)
def test_refused(change: dict[str, str]) -> None:
    with pytest.raises(NotificationError):
        NotificationVerifier(SECRET).verify({**signed(), **change}, BODY)


def test_refused_by_body_secret_and_version() -> None:
    with pytest.raises(NotificationError):
        NotificationVerifier(SECRET).verify(signed(), BODY + b" ")
    with pytest.raises(NotificationError):
        NotificationVerifier(OTHER).verify(signed(), BODY)
    headers = signed()
    with pytest.raises(NotificationError):
        NotificationVerifier(SECRET).verify(
            {**headers, "webhook-signature": headers["webhook-signature"].replace("v1,", "v2,")}, BODY
        )
    with pytest.raises(TypeError):
        NotificationVerifier(SECRET).verify(signed(), BODY.decode())  # type: ignore[arg-type]


def test_tolerance() -> None:
    now = 1_800_000_000.0
    verifier = NotificationVerifier(SECRET)
    assert verifier.verify(signed(at=now - 300), BODY, now=now).id == "N1"
    assert verifier.verify(signed(at=now), BODY, now=datetime.fromtimestamp(now, UTC) + timedelta(seconds=299)).id == "N1"
    for at in (now - 301, now + 302):
        with pytest.raises(NotificationError, match="replay"):
            verifier.verify(signed(at=at), BODY, now=now)
    assert NotificationVerifier(SECRET, tolerance=1000).verify(signed(at=now - 999), BODY, now=now).id == "N1"


@pytest.mark.parametrize("stamp", ["nan", "1e9", "-1", " 1", "1.5", "１"])
def test_a_timestamp_is_whole_seconds(stamp: str) -> None:
    headers = signed()
    mac = sign(key_of(SECRET), "N1", stamp, BODY)  # type: ignore[arg-type]
    with pytest.raises(NotificationError, match="seconds"):
        NotificationVerifier(SECRET).verify({**headers, "webhook-timestamp": stamp, "webhook-signature": mac}, BODY)


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"1",
        b"{}",
        b'{"type":1,"timestamp":"2026-01-01T00:00:00Z","object_id":"O1","version":1,"data":{}}',
        b'{"type":"a","timestamp":"2026-01-01T00:00:00","object_id":"O1","version":1,"data":{}}',
        b'{"type":"a","timestamp":5,"object_id":"O1","version":1,"data":{}}',
    ],
)
def test_signed_but_no_notification(body: bytes) -> None:
    with pytest.raises(NotificationError, match="not a notification"):
        NotificationVerifier(SECRET).verify(signed(body), body)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!!!!"])
def test_bad_secrets(secret: str) -> None:
    with pytest.raises(ValueError, match="whsec_"):
        NotificationVerifier(secret)
    with pytest.raises(ValueError):
        NotificationVerifier()


def test_needs_no_grpc() -> None:
    code = "import sys; from paycenter import NotificationVerifier; assert not {'grpc', 'google.protobuf'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


class TestMoney:
    @given(st.integers(-(10**15), 10**15))
    def test_there_and_back(self, fen: int) -> None:
        assert yuan_to_fen(fen_to_yuan(fen)) == fen
        assert yuan_to_fen(Decimal(fen) / 100) == fen

    @pytest.mark.parametrize(
        ("yuan", "fen"), [("0", 0), ("12.3", 1230), ("0.01", 1), (7, 700), (Decimal("1E+2"), 10_000), ("-1.50", -150)]
    )
    def test_to_fen(self, yuan: Any, fen: int) -> None:
        assert yuan_to_fen(yuan) == fen

    @pytest.mark.parametrize(
        "yuan", ["", "1.", ".5", "1.234", "1e3", "1,000", "+1", " 1", "１", "1\n", Decimal("0.001"), Decimal("NaN")]
    )
    def test_no_amount(self, yuan: Any) -> None:
        with pytest.raises(ValueError):
            yuan_to_fen(yuan)

    @pytest.mark.parametrize("wrong", [1.1, True, None, b"1"])
    def test_no_floats(self, wrong: Any) -> None:
        with pytest.raises(TypeError):
            yuan_to_fen(wrong)
        with pytest.raises(TypeError):
            fen_to_yuan(wrong)
