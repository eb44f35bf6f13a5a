"""A merchant on WeChat Pay v2: XML by regular expression, MD5 and HMAC-SHA256.

Source: WeChat Pay APIv2, signature algorithm.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import uuid
from typing import Any

from .merchant import SimulatorSystem

GOOD = b"<xml><return_code><![CDATA[SUCCESS]]></return_code><return_msg><![CDATA[OK]]></return_msg></xml>"
_FIELD = re.compile(r"<(\w+)>(?:<!\[CDATA\[(.*?)\]\]>|([^<]*))</\1>", re.DOTALL)


def fields_of(raw: bytes, root: str = "xml") -> dict[str, str]:
    text = raw.decode()
    assert text.startswith(f"<{root}>") and text.endswith(f"</{root}>")
    return {name: cdata or plain for name, cdata, plain in _FIELD.findall(text[len(root) + 2 : -len(root) - 3])}


class XmlClient:
    """Signs with MD5 or HMAC-SHA256."""

    def __init__(self, system: SimulatorSystem, *, hmac_sha256: bool = False) -> None:
        self.system, self.ids, self.hmac_sha256 = system, system.keys.wechatpay, hmac_sha256
        self.content_type = ""

    def signature(self, fields: dict[str, str], length: int) -> str:
        source = "&".join(f"{name}={value}" for name, value in sorted(fields.items()) if value and name != "sign")
        source += "&key=" + self.ids["apiv2_key"]
        if length == 64:
            return hmac.new(self.ids["apiv2_key"].encode(), source.encode(), "sha256").hexdigest().upper()
        return hashlib.md5(source.encode()).hexdigest().upper()

    def genuine(self, fields: dict[str, str]) -> bool:
        given = fields.get("sign", "")
        return len(given) == (64 if self.hmac_sha256 else 32) and given == self.signature(fields, len(given))

    def body(self, fields: dict[str, Any]) -> bytes:
        sent = {"appid": self.ids["appid"], "mch_id": self.ids["mchid"], "nonce_str": uuid.uuid4().hex}
        if self.hmac_sha256:
            sent["sign_type"] = "HMAC-SHA256"
        sent |= {name: str(value) for name, value in fields.items()}
        sent = {"sign": self.signature(sent, 64 if self.hmac_sha256 else 32)} | sent
        return ("<xml>" + "".join(f"<{name}><![CDATA[{value}]]></{name}>" for name, value in sent.items()) + "</xml>").encode()

    async def raw(self, path: str, body: bytes) -> dict[str, str]:
        async with self.system.session.post(self.system.base + path, data=body, headers={"Content-Type": "text/xml"}) as answer:
            assert answer.status == 200
            self.content_type = answer.headers["Content-Type"]
            return fields_of(await answer.read())

    async def call(self, path: str, *, signed: bool = True, **fields: Any) -> dict[str, str]:
        """The answer; it must (or, with signed=False, must not) be rightly signed."""
        answer = await self.raw(path, self.body(fields))
        assert self.genuine(answer) is signed, answer
        return answer

    async def order(
        self, number: str, kind: str = "NATIVE", total: int = 100, *, signed: bool = True, **more: Any
    ) -> dict[str, str]:
        fields: dict[str, Any] = {
            "body": "Tea 茶",
            "out_trade_no": number,
            "total_fee": total,
            "spbill_create_ip": "127.0.0.1",
            "notify_url": self.system.receiver_url,
            "trade_type": kind,
        } | ({"product_id": "p1"} if kind == "NATIVE" else {})
        return await self.call("/pay/unifiedorder", signed=signed, **fields | more)

    async def micropay(self, number: str, code: str = "134567890123456789", **more: Any) -> dict[str, str]:
        fields: dict[str, Any] = {
            "body": "Tea",
            "out_trade_no": number,
            "total_fee": 100,
            "spbill_create_ip": "127.0.0.1",
            "auth_code": code,
        }
        return await self.call("/pay/micropay", **fields | more)

    async def query(self, number: str) -> dict[str, str]:
        return await self.call("/pay/orderquery", out_trade_no=number)

    async def reverse(self, number: str) -> dict[str, str]:
        return await self.call("/secapi/pay/reverse", out_trade_no=number)

    async def refund(self, number: str, refund: str, amount: int, total: int = 100, **more: Any) -> dict[str, str]:
        fields: dict[str, Any] = {"out_trade_no": number, "out_refund_no": refund, "refund_fee": amount, "total_fee": total}
        return await self.call("/secapi/pay/refund", **fields | more)
