"""Certificate rotation, and refund notifications in v2 XML."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from .merchant import AlipayClient, Received, SimulatorSystem, WechatClient, public_key, verifies

pytestmark = pytest.mark.asyncio


async def test_wechat_platform_certificate(system: SimulatorSystem) -> None:
    client = WechatClient(system, public_key_mode=False)
    await client.create("order0001")
    assert (await system.post("/simulator/rotation", {"channel": "wechatpay"})).json == {
        "wechatpay": True,
        "alipay": False,
        "migration": False,
    }
    answer = await client.call("GET", "/v3/certificates")
    assert answer.headers["Wechatpay-Serial"] == client.ids["platform_next_serial"]
    assert [item["serial_no"] for item in answer.json["data"]] == [
        client.ids["platform_next_serial"],
        client.ids["platform_serial"],
    ]
    await system.post("/simulator/pay/order0001")
    (notification,) = await system.notifications(1)
    headers = notification.headers
    message = f"{headers['Wechatpay-Timestamp']}\n{headers['Wechatpay-Nonce']}\n".encode() + notification.body + b"\n"
    following = public_key(system.keys.file("wechatpay", "platform_cert_next.pem"))
    assert verifies(following, message, headers["Wechatpay-Signature"])
    await system.restart()
    assert (await client.query("order0001")).headers["Wechatpay-Serial"] == client.ids["platform_next_serial"]
    other = WechatClient(system)
    answer = await other.query("order0001")
    assert other.verified(answer.headers, answer.body) == other.serial
    await system.post("/simulator/rotation", {"channel": "wechatpay", "done": False})
    assert (await client.query("order0001")).headers["Wechatpay-Serial"] == client.ids["platform_serial"]
    assert (await system.post("/simulator/rotation", {"channel": "x"})).status == 400


async def test_alipay_certificate(system: SimulatorSystem) -> None:
    client, other = AlipayClient(system, certificates=True), AlipayClient(system)
    await client.precreate("order1")
    await system.post("/simulator/rotation", {"channel": "alipay"})
    await other.query("order1")
    await client.call("alipay.trade.query", {"out_trade_no": "order1"}, signed=False)
    serial = json.loads(client.last)["alipay_cert_sn"]
    assert serial == client.ids["alipay_next_cert_sn"] != client.ids["alipay_cert_sn"]
    client.public = public_key(system.keys.file("alipay", "alipayCertPublicKey_RSA2_next.crt"))
    answer = await client.call("alipay.open.app.alipaycert.download", {"alipay_cert_sn": serial})
    certificate = x509.load_pem_x509_certificate(base64.b64decode(answer["alipay_cert_content"]))
    certificate.verify_directly_issued_by(
        x509.load_pem_x509_certificates(system.keys.file("alipay", "alipayRootCert.crt").read_bytes())[0]
    )
    await system.post("/simulator/pay/order1")
    client.notified((await system.notifications(1))[0])


def opened(system: SimulatorSystem, notification: Received) -> dict[str, str]:
    """The refund of a v2 XML notification."""
    fields = dict(re.findall(r"<(\w+)>([^<]*)</\1>", notification.body.decode().removeprefix("<xml>")))
    assert (fields["mch_id"], fields["return_code"]) == (system.keys.wechatpay["mchid"], "SUCCESS")
    key = hashlib.md5(system.keys.wechatpay["apiv2_key"].encode()).hexdigest().encode()
    decryptor = Cipher(algorithms.AES(key), modes.ECB()).decryptor()
    padded = decryptor.update(base64.b64decode(fields["req_info"])) + decryptor.finalize()
    return dict(re.findall(r"<(\w+)>([^<]*)</\1>", padded[: -padded[-1]].decode().removeprefix("<root>")))


async def test_xml_refund_notification(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    await system.post("/simulator/pay/order0001", {"notify": False})
    good = b"<xml><return_code><![CDATA[SUCCESS]]></return_code><return_msg><![CDATA[OK]]></return_msg></xml>"
    system.answers[:] = [(200, b"success"), (200, good)]
    await system.post("/simulator/refund/order0001", {"amount": 30, "notify_url": system.receiver_url})
    notified = opened(system, (await system.notifications(1))[0])
    assert (notified["refund_status"], notified["refund_fee"], notified["total_fee"]) == ("SUCCESS", "30", "100")
    assert notified["refund_request_source"] == "VENDOR_PLATFORM"
    await system.advance(16)
    await system.notifications(2)
    await system.fault("wx.refund", "xml_notify")
    system.answers[:] = [(200, good)]
    await client.refund("order0001", "refund1", 70)
    notified = opened(system, (await system.notifications(3))[2])
    assert (notified["out_refund_no"], notified["refund_request_source"]) == ("refund1", "API")
    await system.advance(86400)
    await system.notifications(3)


async def test_expired_qr_code_frees_its_number(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    first = await client.precreate("order1", qr_code_timeout_express="1m")
    await system.advance(61)
    second = await client.precreate("order1", "2.00", qr_code_timeout_express="1m")
    assert second["code"] == "10000"
    assert second["qr_code"] != first["qr_code"]
    assert (await system.post("/simulator/pay/order1", {"notify": False})).json["paid_amount"] == 200
