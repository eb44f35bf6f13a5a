"""Runs inside an environment that has `wechatpayv3`: the SDK makes every operation that it has for payments at the simulator, in
both key modes and with both its clients (sync and async), verifies its notifications, and verifies requests that our codecs built.
Only the SDK's base address is changed.
"""

from __future__ import annotations

import asyncio
import functools
import gzip
import hashlib
import inspect
import json
import re
import sys
import time
from typing import Any
from urllib.parse import urlsplit

import wechatpayv3  # type: ignore[import-not-found,import-untyped,unused-ignore]
from checks import Checks, Settings, china_date, eventually  # type: ignore[import-not-found,unused-ignore]
from surface import Watched, compare, operations  # type: ignore[import-not-found,unused-ignore]
from wechatpayv3 import async_, core, utils  # type: ignore[import-not-found,import-untyped,unused-ignore]
from wechatpayv3.async_ import core as async_core  # type: ignore[import-not-found,import-untyped,unused-ignore]

# What the SDK has beyond the ways to pay of one merchant: whole modules of it, and four operations beside those for payments.
ELSEWHERE = {
    "apply4subject": "verification of sub-merchants",
    "applyment": "applications of sub-merchants",
    "businesscircle": "business circles",
    "capital": "lists of banks",
    "complaint": "complaints",
    "fapiao": "invoices",
    "goldplan": "pages after a payment",
    "marketing": "coupons",
    "mchtransfer": "transfers to people",
    "media": "uploads",
    "merchantrisk": "risk reports",
    "parking": "parking",
    "payscore": "pay after service",
    "profitsharing": "profit sharing",
    "smartguide": "shop assistants",
    "transfer": "transfers to people, the older way",
    "combine_pay": "several merchants' orders in one",
    "combine_query": "several merchants' orders in one",
    "combine_close": "several merchants' orders in one",
    "submch_fundflow_bill": "bills of sub-merchants",
}


class Blocking:
    """The SDK's async client, one call at a time, so that both clients make the same journey."""

    def __init__(self, sdk: Any) -> None:
        self._sdk, self._loop = sdk, asyncio.new_event_loop()
        self._loop.run_until_complete(sdk.__aenter__())

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._sdk, name)

        def call(*arguments: Any, **named: Any) -> Any:
            result = method(*arguments, **named)
            # Some of the SDK's coroutines answer with another one that they forgot to await.
            while inspect.isawaitable(result):
                result = self._loop.run_until_complete(result)
            return result

        return call

    def close_client(self) -> None:
        self._loop.run_until_complete(self._sdk.__aexit__(None, None, None))
        self._loop.close()


def client(settings: Any, *, public_key_mode: bool, asynchronous: bool) -> Any:
    """The SDK's client. In certificate mode it downloads /v3/certificates while it is made (or entered)."""
    # The address is an instance attribute set in the constructor, which in certificate mode already calls out.
    for made in (core.Core, async_core.AsyncCore):
        made._gate_way = property(lambda self: settings.base, lambda self, value: None)
    ids = settings.ids["wechatpay"]
    mode = {}
    if public_key_mode:
        mode = {"public_key": settings.text("wechatpay", "pub_key.pem"), "public_key_id": ids["public_key_id"]}
    kind = async_.AsyncWeChatPay if asynchronous else wechatpayv3.WeChatPay
    sdk = kind(
        wechatpay_type=(async_ if asynchronous else wechatpayv3).WeChatPayType.NATIVE,
        mchid=ids["mchid"],
        private_key=settings.text("wechatpay", "apiclient_key.pem"),
        cert_serial_no=ids["merchant_serial"],
        appid=ids["appid"],
        apiv3_key=ids["apiv3_key"],
        notify_url=settings.notify_url,
        timeout=(5, 10),
        **mode,
    )
    return Blocking(sdk) if asynchronous else sdk


class Journey:
    """One key mode from creation to refund; every 2xx answer is verified by the SDK itself, which raises otherwise."""

    def __init__(self, settings: Any, checks: Any, mode: str, *, asynchronous: bool) -> None:
        self.settings, self.mode, self.asynchronous = settings, mode, asynchronous
        self.kind: type = async_.AsyncWeChatPay if asynchronous else wechatpayv3.WeChatPay
        self.kinds = (async_ if asynchronous else wechatpayv3).WeChatPayType
        self.style = "async" if asynchronous else "sync"
        self.number = f"interop_{mode[:4]}{self.style[0]}_{int(time.time())}"
        self.mark = f"/wechat/{mode}_{self.style}"
        self.run = checks.run
        self.sdk: Any = None

    def all(self) -> None:
        """The checks in order."""
        for check in (
            self.start, self.native, self.native_again, self.unpaid_query, self.refused, self.paid_query, self.payment_notification,
            self.refund, self.refund_query, self.refund_notification, self.refunded_query, self.close, self.wrong_signature,
            self.jsapi, self.query_by_transaction, self.tampered_notification, self.mini_program, self.app, self.h5, self.codepay,
            self.codepay_reverse, self.abnormal_refund, self.payer_parameters, self.decrypted_notification, self.bill_of_nothing,
            self.bills, self.other_products, self.surface, self.end,
        ):  # fmt: skip
            self.run(f"wechatpayv3 {self.mode} {self.style}: {check.__name__}", check)

    def start(self) -> None:
        made = client(self.settings, public_key_mode=self.mode == "public_key", asynchronous=self.asynchronous)
        self.sdk = Watched(made)

    def end(self) -> None:
        if self.asynchronous:
            self.sdk.close_client()

    def answer(self, result: tuple[int, Any], status: int = 200) -> Any:
        code, text = result
        assert code == status, (code, text)
        return json.loads(text) if text else None

    def pay(self, number: str, **more: Any) -> tuple[int, Any]:
        result: tuple[int, Any] = self.sdk.pay(
            description="Tea 茶",
            out_trade_no=number,
            amount={"total": 100},
            notify_url=self.settings.notify_url + self.mark,
            **more,
        )
        return result

    def native(self) -> None:
        self.code_url = self.answer(self.pay(self.number))["code_url"]
        assert self.code_url.startswith("weixin://wxpay/bizpayurl?pr=")

    def native_again(self) -> None:
        assert self.answer(self.pay(self.number))["code_url"] == self.code_url

    def unpaid_query(self) -> None:
        assert self.answer(self.sdk.query(out_trade_no=self.number))["trade_state"] == "NOTPAY"

    def refused(self) -> None:
        assert self.answer(self.sdk.query(out_trade_no="interop_unknown"), 404)["code"] == "ORDER_NOT_EXIST"

    def paid_query(self) -> None:
        self.settings.control(f"/simulator/pay/{self.number}", {})
        self.transaction = self.answer(self.sdk.query(out_trade_no=self.number))
        assert self.transaction["trade_state"] == "SUCCESS"
        assert self.transaction["amount"]["total"] == 100

    def payment_notification(self) -> None:
        headers, body = self.settings.notification(self.mark)
        document = self.sdk.callback(headers, body)
        assert document, "callback() refused the notification"
        assert document["event_type"] == "TRANSACTION.SUCCESS"
        assert document["resource"] == self.transaction

    def refund(self) -> None:
        amount = {"refund": 40, "total": 100, "currency": "CNY"}
        answer = self.answer(
            self.sdk.refund(self.number + "r", amount, out_trade_no=self.number, notify_url=self.settings.notify_url + self.mark)
        )
        assert answer["status"] == "PROCESSING"

    def refund_query(self) -> None:
        answer = self.until(self.number + "r", "SUCCESS")
        assert answer["amount"]["refund"] == 40

    def refund_notification(self) -> None:
        document = self.sdk.callback(*self.settings.notification(self.mark))
        assert document["event_type"] == "REFUND.SUCCESS"
        assert document["resource"]["refund_status"] == "SUCCESS"
        assert document["resource"]["amount"]["refund"] == 40

    def refunded_query(self) -> None:
        assert self.answer(self.sdk.query(out_trade_no=self.number))["trade_state"] == "REFUND"

    def close(self) -> None:
        self.answer(self.pay(self.number + "c"))
        assert self.answer(self.sdk.close(self.number + "c"), 204) is None
        assert self.answer(self.sdk.query(out_trade_no=self.number + "c"))["trade_state"] == "CLOSED"

    def wrong_signature(self) -> None:
        self.settings.control("/simulator/faults", [{"api": "wx.query", "fault": "bad_signature"}])
        try:
            self.sdk.query(out_trade_no=self.number)
        except Exception as error:
            if "verify" in str(error):
                return
            raise
        raise AssertionError("the SDK took an answer with a wrong signature")

    def jsapi(self) -> None:
        result = self.pay(self.number + "j", payer={"openid": "oInterop"}, pay_type=self.kinds.JSAPI)
        assert self.answer(result)["prepay_id"]

    def query_by_transaction(self) -> None:
        answer = self.answer(self.sdk.query(transaction_id=self.transaction["transaction_id"]))
        assert answer["out_trade_no"] == self.number

    def tampered_notification(self) -> None:
        self.settings.control(f"/simulator/resend/{self.number}", {})
        headers, body = self.settings.notification(self.mark)
        assert self.sdk.callback(headers, body.replace(b"REFUND", b"RFFUND")) is None
        assert self.sdk.callback(headers, body)

    def mini_program(self) -> None:
        result = self.pay(self.number + "m", payer={"openid": "oInterop"}, pay_type=self.kinds.MINIPROG)
        assert self.answer(result)["prepay_id"]

    def app(self) -> None:
        assert self.answer(self.pay(self.number + "a", pay_type=self.kinds.APP))["prepay_id"]

    def h5(self) -> None:
        scene = {"payer_client_ip": "203.0.113.9", "h5_info": {"type": "Wap"}}
        answer = self.answer(self.pay(self.number + "h", scene_info=scene, pay_type=self.kinds.H5))
        assert answer["h5_url"].startswith("https://wx.tenpay.com/")

    def pay_by_code(self, number: str) -> Any:
        return self.sdk.pay(
            description="Tea 茶", out_trade_no=number, amount={"total": 100}, payer={"auth_code": "134567890123456789"},
            scene_info={"store_info": {"id": "1"}}, pay_type=self.kinds.CODEPAY,
        )  # fmt: skip

    def codepay(self) -> None:
        answer = self.answer(self.pay_by_code(self.number + "b"))
        assert (answer["trade_state"], answer["amount"]["total"]) == ("SUCCESS", 100)
        assert self.answer(self.sdk.query(out_trade_no=self.number + "b"))["trade_state"] == "SUCCESS"

    def codepay_reverse(self) -> None:
        self.settings.control("/simulator/faults", [{"api": "wx.codepay", "fault": "user_paying"}])
        assert self.answer(self.pay_by_code(self.number + "v"))["trade_state"] == "USERPAYING"
        assert self.answer(self.sdk.codepay_reverse(self.number + "v"))["out_trade_no"] == self.number + "v"
        assert self.answer(self.sdk.query(out_trade_no=self.number + "v"))["trade_state"] == "REVOKED"

    def until(self, refund: str, state: str) -> Any:
        """The answer of the refund query when the refund has this state."""
        return eventually(lambda: self.answer(self.sdk.query_refund(refund)), lambda answer: answer["status"] == state)

    def abnormal_refund(self) -> None:
        number = self.number + "x"
        self.settings.control("/simulator/faults", [{"api": "wx.refund", "fault": "refund_abnormal"}])
        amount = {"refund": 30, "total": 100, "currency": "CNY"}
        self.answer(self.sdk.refund(number, amount, out_trade_no=self.number + "b"))
        refund = self.until(number, "ABNORMAL")
        options = {"type": "MERCHANT_BANK_CARD"}
        self.answer(self.sdk.abnormal_refund(refund["refund_id"], number, **options))
        self.until(number, "SUCCESS")

    def payer_parameters(self) -> None:
        signed = self.sdk.sign(["appid", "1700000000", "nonce", "prepay_id=wx1"])
        certificate = utils.load_certificate(self.settings.text("wechatpay", "apiclient_cert.pem"))
        # The helper joins three fields and a line feed each; the first here is the first two of four.
        assert utils.rsa_verify("appid\n1700000000", "nonce", "prepay_id=wx1", signed, certificate.public_key())

    def decrypted_notification(self) -> None:
        self.settings.control(f"/simulator/resend/{self.number}", {})
        headers, body = self.settings.notification(self.mark)
        plain = json.loads(self.sdk.decrypt_callback(headers, body))
        assert plain["out_trade_no"] == self.number
        assert plain == self.sdk.callback(headers, body)["resource"]
        # What merchants and WeChat seal for each other with RSA; here the merchant's own certificate stands for theirs.
        certificate = utils.load_certificate(self.settings.text("wechatpay", "apiclient_cert.pem"))
        assert self.sdk.decrypt(utils.rsa_encrypt("茶", certificate.public_key())) == "茶"

    def other_products(self) -> None:
        """A product that the simulator does not have is not there, as at a gateway; nothing is half understood."""
        for name, module in sorted(operations(self.kind).items()):
            if name not in ELSEWHERE and module not in ELSEWHERE:
                continue
            needed = [
                one for one in inspect.signature(getattr(self.kind, name)).parameters.values()
                if one.name != "self" and one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD
            ]  # fmt: skip
            try:
                result = getattr(self.sdk.sdk, name)(*("x1" for _ in needed))
            except Exception as error:
                # Its own check of the arguments, or its own fault; all but one that does not verify.
                if "verify" in str(error):
                    raise
                continue
            assert 400 <= result[0] < 500, (name, result)

    def surface(self) -> None:
        compare(self.kind, self.sdk.called, ELSEWHERE)

    def bill_of_nothing(self) -> None:
        assert self.answer(self.sdk.trade_bill("2020-01-02"), 400)["code"] == "NO_STATEMENT_EXIST"

    def bills(self) -> None:
        today = china_date()
        with self.settings.tomorrow():
            for offered in (self.sdk.trade_bill(today), self.sdk.fundflow_bill(today)):
                offer = self.answer(offered)
                code, content = self.sdk.download_bill(offer["download_url"])
                assert code == 200
                assert isinstance(content, bytes)
                text = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
                assert offer["hash_value"] in (hashlib.sha1(text).hexdigest(), hashlib.sha1(content).hexdigest())
                assert self.transaction["transaction_id"].encode() in text


def verify_request(settings: Any, request: dict[str, Any]) -> None:
    """A request that our codec built, checked with the SDK's own rsa_verify and the merchant's certificate."""
    schema, _, rest = request["headers"]["Authorization"].partition(" ")
    assert schema == "WECHATPAY2-SHA256-RSA2048"
    fields = dict(re.findall(r'([a-z_]+)="([^"]*)"', rest))
    assert fields["mchid"] == settings.ids["wechatpay"]["mchid"]
    assert fields["serial_no"].upper() == settings.ids["wechatpay"]["merchant_serial"]
    certificate = utils.load_certificate(settings.text("wechatpay", "apiclient_cert.pem"))
    parts = urlsplit(request["url"])
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    # The SDK's helper joins three fields and a line feed each; the first here is the first three of a request's five.
    first = f"{request['method']}\n{path}\n{fields['timestamp']}"
    assert utils.rsa_verify(first, fields["nonce_str"], request["body"], fields["signature"], certificate.public_key())
    assert not utils.rsa_verify(first, fields["nonce_str"], request["body"] + " ", fields["signature"], certificate.public_key())


def main() -> int:
    """All checks."""
    settings, checks = Settings(sys.argv[1]), Checks()
    for mode in ("public_key", "certificate"):
        for asynchronous in (False, True):
            Journey(settings, checks, mode, asynchronous=asynchronous).all()
    for request in settings.requests:
        checks.run(f"wechatpayv3 verifies our request: {request['name']}", functools.partial(verify_request, settings, request))
    code: int = checks.exit_code
    return code


if __name__ == "__main__":
    sys.exit(main())
