"""Invalid content that channels might send, with or without a valid signature, for the contract of every codec."""

from __future__ import annotations

import json

from hypothesis import strategies as st
from paycenter_server.channels.protocol import CallbackRequest, HttpResponse
from paycenter_server.channels.wechatpay.v2_xml import HMAC_SHA256, build, sign
from unit.channel_support import PAY, ali_form, ali_raw, wx_callback, wx_headers
from unit.test_wechat_v2 import KEY, encrypted
from unit.test_wechat_v2 import config as v2_config

KNOWN = [
    "code", "sub_code", "msg", "sub_msg", "message", "trade_state", "trade_status", "status", "refund_status", "amount", "total",
    "refund", "currency", "payer", "openid", "success_time", "send_pay_date", "total_amount", "refund_amount", "refund_fee",
    "fund_change", "out_trade_no", "out_refund_no", "out_request_no", "transaction_id", "trade_no", "code_url", "qr_code", "data",
    "resource", "event_type", "algorithm", "nonce", "ciphertext", "associated_data", "mchid", "appid", "gmt_refund",
    "encrypt_certificate", "serial_no", "alipay_cert_content", "notify_type", "sign", "alipay_cert_sn", "charset",
]  # fmt: skip
TELLING = st.sampled_from(
    [
        "10000", "40004", "SUCCESS", "TRADE_SUCCESS", "TRADE_CLOSED", "CLOSED", "PROCESSING", "Y", "N", "REFUND_SUCCESS", "1.00",
        "-1", "1e5", "CNY", "TRANSACTION.SUCCESS", "REFUND.SUCCESS", "trade_status_sync", "AEAD_AES_256_GCM", "\x00", "\ud800",
        "2026-03-04T13:06:07+08:00", "2026-03-04 13:06:07", "0001-01-01T00:00:00+08:00", PAY.out_trade_no, "ACQ.TRADE_NOT_EXIST",
    ]
)  # fmt: skip
LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | TELLING
JSON = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KNOWN), inner, max_size=6), max_leaves=12
)
OBJECT = st.dictionaries(st.sampled_from(KNOWN), JSON, max_size=8)
STATUS = st.sampled_from([100, 200, 201, 202, 204, 301, 400, 401, 403, 404, 429, 500, 502, 503, 599])
HEADER_NAMES = ["content-type", *wx_headers(b"")]
HEADERS = st.dictionaries(
    st.sampled_from(HEADER_NAMES), st.text(max_size=30) | st.sampled_from(list(wx_headers(b"{}").values())), max_size=6
)
RAW = (
    st.binary(max_size=200)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.text(max_size=50).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
METHODS = (
    "alipay.trade.precreate", "alipay.trade.query", "alipay.trade.close", "alipay.trade.refund",
    "alipay.trade.fastpay.refund.query",
)  # fmt: skip
NODES = [method.replace(".", "_") + "_response" for method in METHODS]


@st.composite
def wechat_answers(draw: st.DrawFn) -> HttpResponse:
    """Invalid content with a valid signature."""
    body = draw(RAW | OBJECT.map(lambda value: json.dumps(value).encode()))
    return HttpResponse(draw(STATUS), wx_headers(body), body)


@st.composite
def alipay_answers(draw: st.DrawFn) -> HttpResponse:
    content = draw(OBJECT)
    node = draw(st.sampled_from(NODES))
    sign = draw(st.sampled_from([None, None, "", "junk"]))
    return HttpResponse(200, {}, ali_raw(node.removesuffix("_response"), json.dumps({"code": "10000", **content}), sign=sign))


V2_NAMES = [
    "return_code", "return_msg", "result_code", "err_code", "appid", "mch_id", "trade_state", "out_trade_no", "total_fee",
    "fee_type", "openid", "time_end", "code_url", "prepay_id", "mweb_url", "recall", "refund_status_0", "refund_fee_0",
    "out_refund_no_0", "refund_success_time_0", "req_info", "sign",
]  # fmt: skip
XML_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20) | st.sampled_from(
    [
        "SUCCESS",
        "FAIL",
        "100",
        "-1",
        "CNY",
        "USERPAYING",
        "20260102030405",
        "99999999999999",
        "2026-01-02 03:04:05",
        PAY.out_trade_no,
    ]
)
V2_FIELDS = st.dictionaries(st.sampled_from(V2_NAMES), XML_TEXT, max_size=8)


def v2_signed(fields: dict[str, str]) -> bytes:
    """A message of the channel: signed with the merchant's key, for its account."""
    named = {"return_code": "SUCCESS", "result_code": "SUCCESS", **fields}
    named |= {"appid": v2_config()["appid"], "mch_id": v2_config()["mchid"]}
    named["sign"] = sign(named, KEY, HMAC_SHA256)
    return build(named)


def v2_callback(fields: dict[str, str]) -> CallbackRequest:
    """A refund callback around invalid content."""
    hidden = encrypted(build(fields).replace(b"xml>", b"root>"))
    ids = {"return_code": "SUCCESS", "appid": v2_config()["appid"], "mch_id": v2_config()["mchid"]}
    return CallbackRequest({}, build({**ids, "req_info": hidden}))


V2_BODIES = V2_FIELDS.map(v2_signed) | V2_FIELDS.map(build) | st.binary(max_size=60).map(lambda junk: b"<xml>" + junk + b"</xml>")
PLAIN = st.builds(HttpResponse, STATUS, HEADERS, RAW | OBJECT.map(lambda value: json.dumps(dict.fromkeys(NODES, value)).encode()))
ANSWERS = {
    "wechatpay": PLAIN | wechat_answers(),
    "wechatpay_v2": PLAIN | V2_BODIES.map(lambda body: HttpResponse(200, {}, body)),
    "alipay": PLAIN | alipay_answers(),
}


@st.composite
def wechat_callbacks(draw: st.DrawFn) -> CallbackRequest:
    content = draw(RAW | OBJECT.map(lambda value: json.dumps(value).encode()))
    sealed = wx_callback(draw(st.sampled_from(["TRANSACTION.SUCCESS", "REFUND.SUCCESS", "X", ""])), content)
    if draw(st.booleans()):
        return sealed
    body = json.dumps({"event_type": "TRANSACTION.SUCCESS", "resource": draw(JSON), **draw(OBJECT)}).encode()
    return CallbackRequest(wx_headers(body), body)


FIELD = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FORMS = st.dictionaries(st.sampled_from(KNOWN), FIELD | st.sampled_from(["trade_status_sync", "TRADE_SUCCESS", "1.00"]), max_size=8)
ALIPAY_CALLBACKS = FORMS.map(
    lambda fields: ali_form({name: value for name, value in fields.items() if name not in ("sign", "charset")})
)
JUNK_CALLBACKS = st.builds(CallbackRequest, HEADERS, RAW, st.text(max_size=20))
CALLBACKS = {
    "wechatpay": JUNK_CALLBACKS | wechat_callbacks() | V2_FIELDS.map(v2_callback),
    "wechatpay_v2": JUNK_CALLBACKS | V2_FIELDS.map(v2_callback) | V2_BODIES.map(lambda body: CallbackRequest({}, body)),
    "alipay": JUNK_CALLBACKS | ALIPAY_CALLBACKS,
}
