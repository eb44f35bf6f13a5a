"""WeChat Pay v2 callbacks: invalid content, invalid fields with a valid signature, and invalid content encrypted in `req_info`."""

from __future__ import annotations

import base64
import hashlib
import re

import atheris  # type: ignore[import-not-found,unused-ignore]
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from harness import fuzz

with atheris.instrument_imports(include=["paycenter_server.channels"]):
    from paycenter_server.channels.protocol import CallbackError, CallbackRequest, UnknownKeyError
    from paycenter_server.channels.registry import installed
    from paycenter_server.channels.wechatpay import v2_xml

from unit.channel_support import NOW, certificate, wx_config

KEY = "192006250b4c09247ec02edce69f6a2d"
V3 = wx_config()
CONFIG = {name: V3[name] for name in ("appid", "mchid", "private_key", "gateway_url")}
CODEC = installed()["wx_native"].build(
    {**CONFIG, "api_version": "v2", "mch_key": KEY, "merchant_certificate": certificate("platform").decode()}
)
BASE = {"return_code": "SUCCESS", "result_code": "SUCCESS", "appid": CONFIG["appid"], "mch_id": CONFIG["mchid"]}
NAMES = ("out_trade_no", "transaction_id", "total_fee", "fee_type", "openid", "time_end", "trade_state", "cash_fee", "result_code")
_UNFIT = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd]")


def target(data: bytes) -> None:
    how, rest = data[0] if data else 0, data[1:]
    if how % 3 == 0:
        body = rest
    elif how % 3 == 1:
        values = _UNFIT.sub("?", rest.decode("utf-8", "replace")).split("|")
        fields = {**BASE, **dict(zip(NAMES, values, strict=False))}
        # The signature covers what the other side reads; XML has one form of line ends.
        fields = {name: value.replace("\r\n", "\n").replace("\r", "\n") for name, value in fields.items()}
        fields["sign"] = v2_xml.sign(fields, KEY, v2_xml.MD5)
        body = v2_xml.build(fields)
    else:
        padder = PKCS7(128).padder()
        padded = padder.update(rest) + padder.finalize()
        encryptor = Cipher(algorithms.AES(hashlib.md5(KEY.encode()).hexdigest().encode()), modes.ECB()).encryptor()
        sealed = base64.b64encode(encryptor.update(padded) + encryptor.finalize()).decode()
        body = v2_xml.build({**BASE, "req_info": sealed})
    parsed = CODEC.parse_callback(CallbackRequest({}, body), NOW)
    parsed.raw.encode()


fuzz(target, (CallbackError, UnknownKeyError))
