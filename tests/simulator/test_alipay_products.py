"""Alipay: mini program, app and wap payments, code payment and cancellation, encrypted contents."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from .merchant import AlipayClient, SimulatorSystem, verifies

pytestmark = pytest.mark.asyncio
CODE = "281234567890123456"


def trade(number: str, **more: Any) -> dict[str, Any]:
    return {"out_trade_no": number, "total_amount": "1.00", "subject": "Tea 茶"} | more


async def pay(client: AlipayClient, number: str, code: str = CODE, **more: Any) -> dict[str, Any]:
    biz = trade(number, scene="bar_code", auth_code=code, **more)
    return await client.call("alipay.trade.pay", biz, notify_url=client.system.receiver_url)


async def cancel(client: AlipayClient, number: str) -> dict[str, Any]:
    return await client.call("alipay.trade.cancel", {"out_trade_no": number})


async def send_order(system: SimulatorSystem, params: dict[str, str]) -> tuple[int, Any]:
    """Open an order string as the payer's app does."""
    async with system.session.post(
        system.base + "/simulator/alipay/app", data=urlencode(sorted(params.items())).encode()
    ) as answer:
        return answer.status, await answer.json()


@pytest.mark.parametrize(("field", "payer"), [("buyer_id", "2088123412341234"), ("buyer_open_id", "07-open")])
async def test_create_for_a_mini_program(system: SimulatorSystem, field: str, payer: str) -> None:
    client = AlipayClient(system)
    biz = trade("order1", product_code="JSAPI_PAY", op_app_id="2021001")
    created = await client.call("alipay.trade.create", biz | {field: payer}, notify_url=system.receiver_url)
    assert (created["code"], created["out_trade_no"]) == ("10000", "order1")
    again = await client.call("alipay.trade.create", biz | {field: payer})
    assert again["trade_no"] == created["trade_no"]
    assert (await client.query("order1"))["trade_status"] == "WAIT_BUYER_PAY"
    await system.post("/simulator/pay/order1")
    found = await client.query("order1")
    assert (found["trade_status"], found["trade_no"]) == ("TRADE_SUCCESS", created["trade_no"])
    assert found["buyer_user_id" if field == "buyer_id" else "buyer_open_id"] == payer
    notified = client.notified((await system.notifications(1))[0])
    assert notified["trade_status"] == "TRADE_SUCCESS"
    other = await client.call("alipay.trade.create", biz | {field: "2088000000000000"})
    assert other["sub_code"] == "ACQ.TRADE_HAS_SUCCESS"


@pytest.mark.parametrize(
    "more", [{"op_app_id": "2021001"}, {"buyer_id": "2088123412341234"}, {"buyer_id": "x", "op_app_id": "2021001"}]
)
async def test_create_needs_buyer_and_app(system: SimulatorSystem, more: dict[str, str]) -> None:
    answer = await AlipayClient(system).call("alipay.trade.create", trade("order1", product_code="JSAPI_PAY", **more))
    assert answer["sub_code"] == "ACQ.INVALID_PARAMETER"


async def test_app_order_string(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    biz = trade("order1", product_code="QUICK_MSECURITY_PAY")
    params = client.params("alipay.trade.app.pay", biz, notify_url=system.receiver_url)
    assert (await client.query("order1"))["sub_code"] == "ACQ.TRADE_NOT_EXIST"
    status, opened = await send_order(system, params)
    assert (status, opened["out_trade_no"]) == (200, "order1")
    assert (await client.query("order1"))["trade_no"] == opened["trade_no"]
    assert (await system.post("/simulator/pay/order1")).status == 200
    await system.notifications(1)
    status, refused = await send_order(system, params | {"total_amount": "2.00"})
    assert (status, refused["sub_code"]) == (400, "isv.invalid-signature")
    status, refused = await send_order(system, params)
    assert (status, refused["sub_code"]) == (400, "ACQ.TRADE_HAS_SUCCESS")
    status, refused = await send_order(system, client.params("alipay.trade.query", biz))
    assert (status, refused["sub_code"]) == (400, "isv.invalid-method")


async def test_app_and_wap_at_the_gateway(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    app = client.params("alipay.trade.app.pay", trade("app1", product_code="QUICK_MSECURITY_PAY"))
    assert "Pay</button>" in (await client.raw(app))[1]
    wap = client.params("alipay.trade.wap.pay", trade("wap1", product_code="QUICK_WAP_WAY", quit_url="https://shop.example/q"))
    assert "https://shop.example/q" in (await client.raw(wap))[1]
    for more in ({"product_code": "FAST_INSTANT_TRADE_PAY"}, {"product_code": "QUICK_WAP_WAY", "quit_url": "x"}):
        assert "ACQ.INVALID_PARAMETER" in (await client.raw(client.params("alipay.trade.wap.pay", trade("wap2", **more))))[1]
    assert "ACQ.INVALID_PARAMETER" in (await client.raw(client.params("alipay.trade.app.pay", trade("app2", product_code="X"))))[1]


async def test_code_payment_paid_at_once(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    paid = await pay(client, "order1")
    assert (paid["code"], paid["total_amount"], paid["receipt_amount"]) == ("10000", "1.00", "1.00")
    assert paid["gmt_payment"] and paid["buyer_user_id"].startswith("2088")
    assert (await client.query("order1"))["trade_status"] == "TRADE_SUCCESS"
    notified = client.notified((await system.notifications(1))[0])
    assert (notified["trade_no"], notified["trade_status"]) == (paid["trade_no"], "TRADE_SUCCESS")
    assert (await pay(client, "order1"))["sub_code"] == "ACQ.TRADE_HAS_SUCCESS"


@pytest.mark.parametrize("code", ["", "241234567890123456", "2812345", "28123456789012345678901234", "28x234567890123456"])
async def test_invalid_payment_code(system: SimulatorSystem, code: str) -> None:
    answer = await pay(AlipayClient(system), "order1", code)
    assert answer["sub_code"] == ("ACQ.PAYMENT_AUTH_CODE_INVALID" if code else "ACQ.INVALID_PARAMETER")
    assert (await AlipayClient(system).query("order1"))["sub_code"] == "ACQ.TRADE_NOT_EXIST"


async def test_code_payment_confirmed_on_query(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    await system.fault("alipay.trade.pay", "in_process", queries=2)
    assert (await pay(client, "order1"))["code"] == "10003"
    assert (await pay(client, "order1"))["code"] == "10003"
    states = [(await client.query("order1"))["trade_status"] for _ in range(3)]
    assert states == ["WAIT_BUYER_PAY", "WAIT_BUYER_PAY", "TRADE_SUCCESS"]
    await system.notifications(1)


async def test_code_payment_confirmed_by_script(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    await system.fault("alipay.trade.pay", "in_process", times=2)
    assert (await pay(client, "order1"))["code"] == (await pay(client, "order2"))["code"] == "10003"
    for _ in range(4):
        assert (await client.query("order1"))["trade_status"] == "WAIT_BUYER_PAY"
    await system.restart()
    await system.post("/simulator/pay/order1")
    assert (await client.query("order1"))["trade_status"] == "TRADE_SUCCESS"
    await system.post("/simulator/fail/order2")
    assert (await client.query("order2"))["trade_status"] == "TRADE_CLOSED"
    assert (await pay(client, "order2"))["sub_code"] == "ACQ.PAYMENT_FAIL"
    assert (await system.post("/simulator/pay/order2")).status == 409


async def test_code_payment_declined(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    await system.fault("alipay.trade.pay", "decline", code="ACQ.BUYER_BANKCARD_BALANCE_NOT_ENOUGH")
    answer = await pay(client, "order1")
    assert (answer["code"], answer["sub_code"]) == ("40004", "ACQ.BUYER_BANKCARD_BALANCE_NOT_ENOUGH")
    assert (await client.query("order1"))["trade_status"] == "TRADE_CLOSED"
    await system.fault("alipay.trade.pay", "decline")
    assert (await pay(client, "order2"))["sub_code"] == "ACQ.BUYER_BALANCE_NOT_ENOUGH"
    assert (await cancel(client, "order2"))["action"] == "close"
    assert not system.received


async def test_any_call_can_be_declined(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    await system.fault("alipay.trade.precreate", "decline", code="ACQ.TOTAL_FEE_EXCEED")
    assert (await client.precreate("order1"))["sub_code"] == "ACQ.TOTAL_FEE_EXCEED"
    assert (await client.precreate("order1"))["code"] == "10000"


async def test_cancel(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    unknown = await cancel(client, "order0")
    assert (unknown["code"], unknown["retry_flag"]) == ("10000", "N") and "action" not in unknown
    await system.fault("alipay.trade.pay", "in_process")
    await pay(client, "order1")
    await system.fault("alipay.trade.cancel", "retry_flag", times=2)
    for _ in range(2):
        answer = await cancel(client, "order1")
        assert (answer["code"], answer["retry_flag"]) == ("10000", "Y") and "action" not in answer
    assert (await client.query("order1"))["trade_status"] == "WAIT_BUYER_PAY"
    assert (await cancel(client, "order1"))["action"] == "close"
    assert (await client.query("order1"))["trade_status"] == "TRADE_CLOSED"
    assert (await system.post("/simulator/pay/order1")).status == 409
    await pay(client, "order2")
    await system.notifications(1)
    assert (await cancel(client, "order2"))["action"] == "refund"
    assert "action" not in await cancel(client, "order2")
    assert (await client.query("order2"))["trade_status"] == "TRADE_CLOSED"
    notified = client.notified((await system.notifications(2))[1])
    assert (notified["trade_status"], notified["refund_fee"]) == ("TRADE_CLOSED", "1.00")
    await pay(client, "order3")
    await system.advance(86401)
    assert (await cancel(client, "order3"))["code"] == "40004"


class Sealing(AlipayClient):
    """Encrypts requests and decrypts answers."""

    def cipher(self) -> Cipher[modes.CBC]:
        return Cipher(algorithms.AES(base64.b64decode(self.ids["aes_key"])), modes.CBC(bytes(16)))

    def params(self, method: str, biz: dict[str, Any], **more: str) -> dict[str, str]:
        plain = json.dumps(biz, ensure_ascii=False).encode()
        padded = plain + bytes([16 - len(plain) % 16]) * (16 - len(plain) % 16)
        encryptor = self.cipher().encryptor()
        encrypted = base64.b64encode(encryptor.update(padded) + encryptor.finalize()).decode()
        return super().params(method, biz, **{"encrypt_type": "AES", "biz_content": encrypted} | more)

    async def call(self, method: str, biz: dict[str, Any], *, signed: bool = True, **more: str) -> dict[str, Any]:
        _, self.last = await self.raw(self.params(method, biz, **more))
        node = method.replace(".", "_") + "_response"
        start = self.last.index('"', self.last.index(f'"{node}"') + len(node) + 2)
        end = self.last.index('"', start + 1)
        public, text = self.public, self.last[start : end + 1]
        assert self.verified_text(public, text) is signed
        decryptor = self.cipher().decryptor()
        padded = decryptor.update(base64.b64decode(text[1:-1], validate=True)) + decryptor.finalize()
        document: dict[str, Any] = json.loads(padded[: -padded[-1]])
        return document

    def verified_text(self, public: Any, text: str) -> bool:
        return verifies(public, text.encode(), json.loads(self.last).get("sign", ""))


@pytest.mark.parametrize("certificates", [False, True])
async def test_encrypted_contents(system: SimulatorSystem, certificates: bool) -> None:
    client = Sealing(system, certificates=certificates)
    created = await client.precreate("order1", "12.34")
    assert created["qr_code"].startswith("https://")
    await system.post("/simulator/pay/order1")
    assert (await client.query("order1"))["total_amount"] == "12.34"
    assert (await client.query("order2"))["sub_code"] == "ACQ.TRADE_NOT_EXIST"
    client.notified((await system.notifications(1))[0])
    page = client.params("alipay.trade.page.pay", trade("page1", product_code="FAST_INSTANT_TRADE_PAY"))
    assert "Pay</button>" in (await client.raw(page))[1]
    await system.fault("alipay.trade.query", "bad_signature")
    await client.call("alipay.trade.query", {"out_trade_no": "order1"}, signed=False)


async def test_invalid_encrypted_contents(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    answer = await client.call("alipay.trade.query", {"out_trade_no": "order1"}, encrypt_type="AES")
    assert answer["sub_code"] == "isv.decryption-error-unknown"
    answer = await client.call("alipay.trade.query", {"out_trade_no": "order1"}, encrypt_type="DES")
    assert answer["sub_code"] == "isv.invalid-encrypt-type"


async def test_timeout_after_code_payment(system: SimulatorSystem) -> None:
    client = AlipayClient(system)
    await system.fault("alipay.trade.pay", "reset")
    with pytest.raises(aiohttp.ClientError):
        await pay(client, "order1")
    assert (await client.query("order1"))["trade_status"] == "TRADE_SUCCESS"
    assert (await cancel(client, "order1"))["action"] == "refund"
