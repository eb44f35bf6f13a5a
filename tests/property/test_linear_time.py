"""The work of each parser of messages from channels is linear in the size of the input.

Eight times the input may take eight times the work; a parser that goes back over what it has read takes sixty-four times. What is
compared is the processor time of this process at two sizes, best of some, so other work on the machine does not matter.
"""

from __future__ import annotations

import base64
import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from paycenter_server.channels import crypto
from paycenter_server.channels.alipay import bills as alipay_bills
from paycenter_server.channels.bills import BillError
from paycenter_server.channels.protocol import AnswerError, Call, CallbackError, CallbackRequest, HttpResponse, UnknownKeyError
from paycenter_server.channels.registry import installed
from paycenter_server.channels.wechatpay import bills as wechat_bills
from unit.channel_support import (
    ATTEMPT,
    MOMENT,
    NOW,
    PAY,
    ali_config,
    ali_form,
    ali_raw,
    wx_config,
    wx_headers,
)
from unit.test_wechat_v2 import KEY, encrypted
from unit.test_wechat_v2 import config as v2_config

SMALL, TIMES, MOST = 32 * 1024, 8, 24
EXPECTED = (AnswerError, UnknownKeyError, CallbackError, BillError, crypto.CryptoError)
WECHAT = installed()["wx_native"].build(wx_config(mch_key=KEY))
WECHAT_V2 = installed()["wx_native"].build(v2_config())
ALIPAY = installed()["alipay_qr"].build(ali_config())
WECHAT_BILL = "\ufeff交易时间,微信订单号,商户订单号,交易状态,订单金额,手续费\n`"
ALIPAY_BILL = "支付宝交易号,商户订单号,业务类型,完成时间,订单金额（元）,商家实收（元）,服务费（元）,退款批次号/请求号\n"

PIECES = [
    b"{", b"[", b'{"a":', b'"', b"\\", b'\\"', b'"a",', b"1", b'{"alipay_trade_query_response":', b"\n", b",", b"`,", b",`", b'",',
    b"<a>", b"<xml>", b"<!", b"<![CDATA[", b"]]>", b"</xml>", b"&amp;", b"&a=1", b"%", b"%25", b"=", b"a=1&", b"#", b" ", b"\t",
    b"-----BEGIN CERTIFICATE-----", b"-----BEGIN A-----\n", b"-----END A-----", b"-----BEGIN ", b"\xe4\xbd\xa0",
    b"PK\x05\x06", b"PK\x01\x02",
]  # fmt: skip


def call(codec: Any, operation: str, subject: Any) -> Callable[[bytes], object]:
    made = getattr(codec, operation)(subject, MOMENT)
    assert isinstance(made, Call)
    return lambda body: made.parse(HttpResponse(200, wx_headers(body), body), NOW)


def zipped(content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("2088_业务明细.csv", content)
    return made.getvalue()


def sealed(body: bytes) -> CallbackRequest:
    """Invalid content in the place of WeChat Pay's resource."""
    envelope = json.dumps({"event_type": "TRANSACTION.SUCCESS", "resource": body.decode("latin-1")}).encode()
    return CallbackRequest(wx_headers(envelope), envelope)


def v2_callback(body: bytes) -> CallbackRequest:
    inner = encrypted(b"<root><a>" + body + b"</a></root>")
    ids = "".join(f"<{name}>{v2_config()[source]}</{name}>" for name, source in (("appid", "appid"), ("mch_id", "mchid")))
    return CallbackRequest({}, f"<xml><return_code>SUCCESS</return_code>{ids}<req_info>{inner}</req_info></xml>".encode())


PARSERS: dict[str, Callable[[bytes], object]] = {
    "WeChat answer": call(WECHAT, "query", ATTEMPT),
    "WeChat create": call(WECHAT, "pay", PAY),
    "WeChat callback": lambda body: WECHAT.parse_callback(CallbackRequest(wx_headers(body), body), NOW),
    "WeChat resource": lambda body: WECHAT.parse_callback(sealed(body), NOW),
    "WeChat v2 answer": call(WECHAT_V2, "query", ATTEMPT),
    "WeChat v2 callback": lambda body: WECHAT_V2.parse_callback(CallbackRequest({}, body), NOW),
    "WeChat v2 field": lambda body: WECHAT_V2.parse_callback(CallbackRequest({}, b"<xml><a>" + body + b"</a></xml>"), NOW),
    "WeChat v2 refund callback": lambda body: WECHAT_V2.parse_callback(v2_callback(body), NOW),
    "Alipay answer": call(ALIPAY, "query", ATTEMPT),
    "Alipay signed answer": lambda body: call(ALIPAY, "query", ATTEMPT)(
        ali_raw("alipay.trade.query", json.dumps({"code": "10000", "a": body.decode("latin-1")}))
    ),
    "Alipay callback": lambda body: ALIPAY.parse_callback(CallbackRequest({}, body), NOW),
    "Alipay signed callback": lambda body: ALIPAY.parse_callback(ali_form({"subject": body.decode("latin-1")}), NOW),
    "private key": crypto.load_private_key,
    "public key": crypto.load_public_key,
    "certificate": crypto.load_certificate,
    "certificates": crypto.load_certificates,
    "root certificates": crypto.alipay_root_cert_sn,
    "base64": lambda body: crypto.b64decode(base64.b64encode(body)),
    "WeChat bill": lambda body: list(wechat_bills.parse_trade_bill(body)),
    "WeChat bill line": lambda body: list(wechat_bills.parse_trade_bill(WECHAT_BILL.encode() + body)),
    "Alipay bill": lambda body: list(alipay_bills.parse_trade_bill(body)),
    "Alipay bill line": lambda body: list(alipay_bills.parse_trade_bill(zipped(ALIPAY_BILL.encode("gbk") + body))),
}


def cost(parser: Callable[[bytes], object], data: bytes) -> float:
    before = time.process_time()
    try:
        parser(data)
    except EXPECTED:
        pass
    return time.process_time() - before


def excess(parser: Callable[[bytes], object], piece: bytes) -> float:
    """How many times the work for TIMES the input; below a millisecond nothing is compared."""
    small, large = piece * (SMALL // len(piece)), piece * (SMALL * TIMES // len(piece))
    ratio = float("inf")
    for _ in range(4):
        ratio = min(ratio, cost(parser, large) / max(cost(parser, small), 0.0005))
        if ratio < MOST:
            break
    return ratio


@pytest.mark.parametrize("name", PARSERS)
def test_the_work_grows_with_the_size_and_no_faster(name: str) -> None:
    slow = {piece: ratio for piece in PIECES if (ratio := excess(PARSERS[name], piece)) >= MOST}
    assert slow == {}


def test_what_goes_over_its_input_again_is_found() -> None:
    def rescans(body: bytes) -> Iterator[int]:
        return (body.find(b"no such thing", start) for start in range(0, len(body), 16))

    assert excess(lambda body: list(rescans(body)), b"x") >= MOST
