"""Runs inside an environment that has `python-alipay-sdk`: the SDK pays, queries, closes and refunds at the simulator, in both
modes, verifies its notifications, and verifies requests that our codecs built. Only the SDK's gateway address is changed.
"""

from __future__ import annotations

import base64
import functools
import io
import sys
import time
import zipfile
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from urllib.request import Request, urlopen

import alipay  # type: ignore[import-not-found,import-untyped,unused-ignore]
from alipay.exceptions import AliPayException, AliPayValidationError  # type: ignore[import-not-found,import-untyped,unused-ignore]
from checks import Checks, Settings, china_date  # type: ignore[import-not-found,unused-ignore]
from surface import Watched, compare  # type: ignore[import-not-found,unused-ignore]

# What the SDK has beyond the ways to pay: APIs of other products, and its own helpers.
ELSEWHERE = {
    "api_alipay_ebpp_invoice_token_batchquery": "invoices",
    "api_alipay_fund_trans_order_query": "transfers to people, the older way",
    "api_alipay_fund_trans_toaccount_transfer": "transfers to people, the older way",
    "api_alipay_trade_order_settle": "profit sharing",
}
IN_CERTIFICATE_MODE = {
    "api_alipay_fund_trans_uni_transfer": "transfers to people",
    "get_cert_sn": "read while the client is made",
    "get_root_cert_sn": "read while the client is made",
    "load_alipay_public_key_string": "read while the client is made",
    "read_pem_cert_chain": "read while the client is made",
}


def client(settings: Any, mode: str) -> Any:
    """The SDK's client, with its gateway moved."""
    app_id, private = settings.ids["alipay"]["app_id"], settings.text("alipay", "app_private_key_pkcs1.pem")
    if mode == "certificate":
        sdk = alipay.DCAliPay(
            appid=app_id,
            app_private_key_string=private,
            app_public_key_cert_string=settings.text("alipay", "appCertPublicKey.crt"),
            alipay_public_key_cert_string=settings.text("alipay", "alipayCertPublicKey_RSA2.crt"),
            alipay_root_cert_string=settings.text("alipay", "alipayRootCert.crt"),
        )
    else:
        public = settings.text("alipay", "alipay_public_key.pem")
        sdk = alipay.AliPay(appid=app_id, app_private_key_string=private, alipay_public_key_string=public)
    sdk._gateway = settings.base + "/gateway.do"
    return sdk


class Journey:
    """One mode from creation to refund; the SDK verifies every answer itself and raises otherwise."""

    def __init__(self, settings: Any, checks: Any, mode: str) -> None:
        self.settings, self.mode = settings, mode
        self.number = f"interop_{mode}_{int(time.time())}"
        self.mark = f"/alipay/{mode}"
        self.notify_url = settings.notify_url + self.mark
        self.run = checks.run
        self.sdk: Any = None

    def all(self) -> None:
        """The checks in order."""
        checks = [
            self.start, self.precreate, self.not_scanned, self.paid_query, self.payment_notification, self.refund,
            self.refund_again, self.refund_query, self.refund_notification, self.full_refund, self.close, self.page, self.wap,
            self.wrong_signature, self.tampered_notification, self.app, self.create, self.code_payment, self.code_payment_cancelled,
            self.bill,
        ]  # fmt: skip
        if self.mode == "certificate":
            checks += [self.serials, self.certificate_download]
        checks += [self.signed_and_verified, self.other_products, self.surface]
        for check in checks:
            self.run(f"python-alipay-sdk {self.mode}: {check.__name__}", check)

    def start(self) -> None:
        self.sdk = Watched(client(self.settings, self.mode))

    @property
    def elsewhere(self) -> dict[str, str]:
        return ELSEWHERE | (IN_CERTIFICATE_MODE if self.mode == "certificate" else {})

    def signed_and_verified(self) -> None:
        """The SDK's general calls, with which its own are made."""
        number = self.number + "g"
        answer = self.sdk.server_api("alipay.trade.precreate", {"subject": "Tea", "out_trade_no": number, "total_amount": "1.00"})
        assert self.good(answer)["qr_code"]
        biz = {"subject": "Tea", "out_trade_no": number + "p", "total_amount": "1.00", "product_code": "FAST_INSTANT_TRADE_PAY"}
        assert "Pay</button>" in self.visit("/gateway.do?" + self.sdk.client_api("alipay.trade.page.pay", biz))
        biz["out_trade_no"] += "2"
        signed = self.sdk.sign_data(self.sdk.build_body("alipay.trade.page.pay", biz))
        assert "Pay</button>" in self.visit("/gateway.do?" + signed)
        body = self.sdk.build_body("alipay.trade.query", {"out_trade_no": number + "p"})
        told = self.sdk.verified_sync_response(body, "alipay_trade_query_response")
        assert told["trade_status"] == "WAIT_BUYER_PAY"

    def other_products(self) -> None:
        """A product that the simulator does not have is refused, signed, in the way of the gateway."""
        for call in (
            lambda: self.sdk.sdk.api_alipay_fund_trans_order_query(out_biz_no="1"),
            lambda: self.sdk.sdk.api_alipay_trade_order_settle("1", "2", []),
            lambda: self.sdk.sdk.server_api("alipay.fund.trans.uni.transfer", {"out_biz_no": "1"}),
        ):
            try:
                raise AssertionError(call())  # type: ignore[no-untyped-call]
            except AliPayException as error:
                if "isv.invalid-method" not in str(error):
                    raise

    def surface(self) -> None:
        compare(type(self.sdk.sdk), self.sdk.called, self.elsewhere)

    def serials(self) -> None:
        ids = self.settings.ids["alipay"]
        assert (self.sdk.app_cert_sn, self.sdk.alipay_root_cert_sn) == (ids["app_cert_sn"], ids["alipay_root_cert_sn"])

    @staticmethod
    def good(answer: dict[str, Any]) -> dict[str, Any]:
        assert answer["code"] == "10000", answer
        return answer

    def precreate(self) -> None:
        answer = self.sdk.api_alipay_trade_precreate(
            subject="Tea 茶", out_trade_no=self.number, total_amount="1.00", notify_url=self.notify_url
        )
        assert self.good(answer)["qr_code"].startswith("https://qr.alipay.com/")

    def not_scanned(self) -> None:
        assert self.sdk.api_alipay_trade_query(out_trade_no=self.number)["sub_code"] == "ACQ.TRADE_NOT_EXIST"

    def paid_query(self) -> None:
        self.settings.control(f"/simulator/pay/{self.number}", {})
        answer = self.good(self.sdk.api_alipay_trade_query(out_trade_no=self.number))
        assert (answer["trade_status"], answer["total_amount"]) == ("TRADE_SUCCESS", "1.00")

    def next_notification(self) -> tuple[dict[str, str], str]:
        _, body = self.settings.notification(self.mark)
        params = dict(parse_qsl(body.decode(), keep_blank_values=True))
        return params, params.pop("sign")

    def payment_notification(self) -> None:
        params, sign = self.next_notification()
        assert self.sdk.verify(dict(params), sign)
        assert (params["trade_status"], params["total_amount"], params["out_trade_no"]) == ("TRADE_SUCCESS", "1.00", self.number)

    def refund(self) -> None:
        answer = self.sdk.api_alipay_trade_refund("0.40", out_trade_no=self.number, out_request_no="r1")
        assert (self.good(answer)["fund_change"], answer["refund_fee"]) == ("Y", "0.40")

    def refund_again(self) -> None:
        answer = self.sdk.api_alipay_trade_refund("0.40", out_trade_no=self.number, out_request_no="r1")
        assert (self.good(answer)["fund_change"], answer["refund_fee"]) == ("N", "0.40")

    def refund_query(self) -> None:
        answer = self.sdk.api_alipay_trade_fastpay_refund_query("r1", out_trade_no=self.number)
        assert self.good(answer)["refund_status"] == "REFUND_SUCCESS"
        unknown = self.sdk.api_alipay_trade_fastpay_refund_query("r9", out_trade_no=self.number)
        assert "refund_status" not in self.good(unknown)

    def refund_notification(self) -> None:
        params, sign = self.next_notification()
        assert self.sdk.verify(dict(params), sign)
        assert (params["trade_status"], params["refund_fee"], params["out_biz_no"]) == ("TRADE_SUCCESS", "0.40", "r1")

    def full_refund(self) -> None:
        self.good(self.sdk.api_alipay_trade_refund("0.60", out_trade_no=self.number, out_request_no="r2"))
        assert self.sdk.api_alipay_trade_query(out_trade_no=self.number)["trade_status"] == "TRADE_CLOSED"
        params, sign = self.next_notification()
        assert self.sdk.verify(dict(params), sign)
        assert (params["trade_status"], params["refund_fee"]) == ("TRADE_CLOSED", "1.00")

    def close(self) -> None:
        number = self.number + "c"
        self.good(self.sdk.api_alipay_trade_precreate(subject="Tea", out_trade_no=number, total_amount="1.00"))
        assert self.sdk.api_alipay_trade_close(out_trade_no=number)["sub_code"] == "ACQ.TRADE_NOT_EXIST"
        self.visit("/cashier/" + number)
        self.good(self.sdk.api_alipay_trade_close(out_trade_no=number))

    def visit(self, path: str) -> str:
        with urlopen(self.settings.base + path, timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def page(self) -> None:
        number = self.number + "p"
        query = self.sdk.api_alipay_trade_page_pay("Tea 茶 +&", number, "1.00", notify_url=self.notify_url)
        assert "Pay</button>" in self.visit("/gateway.do?" + query)
        assert self.sdk.api_alipay_trade_query(out_trade_no=number)["trade_status"] == "WAIT_BUYER_PAY"

    def wap(self) -> None:
        query = self.sdk.api_alipay_trade_wap_pay("Tea", self.number + "w", "1.00", notify_url=self.notify_url)
        assert "Pay</button>" in self.visit("/gateway.do?" + query)

    def wrong_signature(self) -> None:
        self.settings.control("/simulator/faults", [{"api": "alipay.trade.query", "fault": "bad_signature"}])
        try:
            self.sdk.api_alipay_trade_query(out_trade_no=self.number)
        except AliPayValidationError:
            return
        raise AssertionError("the SDK took an answer with a wrong signature")

    def certificate_download(self) -> None:
        serial = self.settings.ids["alipay"]["alipay_cert_sn"]
        answer = self.good(self.sdk.server_api("alipay.open.app.alipaycert.download", {"alipay_cert_sn": serial}))
        # The SDK's own operation only builds the query, and leaves the call to its user.
        query = self.sdk.api_alipay_open_app_alipaycert_download(serial)
        assert answer["alipay_cert_content"] in self.visit("/gateway.do?" + query)
        assert base64.b64decode(answer["alipay_cert_content"]).decode() == self.settings.text(
            "alipay", "alipayCertPublicKey_RSA2.crt"
        )

    def tampered_notification(self) -> None:
        self.settings.control(f"/simulator/resend/{self.number}", {})
        params, sign = self.next_notification()
        assert not self.sdk.verify(params | {"total_amount": "9.99"}, sign)
        assert self.sdk.verify(dict(params), sign)

    def app(self) -> None:
        number = self.number + "a"
        order = self.sdk.api_alipay_trade_app_pay("Tea 茶", number, "1.00", notify_url=self.notify_url)
        request = Request(self.settings.base + "/simulator/alipay/app", data=order.encode(), method="POST")
        with urlopen(request, timeout=10) as answer:
            assert answer.status == 200
        assert self.sdk.api_alipay_trade_query(out_trade_no=number)["trade_status"] == "WAIT_BUYER_PAY"

    def create(self) -> None:
        number = self.number + "m"
        answer = self.sdk.api_alipay_trade_create(
            "Tea 茶", number, "1.00", buyer_id="2088123412341234", product_code="JSAPI_PAY",
            op_app_id=self.settings.ids["alipay"]["app_id"],
        )  # fmt: skip
        assert self.good(answer)["trade_no"]
        assert self.sdk.api_alipay_trade_query(trade_no=answer["trade_no"])["out_trade_no"] == number

    def pay_by_code(self, number: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.sdk.api_alipay_trade_pay(
            number, "bar_code", "281234567890123456", "Tea 茶", notify_url=self.notify_url + "/code", total_amount="1.00"
        )
        return answer

    def code_payment(self) -> None:
        assert self.good(self.pay_by_code(self.number + "b"))["total_amount"] == "1.00"

    def code_payment_cancelled(self) -> None:
        number = self.number + "v"
        self.settings.control("/simulator/faults", [{"api": "alipay.trade.pay", "fault": "in_process"}])
        assert self.pay_by_code(number)["code"] == "10003"
        answer = self.good(self.sdk.api_alipay_trade_cancel(out_trade_no=number))
        assert (answer["retry_flag"], answer["action"]) == ("N", "close")
        assert self.sdk.api_alipay_trade_query(out_trade_no=number)["trade_status"] == "TRADE_CLOSED"

    def bill(self) -> None:
        today = china_date()
        with self.settings.tomorrow():
            biz = {"bill_type": "trade", "bill_date": today}
            answer = self.good(self.sdk.server_api("alipay.data.dataservice.bill.downloadurl.query", biz))
            with urlopen(answer["bill_download_url"], timeout=10) as file:
                archive = zipfile.ZipFile(io.BytesIO(file.read()))
            texts = [archive.read(name).decode("gbk") for name in archive.namelist()]
            assert any(self.number in text for text in texts)


def verify_request(settings: Any, request: dict[str, Any]) -> None:
    """A request that our codec built, checked by the SDK with the application's public key.

    `sign_type` takes part in a request's signature (it does not in a notification's, which is why the SDK's verify() is not used).
    """
    sdk = alipay.AliPay(
        appid=settings.ids["alipay"]["app_id"],
        app_private_key_string=settings.text("alipay", "app_private_key_pkcs1.pem"),
        alipay_public_key_string=settings.text("alipay", "app_public_key.pem"),
    )
    params = dict(parse_qsl(urlsplit(request["url"]).query, keep_blank_values=True))
    params.update(parse_qsl(request["body"], keep_blank_values=True))
    sign = params.pop("sign")
    assert params["app_id"] == settings.ids["alipay"]["app_id"]
    text = "&".join(f"{name}={value}" for name, value in sdk._ordered_data(params))
    assert sdk._verify(text, sign)
    assert not sdk._verify(text + " ", sign)


def main() -> int:
    """All checks."""
    settings, checks = Settings(sys.argv[1]), Checks()
    for mode in ("key", "certificate"):
        Journey(settings, checks, mode).all()
    for request in settings.requests:
        checks.run(
            f"python-alipay-sdk verifies our request: {request['name']}", functools.partial(verify_request, settings, request)
        )
    code: int = checks.exit_code
    return code


if __name__ == "__main__":
    sys.exit(main())
