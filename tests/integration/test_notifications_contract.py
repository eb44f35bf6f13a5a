"""What is sent, compared with events.proto and its JSON Schemas; addresses, warnings, and what operators do with notifications."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from jsonschema import Draft202012Validator, FormatChecker
from paycenter.v1 import events_pb2
from paycenter_server.services.notifications_payloads import utc
from support.system import PayCenterSystem, SentNotification
from support.waiting import eventually

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "events"
MESSAGES = {
    kind: message
    for message in events_pb2.DESCRIPTOR.message_types_by_name.values()
    if (kind := message.GetOptions().Extensions[events_pb2.notification_type])
}


def check(post: SentNotification) -> str:
    """The notification type, after a comparison of the body with its message and its schema."""
    body = post.json
    schema = json.loads((FOLDER / f"{body['type']}.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema, format_checker=FormatChecker()).validate(body)
    # Every field is one of the message, and every field of the message is there.
    message = ParseDict(body, getattr(events_pb2, MESSAGES[body["type"]].name)())
    printed = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    assert as_numbers(printed) == body
    assert json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() == post.body
    return str(body["type"])


def as_numbers(printed: Any, name: str = "") -> Any:
    """Canonical JSON prints an int64 as a text; bodies have numbers."""
    if isinstance(printed, dict):
        return {key: as_numbers(value, key) for key, value in printed.items()}
    return int(printed) if name.endswith("amount") else printed


async def surplus(system: PayCenterSystem, code: str) -> None:
    """A late payment, whose refund is decided."""
    order = await system.order()
    attempt = await system.submit(order, code)
    await system.services.orders.close(system.caller, order.number)
    await system.simulator.pay(attempt.out_trade_no, force=True)
    await eventually(system.cases)

    async def decided() -> bool:
        await system.services.jobs.sync_refunds()
        system.clock.advance(11)
        (refund,) = await system.rows("SELECT state FROM pay_refund WHERE case_id IS NOT NULL")
        return bool(refund["state"] != "WAITING")

    await eventually(decided)


async def test_every_type_is_sent_as_the_contract_says(system: PayCenterSystem) -> None:
    await surplus(system, "wx_native")
    order = await system.paid("alipay_qr", user_id="用户")
    await system.decided(await system.refund(order, 30))
    sent = {check(post) for post in await system.deliver()}
    await system.simulator.fault("wx.refund", "refund_closed")
    refused = await system.paid("wx_native")
    await system.decided(await system.refund(refused, 30))
    sent |= {check(post) for post in await system.deliver()}
    await system.rows("DELETE FROM pay_notify_task")
    await system.rows("DELETE FROM pay_refund")
    await system.rows("DELETE FROM pay_case")
    await system.simulator.fault("wx.refund", "refund_closed")
    await surplus(system, "wx_native")
    sent |= {check(post) for post in await system.deliver()}
    assert sent == set(MESSAGES)


def test_there_is_a_schema_for_each_type() -> None:
    assert {path.name for path in FOLDER.glob("*.schema.json")} == {f"{kind}.schema.json" for kind in MESSAGES}
    page = (FOLDER / "README.md").read_text()
    assert all(f"## {kind}\n" in page for kind in MESSAGES)


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (datetime(2026, 1, 1, 8, tzinfo=UTC), "2026-01-01T08:00:00Z"),
        (datetime.fromisoformat("2026-01-01T08:00:00.5+08:00"), "2026-01-01T00:00:00.500Z"),
        (datetime.fromisoformat("2026-01-01T08:00:00.000001+08:00"), "2026-01-01T00:00:00.000001Z"),
    ],
)
def test_times_are_utc(at: datetime, text: str) -> None:
    assert utc(at) == text
