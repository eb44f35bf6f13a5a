"""WeChat Pay v3: create, pay, query, close, expiry, certificates."""

from __future__ import annotations

import base64
import datetime
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .merchant import CHINA, SimulatorSystem, WechatClient

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("public_key_mode", [True, False])
async def test_pay_query_notify(system: SimulatorSystem, public_key_mode: bool) -> None:
    client = WechatClient(system, public_key_mode=public_key_mode)
    serial = system.keys.wechatpay["public_key_id" if public_key_mode else "platform_serial"]
    created = await client.create("order0001", attach="x=1")
    assert created.status == 200
    assert created.json["code_url"].startswith("weixin://wxpay/bizpayurl?pr=")
    assert client.verified(created.headers, created.body) == serial
    assert "Request-ID" in created.headers
    unpaid = (await client.query("order0001")).json
    assert unpaid["trade_state"] == "NOTPAY"
    assert unpaid["amount"]["total"] == 100
    assert "transaction_id" not in unpaid

    paid = await system.post("/simulator/pay/order0001", {"payer": "oPayer"})
    assert paid.status == 200
    assert paid.json["wire_state"] == "SUCCESS"
    answer = await client.query("order0001")
    assert client.verified(answer.headers, answer.body) == serial
    transaction = answer.json
    assert transaction["trade_state"] == "SUCCESS"
    assert transaction["payer"] == {"openid": "oPayer"}
    assert transaction["amount"] == {"total": 100, "payer_total": 100, "currency": "CNY", "payer_currency": "CNY"}
    assert transaction["success_time"].endswith("+08:00")
    same = await client.call("GET", f"/v3/pay/transactions/id/{transaction['transaction_id']}?mchid={client.ids['mchid']}")
    assert same.json == transaction

    (notification,) = await system.notifications(1)
    assert client.verified(notification.headers, notification.body) == serial
    assert client.opened(notification) == transaction
    assert b'"event_type":"TRANSACTION.SUCCESS"' in notification.body


async def test_used_number(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    first = await client.create("order0001")
    again = await client.create("order0001")
    assert again.json == first.json
    other = await client.create("order0001", total=200)
    assert (other.status, other.json["code"]) == (403, "OUT_TRADE_NO_USED")
    other_kind = await client.create("order0001", kind="app")
    assert (other_kind.status, other_kind.json["code"]) == (403, "OUT_TRADE_NO_USED")
    await system.post("/simulator/pay/order0001")
    paid = await client.create("order0001")
    assert (paid.status, paid.json["code"]) == (400, "ORDERPAID")
    assert "Wechatpay-Signature" not in paid.headers
    refused = await client.close("order0001")
    assert (refused.status, refused.json["code"]) == (400, "ORDERPAID")


async def test_close(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await client.create("order|*-1")
    for _ in range(2):
        closed = await client.close("order|*-1")
        assert (closed.status, closed.body) == (204, b"")
        assert client.verified(closed.headers, b"") == client.serial
    assert (await client.query("order|*-1")).json["trade_state"] == "CLOSED"
    again = await client.create("order|*-1")
    assert (again.status, again.json["code"]) == (400, "ORDER_CLOSED")
    refused = await system.post("/simulator/pay/order%7C*-1")
    assert refused.status == 409
    late = await system.post("/simulator/pay/order%7C*-1", {"force": True})
    assert late.status == 200
    assert (await client.query("order|*-1")).json["trade_state"] == "SUCCESS"
    await system.notifications(1)


async def test_unknown_orders(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    for answer in (await client.query("order0001"), await client.close("order0001")):
        assert (answer.status, answer.json["code"]) == (404, "ORDER_NOT_EXIST")
        assert "Wechatpay-Signature" not in answer.headers
    assert (await system.post("/simulator/pay/order0001")).status == 404
    assert (await client.call("GET", "/v3/no/such/thing")).status == 404


async def test_expired_order_stays_notpay(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    expires = datetime.datetime.fromtimestamp(int(time.time()) + 300, CHINA).isoformat()
    await client.create("order0001", time_expire=expires)
    await system.advance(299)
    assert (await system.get("/simulator/trades/order0001")).json["expired"] is False
    await system.advance(2)
    assert (await system.post("/simulator/pay/order0001")).status == 409
    assert (await client.query("order0001")).json["trade_state"] == "NOTPAY"
    assert (await client.close("order0001")).status == 204


async def test_minimum_expiry(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    past = datetime.datetime.fromtimestamp(int(time.time()) - 5, CHINA).isoformat()
    assert (await client.create("order0001", time_expire=past)).status == 200
    await system.advance(50)
    assert (await system.post("/simulator/pay/order0001")).status == 200


async def test_other_products(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    assert (await client.create("app0001", kind="app")).json["prepay_id"]
    assert (await client.create("jsapi0001", kind="jsapi", payer={"openid": "oX"})).json["prepay_id"]
    scene = {"payer_client_ip": "127.0.0.1", "h5_info": {"type": "Wap"}}
    assert (await client.create("h50001", kind="h5", scene_info=scene)).json["h5_url"].startswith("https://")
    assert (await client.create("jsapi0002", kind="jsapi")).json["code"] == "PARAM_ERROR"
    assert (await client.create("h50002", kind="h5")).json["code"] == "PARAM_ERROR"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"out_trade_no": "short"}, "PARAM_ERROR"),
        ({"out_trade_no": "x" * 33}, "PARAM_ERROR"),
        ({"description": ""}, "PARAM_ERROR"),
        ({"description": "x" * 128}, "PARAM_ERROR"),
        ({"amount": {"total": 0}}, "PARAM_ERROR"),
        ({"amount": {"total": "100"}}, "PARAM_ERROR"),
        ({"amount": {"total": 1, "currency": "USD"}}, "PARAM_ERROR"),
        ({"notify_url": "http://127.0.0.1/x?y=1"}, "PARAM_ERROR"),
        ({"mchid": "1900000001"}, "PARAM_ERROR"),
        ({"appid": "wx0000000000000000"}, "APPID_MCHID_NOT_MATCH"),
        ({"time_expire": "2099-01-01T00:00:00+08:00"}, "PARAM_ERROR"),
        ({"time_expire": "tomorrow"}, "PARAM_ERROR"),
    ],
)
async def test_invalid_creates(system: SimulatorSystem, change: dict[str, object], code: str) -> None:
    client = WechatClient(system)
    answer = await client.call("POST", "/v3/pay/transactions/native", client.order("order0001") | change)
    assert (answer.status, answer.json["code"]) == (400, code)


async def test_certificates(system: SimulatorSystem) -> None:
    client = WechatClient(system, public_key_mode=False)
    answer = await client.call("GET", "/v3/certificates")
    assert client.verified(answer.headers, answer.body) == client.ids["platform_serial"]
    (item,) = answer.json["data"]
    encrypted = item["encrypt_certificate"]
    assert (len(encrypted["nonce"]), encrypted["associated_data"]) == (12, "certificate")
    cipher = AESGCM(client.ids["apiv3_key"].encode())
    plain = cipher.decrypt(encrypted["nonce"].encode(), base64.b64decode(encrypted["ciphertext"]), b"certificate")
    certificate = x509.load_pem_x509_certificate(plain)
    assert f"{certificate.serial_number:X}" == item["serial_no"] == client.ids["platform_serial"]
    assert certificate.not_valid_before_utc < datetime.datetime.now(datetime.UTC) < certificate.not_valid_after_utc


async def test_failed_payment_does_not_notify(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    assert (await system.post("/simulator/fail/order0001")).json["wire_state"] == "NOTPAY"
    assert (await system.post("/simulator/fail/order0001", {"state": "PAYERROR"})).json["wire_state"] == "PAYERROR"
    assert (await client.query("order0001")).json["trade_state"] == "PAYERROR"
    assert (await system.post("/simulator/fail/order0001", {"state": "NONSENSE"})).status == 400
    await system.notifications(0)


async def test_wrong_amount(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    await system.post("/simulator/pay/order0001", {"amount": 1})
    (notification,) = await system.notifications(1)
    assert client.opened(notification)["amount"]["total"] == 1
    assert (await client.query("order0001")).json["amount"]["total"] == 1
