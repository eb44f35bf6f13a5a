"""One call of the Alipay gateway: verification, encryption, checked parameters, errors, and signatures.

Sources: Alipay Open Platform, signature; certificate mode; content encryption; common error codes.
"""

from __future__ import annotations

import base64
import datetime
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from paycenter_server.channels.crypto import CryptoError, aes_cbc_decrypt, aes_cbc_encrypt, b64decode, rsa_sign, rsa_verify
from paycenter_server.simulator.clock import CHINA, parse_china_time
from paycenter_server.simulator.faults import FaultRule
from paycenter_server.simulator.inputs import parse_web_address, read_json
from paycenter_server.simulator.keys import SimulatorKeys
from paycenter_server.simulator.state import Simulator
from paycenter_server.simulator.trades import ALIPAY, Trade

__all__ = [
    "AlipayCall",
    "AlipayError",
    "acq",
    "answer_body",
    "check_request",
    "encrypt_content",
    "fen_of",
    "invalid_parameter",
    "parse_yuan",
    "read_content",
    "read_params",
    "sign_params",
    "yuan",
]

_EXPRESS = re.compile(r"([1-9][0-9]{0,5})([mhd])|1(c)")
_UNIT_SECONDS = {"m": 60, "h": 3600, "d": 86400}
_YUAN = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,2})?")
_MAX_FEN = 100_000_000_00
_MAX_EXPIRY_SECONDS = 15 * 86400


class AlipayError(Exception):
    """A failed call: `code`, `msg`, `sub_code`, `sub_msg` of the answer."""

    def __init__(self, code: str, msg: str, sub_code: str, sub_msg: str) -> None:
        super().__init__(f"{code} {sub_code}")
        self.code, self.msg, self.sub_code, self.sub_msg = code, msg, sub_code, sub_msg

    def document(self) -> dict[str, Any]:
        """The response node of the answer."""
        return {"code": self.code, "msg": self.msg, "sub_code": self.sub_code, "sub_msg": self.sub_msg}


def acq(name: str, text: str) -> AlipayError:
    """40004 with `ACQ.{name}`."""
    return AlipayError("40004", "Business Failed", "ACQ." + name, text)


def invalid_parameter(text: str) -> AlipayError:
    """40004 ACQ.INVALID_PARAMETER."""
    return acq("INVALID_PARAMETER", text)


def yuan(fen: int) -> str:
    """An amount in fen as text in yuan, `12.34`."""
    return f"{fen // 100}.{fen % 100:02d}"


def fen_of(text: str) -> int:
    """The inverse of yuan."""
    return int(text.replace(".", ""))


def parse_yuan(value: object, field: str) -> int:
    """Fen of an amount in yuan, 0.01 to 100000000.00: digits with at most two decimals, in a string or a number."""
    text = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if not _YUAN.fullmatch(text):
        raise invalid_parameter(f"参数无效:{field}")
    whole, _, part = text.partition(".")
    fen = int(whole) * 100 + int(part.ljust(2, "0"))
    if not 1 <= fen <= _MAX_FEN:
        raise invalid_parameter(f"参数无效:{field}")
    return fen


@dataclass
class AlipayCall:
    """The input of an operation: common parameters, biz_content, the fault rule, and the origin of the request."""

    simulator: Simulator
    method: str
    params: dict[str, str]
    biz: dict[str, Any]
    rule: FaultRule | None = None
    origin: str = ""

    @property
    def fault(self) -> str:
        """The fault of this call, or ""."""
        return self.rule.fault if self.rule else ""

    @property
    def certificate_mode(self) -> bool:
        """Whether the caller uses certificate mode."""
        return bool(self.params.get("app_cert_sn"))

    @property
    def encrypted(self) -> bool:
        """Whether request and answer are encrypted."""
        return self.params.get("encrypt_type") == "AES"

    @property
    def trade(self) -> Trade | None:
        """The trade of the call. It is closed first if its time to pay is over."""
        found = self.simulator.trades.get(ALIPAY, self._value("out_trade_no"), self._value("trade_no"))
        if found is None:
            return None
        now = self.simulator.clock.now()
        if found.exists and found.waiting and found.expired(now):
            self.simulator.trades.close(found, "closed because it was not paid in time")
        return found

    @property
    def number(self) -> str:
        """The number of the trade, for the log."""
        trade = self.simulator.trades.get(ALIPAY, self._value("out_trade_no"), self._value("trade_no"))
        return trade.number if trade else self._value("out_trade_no")

    @property
    def numbers(self) -> set[str]:
        """All numbers by which a fault rule can refer to this call."""
        return {self.number, self._value("out_request_no")} - {""}

    def _value(self, field: str) -> str:
        value = self.biz.get(field)
        return str(value) if isinstance(value, (str, int)) else ""

    def required_trade(self) -> Trade:
        """The trade, or ACQ.TRADE_NOT_EXIST."""
        if not self.optional("out_trade_no") and not self.optional("trade_no"):
            raise invalid_parameter("out_trade_no和trade_no不能同时为空")
        trade = self.trade
        if trade is None or not trade.exists:
            raise acq("TRADE_NOT_EXIST", "交易不存在")
        return trade

    def optional(self, field: str) -> str:
        """A text (or a number) of biz_content; "" if absent."""
        value = self.biz.get(field)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (str, int))):
            raise invalid_parameter(f"参数无效:{field}")
        return self._value(field)

    def text(self, field: str, limit: int) -> str:
        """A required text of at most `limit` characters."""
        value = self.optional(field)
        if not value or len(value) > limit:
            raise invalid_parameter(f"参数无效:{field}")
        return value

    def address(self, field: str) -> str:
        """An optional web address of at most 400 characters."""
        return self._address(field, self.optional(field), 400)

    def common_address(self, field: str) -> str:
        """The same among the common parameters, of at most 256 characters."""
        return self._address(field, self.params.get(field, ""), 256)

    @staticmethod
    def _address(field: str, value: str, limit: int) -> str:
        if value and (len(value) > limit or parse_web_address(value) is None):
            raise invalid_parameter(f"参数无效:{field}")
        return value

    def expiry(self, fields: tuple[str, ...], default_seconds: float) -> float:
        """The end of the time to pay, from the first of these fields that is present."""
        now = self.simulator.clock.now()
        for field in fields:
            value = self.optional(field)
            if value:
                return self._absolute(value) if field == "time_expire" else now + self._express(field, value, now)
        return now + default_seconds

    def _absolute(self, value: str) -> float:
        try:
            moment = parse_china_time(value)
        except ValueError as error:
            raise invalid_parameter("参数无效:time_expire") from error
        if moment <= self.simulator.clock.now():
            raise invalid_parameter("参数无效:time_expire已过")
        if moment > self.simulator.clock.now() + _MAX_EXPIRY_SECONDS + 60:
            raise invalid_parameter("参数无效:time_expire超过15天")
        return moment

    @staticmethod
    def _express(field: str, value: str, now: float) -> float:
        match = _EXPRESS.fullmatch(value)
        if match is None:
            raise invalid_parameter(f"参数无效:{field}")
        if match[3]:  # only 1c: until the end of the day in China time
            today = datetime.datetime.fromtimestamp(now, CHINA).replace(hour=0, minute=0, second=0, microsecond=0)
            return (today + datetime.timedelta(days=1)).timestamp() - now
        count, unit = int(match[1]), match[2]
        if count * _UNIT_SECONDS[unit] > _MAX_EXPIRY_SECONDS:
            raise invalid_parameter(f"参数无效:{field}")
        return float(count * _UNIT_SECONDS[unit])


def _aes_key(keys: SimulatorKeys) -> bytes:
    return base64.b64decode(keys.alipay["aes_key"])


def _invalid(code: str, text: str) -> AlipayError:
    return AlipayError("40002", "Invalid Arguments", code, text)


def read_content(keys: SimulatorKeys, params: dict[str, str]) -> dict[str, Any]:
    """`biz_content` as a document, decrypted if `encrypt_type` is AES. Numbers that are not integers stay text."""
    text = params.get("biz_content") or ""
    kind = params.get("encrypt_type", "")
    if kind not in ("", "AES"):
        raise _invalid("isv.invalid-encrypt-type", "无效的加密类型")
    if kind and text:
        try:
            text = aes_cbc_decrypt(_aes_key(keys), b64decode(text)).decode()
        except (CryptoError, UnicodeDecodeError) as error:
            raise _invalid("isv.decryption-error-unknown", "解密出错,未知异常") from error
    try:
        document = read_json(text or "{}", exact=True)
    except ValueError as error:
        raise _invalid("isv.invalid-parameter", "biz_content不是有效的JSON") from error
    if not isinstance(document, dict):
        raise _invalid("isv.invalid-parameter", "biz_content不是JSON对象")
    return document


def encrypt_content(keys: SimulatorKeys, text: str) -> str:
    """The node of an encrypted answer: a quoted JSON string without escaped slashes, because SDKs extract it without parsing."""
    return '"' + base64.b64encode(aes_cbc_encrypt(_aes_key(keys), text.encode())).decode() + '"'


_MAX_SOURCE_LENGTH = 2000
_REQUIRED = {"method": "method", "app_id": "app-id", "sign_type": "signature-type", "sign": "signature", "timestamp": "timestamp"}


def read_params(query: str, body: bytes) -> dict[str, str]:
    """All parameters of the query string and of the form body."""
    # aiohttp represents raw bytes in a query string as surrogates, which cannot be signed or stored.
    texts = (query.encode("utf-8", "surrogateescape"), body)
    params: dict[str, str] = {}
    for text in texts:
        params.update(parse_qsl(text.decode("utf-8", "replace"), keep_blank_values=True))
    return params


def _source(params: dict[str, str], *, without: tuple[str, ...], keep_empty: bool) -> bytes:
    items = sorted((name, value) for name, value in params.items() if name not in without and (value or keep_empty))
    return "&".join(f"{name}={value}" for name, value in items).encode()


def _missing(name: str) -> AlipayError:
    return AlipayError("40001", "Missing Required Arguments", f"isv.missing-{name}", f"缺少{name}参数")


def check_request(keys: SimulatorKeys, params: dict[str, str]) -> None:
    """Check the common parameters and the signature. The signature covers all parameters but `sign`, with or without empty ones."""
    for name, spelt in _REQUIRED.items():
        if not params.get(name):
            raise _missing(spelt)
    if params["app_id"] != keys.alipay["app_id"]:
        raise _invalid("isv.invalid-app-id", "无效的AppID参数")
    if params["sign_type"] != "RSA2":
        raise _invalid("isv.invalid-signature-type", "无效签名类型")
    sources = [_source(params, without=("sign",), keep_empty=keep) for keep in (False, True)]
    if not any(rsa_verify(key, source, params["sign"]) for key in keys.merchant.alipay() for source in sources):
        shown = sources[0].decode("utf-8", "replace")[:_MAX_SOURCE_LENGTH]
        text = "验签出错,建议检查签名字符串或签名私钥与应用公钥是否匹配,网关生成的验签字符串为:"
        raise _invalid("isv.invalid-signature", text + shown)
    _check_certificates(keys, params)
    if params.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise _invalid("isv.invalid-charset", "字符集错误")
    if params.get("format", "JSON").upper() != "JSON":
        raise _invalid("isv.invalid-format", "无效的数据格式")
    try:
        parse_china_time(params["timestamp"])
    except ValueError as error:
        raise _invalid("isv.invalid-timestamp", "时间戳参数无效") from error


def _check_certificates(keys: SimulatorKeys, params: dict[str, str]) -> None:
    if not params.get("app_cert_sn"):
        return
    if not keys.merchant.knows_app_cert(params["app_cert_sn"]):
        raise _invalid("isv.invalid-app-cert-sn", "应用公钥证书SN与开放平台不匹配")
    if params.get("alipay_root_cert_sn") != keys.alipay["alipay_root_cert_sn"]:
        raise _invalid("isv.invalid-alipay-root-cert-sn", "支付宝根证书SN不匹配")


def answer_body(
    keys: SimulatorKeys,
    node: str,
    document: dict[str, Any],
    *,
    certificate_mode: bool,
    signature_fault: str,
    rotated: bool,
    encrypted: bool = False,
) -> bytes:
    """The JSON text of an answer. The signature covers the exact characters of the node, with escaped slashes.

    signature_fault: "", `unsigned`, `bad_signature`, or `slash` (signed before the slashes are escaped, as some real answers are).
    rotated: in certificate mode the next certificate signs. encrypted: the node is encrypted.
    """
    plain = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    content = encrypt_content(keys, plain) if encrypted else plain.replace("/", "\\/")
    plain = content if encrypted else plain
    text = f'{{"{node}":{content}'
    if certificate_mode:
        text += f',"alipay_cert_sn":"{keys.alipay["alipay_next_cert_sn" if rotated else "alipay_cert_sn"]}"'
    if signature_fault != "unsigned":
        signed = {"slash": plain, "bad_signature": content + " "}.get(signature_fault, content)
        key = keys.alipay_next_key if certificate_mode and rotated else keys.alipay_key
        text += f',"sign":"{rsa_sign(key, signed.encode())}"'
    return (text + "}").encode()


def sign_params(keys: SimulatorKeys, params: dict[str, str], signature_fault: str = "", *, rotated: bool = False) -> dict[str, str]:
    """The parameters of a notification or return with a signature over all but `sign` and `sign_type`, including empty values."""
    source = _source(params, without=("sign", "sign_type"), keep_empty=True)
    if signature_fault == "bad_signature":
        source += b"&tampered=1"
    signed = dict(params, sign_type="RSA2")
    if signature_fault != "unsigned":
        signed["sign"] = rsa_sign(keys.alipay_next_key if rotated else keys.alipay_key, source)
    return signed
