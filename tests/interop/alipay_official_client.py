"""Runs inside an environment that has the official `alipay-sdk-python`: the SDK pays, queries, closes, cancels and refunds at the
simulator, verifies its notifications, and verifies requests that our codecs built. Key mode only: it has no certificate mode.
"""

from __future__ import annotations

import functools
import http.client
import json
import sys
import time
from importlib import import_module
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from urllib.request import Request, urlopen

from alipay.aop.api.AlipayClientConfig import AlipayClientConfig  # type: ignore[import-not-found,import-untyped,unused-ignore]
from alipay.aop.api.DefaultAlipayClient import DefaultAlipayClient  # type: ignore[import-not-found,import-untyped,unused-ignore]
from alipay.aop.api.exception.Exception import ResponseException  # type: ignore[import-not-found,import-untyped,unused-ignore]
from alipay.aop.api.util import SignatureUtils, WebUtils  # type: ignore[import-not-found,import-untyped,unused-ignore]
from checks import Checks, Settings  # type: ignore[import-not-found,unused-ignore]


def connection(url: str, query_string: str, timeout: float) -> tuple[str, http.client.HTTPConnection]:
    """In place of the SDK's own, which always connects to port 80 or 443, and raises TypeError for an address that names a port."""
    parts = urlsplit(url)
    return f"{parts.path}?{query_string}", http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=timeout)


def client(settings: Any) -> Any:
    """The SDK's client; its gateway is a setting."""
    WebUtils.get_http_connection = connection
    config = AlipayClientConfig()
    config.server_url = settings.base + "/gateway.do"
    config.app_id = settings.ids["alipay"]["app_id"]
    config.app_private_key = settings.text("alipay", "app_private_key_pkcs1.pem")
    config.alipay_public_key = settings.text("alipay", "alipay_public_key.pem")
    return DefaultAlipayClient(config)


def request(name: str, fields: dict[str, Any], notify_url: str = "") -> Any:
    """The SDK's request of an API, such as AlipayTradeQuery, with the SDK's model filled from these fields."""
    model = getattr(import_module(f"alipay.aop.api.domain.{name}Model"), f"{name}Model")()
    for field, value in fields.items():
        setattr(model, field, value)
    made = getattr(import_module(f"alipay.aop.api.request.{name}Request"), f"{name}Request")(biz_model=model)
    if notify_url:
        made.notify_url = notify_url
    return made


def verified(key: str, params: dict[str, str], sign: str) -> bool:
    """With the SDK's own helpers; what does not verify is an exception of its RSA library."""
    try:
        return bool(SignatureUtils.verify_with_rsa(key, SignatureUtils.get_sign_content(params).encode(), sign))
    except Exception as error:
        if "Verification failed" in str(error):
            return False
        raise


class Journey:
    """From creation to refund; the SDK verifies every answer itself and raises otherwise."""

    def __init__(self, settings: Any, checks: Any) -> None:
        self.settings, self.run = settings, checks.run
        self.number = f"interop_official_{int(time.time())}"
        self.mark = "/alipay/official"
        self.notify_url = settings.notify_url + self.mark
        self.order = {"subject": 'Tea 茶 +& "1"', "total_amount": "1.00"}
        self.sdk = client(settings)

    def all(self) -> None:
        """The checks in order."""
        for check in (
            self.precreate, self.not_scanned, self.paid_query, self.payment_notification, self.refund, self.refund_again,
            self.refund_query, self.create_and_close, self.code_payment, self.code_payment_cancelled, self.page_url, self.page_form,
            self.wap, self.app, self.wrong_signature, self.brace,
        ):  # fmt: skip
            self.run(f"alipay-sdk-python: {check.__name__}", check)

    def call(self, name: str, number: str, *, notify: bool = False, **fields: Any) -> dict[str, Any]:
        content = self.sdk.execute(request(name, {"out_trade_no": number, **fields}, self.notify_url if notify else ""))
        answer: dict[str, Any] = json.loads(content)
        return answer

    def good(self, name: str, number: str, **fields: Any) -> dict[str, Any]:
        answer = self.call(name, number, **fields)
        assert answer["code"] == "10000", answer
        return answer

    def query(self, number: str) -> dict[str, Any]:
        return self.call("AlipayTradeQuery", number)

    def precreate(self) -> None:
        answer = self.good("AlipayTradePrecreate", self.number, notify=True, **self.order)
        assert answer["qr_code"].startswith("https://qr.alipay.com/")

    def not_scanned(self) -> None:
        assert self.query(self.number)["sub_code"] == "ACQ.TRADE_NOT_EXIST"

    def paid_query(self) -> None:
        self.settings.control(f"/simulator/pay/{self.number}", {})
        answer = self.query(self.number)
        assert (answer["trade_status"], answer["total_amount"]) == ("TRADE_SUCCESS", "1.00")

    def payment_notification(self) -> None:
        _, body = self.settings.notification(self.mark)
        params = dict(parse_qsl(body.decode(), keep_blank_values=True))
        sign = params.pop("sign")
        params.pop("sign_type")
        key = self.settings.text("alipay", "alipay_public_key.pem")
        assert verified(key, params, sign)
        assert not verified(key, params | {"total_amount": "9.99"}, sign)
        assert (params["trade_status"], params["out_trade_no"]) == ("TRADE_SUCCESS", self.number)

    def refund(self) -> None:
        answer = self.good("AlipayTradeRefund", self.number, refund_amount="0.40", out_request_no="r1")
        assert (answer["fund_change"], answer["refund_fee"]) == ("Y", "0.40")

    def refund_again(self) -> None:
        answer = self.good("AlipayTradeRefund", self.number, refund_amount="0.40", out_request_no="r1")
        assert (answer["fund_change"], answer["refund_fee"]) == ("N", "0.40")

    def refund_query(self) -> None:
        answer = self.good("AlipayTradeFastpayRefundQuery", self.number, out_request_no="r1")
        assert (answer["refund_status"], answer["refund_amount"]) == ("REFUND_SUCCESS", "0.40")

    def create_and_close(self) -> None:
        number = self.number + "m"
        mini = {"buyer_id": "2088123412341234", "product_code": "JSAPI_PAY", "op_app_id": self.settings.ids["alipay"]["app_id"]}
        assert self.good("AlipayTradeCreate", number, **self.order, **mini)["trade_no"]
        self.good("AlipayTradeClose", number)
        assert self.query(number)["trade_status"] == "TRADE_CLOSED"

    def pay_by_code(self, number: str) -> dict[str, Any]:
        return self.call("AlipayTradePay", number, scene="bar_code", auth_code="281234567890123456", notify=False, **self.order)

    def code_payment(self) -> None:
        assert self.pay_by_code(self.number + "b")["code"] == "10000"

    def code_payment_cancelled(self) -> None:
        self.settings.control("/simulator/faults", [{"api": "alipay.trade.pay", "fault": "in_process"}])
        assert self.pay_by_code(self.number + "v")["code"] == "10003"
        answer = self.good("AlipayTradeCancel", self.number + "v")
        assert (answer["retry_flag"], answer["action"]) == ("N", "close")

    def visit(self, url: str, data: bytes | None = None) -> str:
        with urlopen(Request(url, data=data), timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def page_request(self, name: str, number: str, product: str) -> Any:
        return request(name, {"out_trade_no": number, "product_code": product, **self.order}, self.notify_url)

    def page_url(self) -> None:
        made = self.page_request("AlipayTradePagePay", self.number + "p", "FAST_INSTANT_TRADE_PAY")
        assert "Pay</button>" in self.visit(self.sdk.page_execute(made, http_method="GET"))
        assert self.query(self.number + "p")["trade_status"] == "WAIT_BUYER_PAY"

    def page_form(self) -> None:
        made = self.page_request("AlipayTradePagePay", self.number + "f", "FAST_INSTANT_TRADE_PAY")
        form = self.sdk.page_execute(made, http_method="POST")
        assert self.settings.base + "/gateway.do?" in form
        assert "biz_content" in form

    def wap(self) -> None:
        made = self.page_request("AlipayTradeWapPay", self.number + "w", "QUICK_WAP_WAY")
        assert "Pay</button>" in self.visit(self.sdk.page_execute(made, http_method="GET"))

    def app(self) -> None:
        order = self.sdk.sdk_execute(self.page_request("AlipayTradeAppPay", self.number + "a", "QUICK_MSECURITY_PAY"))
        self.visit(self.settings.base + "/simulator/alipay/app", order.encode())
        assert self.query(self.number + "a")["trade_status"] == "WAIT_BUYER_PAY"

    def wrong_signature(self) -> None:
        self.settings.control("/simulator/faults", [{"api": "alipay.trade.query", "fault": "bad_signature"}])
        try:
            self.query(self.number)
        except ResponseException:
            return
        raise AssertionError("the SDK took an answer with a wrong signature")

    def brace(self) -> None:
        self.settings.control("/simulator/faults", [{"api": "alipay.trade.query", "fault": "brace"}])
        assert self.query(self.number)["msg"] == "Success }"


def verify_request(settings: Any, built: dict[str, Any]) -> None:
    """A request that our codec built, checked with the SDK's helpers and the application's public key."""
    params = dict(parse_qsl(urlsplit(built["url"]).query, keep_blank_values=True))
    params.update(parse_qsl(built["body"], keep_blank_values=True))
    sign, key = params.pop("sign"), settings.text("alipay", "app_public_key.pem")
    assert verified(key, params, sign)
    assert not verified(key, params | {"app_id": "1"}, sign)


def main() -> int:
    """All checks."""
    settings, checks = Settings(sys.argv[1]), Checks()
    Journey(settings, checks).all()
    for built in settings.requests:
        checks.run(f"alipay-sdk-python verifies our request: {built['name']}", functools.partial(verify_request, settings, built))
    code: int = checks.exit_code
    return code


if __name__ == "__main__":
    sys.exit(main())
