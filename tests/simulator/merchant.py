"""A merchant that signs requests and verifies answers and notifications. It uses only `cryptography`.

Sources: WeChat Pay APIv3, request signature; response and notification verification. Alipay Open Platform, signature.
"""

from __future__ import annotations

import base64
import datetime
import json
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from paycenter_server.simulator.app import create_app
from paycenter_server.simulator.keys import SimulatorKeys
from paycenter_server.simulator.settings import SimulatorConfig
from support.waiting import eventually
from yarl import URL

CHINA = datetime.timezone(datetime.timedelta(hours=8))


def private_key(file: Path) -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key(file.read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def public_key(file: Path) -> rsa.RSAPublicKey:
    data = file.read_bytes()
    certificate = b"CERTIFICATE" in data
    key = x509.load_pem_x509_certificate(data).public_key() if certificate else serialization.load_pem_public_key(data)
    assert isinstance(key, rsa.RSAPublicKey)
    return key


def sign(key: rsa.RSAPrivateKey, text: bytes) -> str:
    return base64.b64encode(key.sign(text, padding.PKCS1v15(), hashes.SHA256())).decode()


def verifies(key: rsa.RSAPublicKey, text: bytes, signature: str) -> bool:
    try:
        key.verify(base64.b64decode(signature), text, padding.PKCS1v15(), hashes.SHA256())
    except (InvalidSignature, ValueError):
        return False
    return True


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class WechatClient:
    """WeChat Pay v3 in public-key mode, or in platform-certificate mode."""

    def __init__(self, system: SimulatorSystem, *, public_key_mode: bool = True) -> None:
        self.system, self.keys = system, system.keys
        self.ids = self.keys.wechatpay
        self.private = private_key(self.keys.file("wechatpay", "apiclient_key.pem"))
        self.serial = self.ids["public_key_id"] if public_key_mode else ""

    def authorization(self, method: str, path: str, body: bytes, stamp: int | None = None, **replaced: str) -> str:
        values = {
            "mchid": self.ids["mchid"],
            "nonce_str": uuid.uuid4().hex,
            "timestamp": str(stamp if stamp is not None else int(time.time())),
            "serial_no": self.ids["merchant_serial"],
        }
        message = f"{method}\n{path}\n{values['timestamp']}\n{values['nonce_str']}\n".encode() + body + b"\n"
        values |= {"signature": sign(self.private, message)} | replaced
        return "WECHATPAY2-SHA256-RSA2048 " + ",".join(f'{name}="{value}"' for name, value in values.items())

    async def call(
        self,
        method: str,
        path: str,
        document: Any = None,
        *,
        headers: dict[str, str | None] | None = None,
        stamp: int | None = None,
        **replaced: str,
    ) -> Answer:
        body = b"" if document is None else json.dumps(document).encode()
        sent: dict[str, str | None] = {
            "Authorization": self.authorization(method, path, body, stamp, **replaced),
            "User-Agent": "merchant/1",
            "Accept": "application/json",
            "Content-Type": "application/json",
        }
        if self.serial:
            sent["Wechatpay-Serial"] = self.serial
        sent |= headers or {}
        kept = {name: value for name, value in sent.items() if value is not None}
        async with self.system.session.request(
            method, URL(self.system.base + path, encoded=True), data=body, headers=kept, skip_auto_headers=("User-Agent", "Accept")
        ) as response:
            return Answer(response.status, dict(response.headers), await response.read())

    def verified(self, headers: dict[str, str], body: bytes) -> str:
        """The serial of the key that verifies the signature; "" if none does."""
        if "Wechatpay-Signature" not in headers:
            return ""
        serial = headers["Wechatpay-Serial"]
        name = {self.ids["public_key_id"]: "pub_key.pem", self.ids["platform_serial"]: "platform_cert.pem"}[serial]
        message = f"{headers['Wechatpay-Timestamp']}\n{headers['Wechatpay-Nonce']}\n".encode() + body + b"\n"
        assert headers["Wechatpay-Signature-Type"] == "WECHATPAY2-SHA256-RSA2048"
        assert abs(int(headers["Wechatpay-Timestamp"]) - time.time()) < 300
        return serial if verifies(public_key(self.keys.file("wechatpay", name)), message, headers["Wechatpay-Signature"]) else ""

    def opened(self, notification: Received) -> dict[str, Any]:
        """The decrypted resource of a notification."""
        resource = json.loads(notification.body)["resource"]
        cipher = AESGCM(self.ids["apiv3_key"].encode())
        plain = cipher.decrypt(
            resource["nonce"].encode(), base64.b64decode(resource["ciphertext"]), resource["associated_data"].encode()
        )
        document: dict[str, Any] = json.loads(plain)
        return document

    def order(self, number: str, total: int = 100, **more: Any) -> dict[str, Any]:
        return {
            "appid": self.ids["appid"],
            "mchid": self.ids["mchid"],
            "description": "Tea 茶",
            "out_trade_no": number,
            "notify_url": self.system.receiver_url,
            "amount": {"total": total, "currency": "CNY"},
        } | more

    async def create(self, number: str, total: int = 100, kind: str = "native", **more: Any) -> Answer:
        return await self.call("POST", f"/v3/pay/transactions/{kind}", self.order(number, total, **more))

    async def query(self, number: str) -> Answer:
        return await self.call("GET", f"/v3/pay/transactions/out-trade-no/{number}?mchid={self.ids['mchid']}")

    async def close(self, number: str) -> Answer:
        return await self.call("POST", f"/v3/pay/transactions/out-trade-no/{number}/close", {"mchid": self.ids["mchid"]})

    async def refund(self, number: str, refund: str, amount: int, total: int = 100, **more: Any) -> Answer:
        document = {
            "out_trade_no": number,
            "out_refund_no": refund,
            "notify_url": self.system.receiver_url,
            "amount": {"refund": amount, "total": total, "currency": "CNY"},
        }
        return await self.call("POST", "/v3/refund/domestic/refunds", document | more)

    async def refund_query(self, refund: str) -> Answer:
        return await self.call("GET", f"/v3/refund/domestic/refunds/{refund}")


class AlipayClient:
    """The Alipay gateway in public-key or certificate mode, by POST or by GET."""

    def __init__(self, system: SimulatorSystem, *, certificates: bool = False, get: bool = False) -> None:
        self.system, self.keys, self.certificates, self.get = system, system.keys, certificates, get
        self.ids = self.keys.alipay
        self.private = private_key(self.keys.file("alipay", "app_private_key.pem"))
        self.public = public_key(self.keys.file("alipay", "alipay_public_key.pem"))
        self.last = ""

    def params(self, method: str, biz: dict[str, Any], **more: str) -> dict[str, str]:
        values = {
            "app_id": self.ids["app_id"],
            "method": method,
            "format": "JSON",
            "charset": "utf-8",
            "sign_type": "RSA2",
            "timestamp": datetime.datetime.now(CHINA).strftime("%Y-%m-%d %H:%M:%S"),
            "version": "1.0",
            "biz_content": json.dumps(biz, ensure_ascii=False),
        } | more
        if self.certificates:
            values |= {"app_cert_sn": self.ids["app_cert_sn"], "alipay_root_cert_sn": self.ids["alipay_root_cert_sn"]}
        source = "&".join(f"{name}={value}" for name, value in sorted(values.items()))
        return values | {"sign": sign(self.private, source.encode())}

    async def raw(self, params: dict[str, str]) -> tuple[int, str]:
        address = self.system.base + "/gateway.do"
        if self.get:
            url, data = URL(address + "?" + urlencode(params), encoded=True), None
        else:
            common = {name: value for name, value in params.items() if name != "biz_content"}
            url, data = (
                URL(address + "?" + urlencode(common), encoded=True),
                urlencode({"biz_content": params["biz_content"]}).encode(),
            )
        headers = {"Content-Type": "application/x-www-form-urlencoded;charset=utf-8"}
        async with self.system.session.request("GET" if self.get else "POST", url, data=data, headers=headers) as response:
            return response.status, await response.text()

    async def call(self, method: str, biz: dict[str, Any], *, signed: bool = True, **more: str) -> dict[str, Any]:
        """The node of the answer. Its signature must be valid (or, with signed=False, invalid or missing)."""
        status, self.last = await self.raw(self.params(method, biz, **more))
        assert status == 200
        assert self.verified(self.last, method.replace(".", "_") + "_response") is signed
        return dict(json.loads(self.last)[method.replace(".", "_") + "_response"])

    def verified(self, text: str, node: str) -> bool:
        document = json.loads(text)
        if "sign" not in document:
            return False
        start = text.index("{", text.index(f'"{node}"'))
        _, end = json.JSONDecoder().raw_decode(text, start)
        return verifies(self.public, text[start:end].encode(), document["sign"])

    def notified(self, notification: Received) -> dict[str, str]:
        """The parameters of a notification whose signature verifies."""
        params = dict(parse_qsl(notification.body.decode(), keep_blank_values=True))
        assert self.genuine(params)
        return params

    def genuine(self, params: dict[str, str]) -> bool:
        source = "&".join(f"{name}={value}" for name, value in sorted(params.items()) if name not in ("sign", "sign_type"))
        return verifies(self.public, source.encode(), params.get("sign", ""))

    async def precreate(self, number: str, amount: str = "1.00", **more: Any) -> dict[str, Any]:
        biz = {"out_trade_no": number, "total_amount": amount, "subject": "Tea 茶"} | more
        return await self.call("alipay.trade.precreate", biz, notify_url=self.system.receiver_url)

    async def query(self, number: str) -> dict[str, Any]:
        return await self.call("alipay.trade.query", {"out_trade_no": number})

    async def refund(self, number: str, request: str, amount: str, **more: Any) -> dict[str, Any]:
        biz = {"out_trade_no": number, "out_request_no": request, "refund_amount": amount} | more
        return await self.call("alipay.trade.refund", biz)

    async def refund_query(self, number: str, request: str) -> dict[str, Any]:
        return await self.call("alipay.trade.fastpay.refund.query", {"out_trade_no": number, "out_request_no": request})


@dataclass
class Received:
    headers: dict[str, str]
    body: bytes


@dataclass
class SimulatorSystem:
    """The simulator under test and the merchant's receiver."""

    keys: SimulatorKeys
    data_file: Path
    server: TestServer
    receiver: TestServer
    session: aiohttp.ClientSession
    received: list[Received] = field(default_factory=list)
    answers: list[tuple[int, bytes]] = field(default_factory=list)
    """The answers of the receiver to the next notifications. The later ones are accepted."""

    @classmethod
    async def start(cls, keys: SimulatorKeys, data_file: Path, **config: Any) -> SimulatorSystem:
        server = TestServer(
            create_app(SimulatorConfig(keys_dir=keys.directory, data_file=data_file, refund_delay_seconds=0.05, **config))
        )
        app = web.Application()
        system = cls(keys, data_file, server, TestServer(app), aiohttp.ClientSession())
        app.router.add_post("/notify", system._receive)
        await server.start_server()
        await system.receiver.start_server()
        return system

    async def stop(self) -> None:
        await self.session.close()
        await self.server.close()
        await self.receiver.close()

    async def restart(self) -> None:
        """Start another simulator on the same file."""
        await self.server.close()
        config = SimulatorConfig(keys_dir=self.keys.directory, data_file=self.data_file, refund_delay_seconds=0.05)
        self.server = TestServer(create_app(config))
        await self.server.start_server()

    @property
    def base(self) -> str:
        return str(self.server.make_url("")).rstrip("/")

    @property
    def receiver_url(self) -> str:
        return str(self.receiver.make_url("/notify"))

    async def _receive(self, request: web.Request) -> web.Response:
        self.received.append(Received(dict(request.headers), await request.read()))
        status, body = self.answers.pop(0) if self.answers else (200, b"success")
        return web.Response(status=status, body=body)

    async def get(self, path: str) -> Answer:
        return await self._own("GET", path, None)

    async def post(self, path: str, document: Any = None) -> Answer:
        return await self._own("POST", path, document)

    async def delete(self, path: str) -> Answer:
        return await self._own("DELETE", path, None)

    async def _own(self, method: str, path: str, document: Any) -> Answer:
        data = None if document is None else json.dumps(document).encode()
        async with self.session.request(method, self.base + path, data=data, allow_redirects=False) as response:
            return Answer(response.status, dict(response.headers), await response.read())

    async def form(self, path: str, **values: str) -> Answer:
        async with self.session.post(self.base + path, data=values, allow_redirects=False) as response:
            return Answer(response.status, dict(response.headers), await response.read())

    async def advance(self, seconds: float) -> None:
        answer = await self.post("/simulator/clock", {"advance_seconds": seconds, "wait_seconds": 5})
        assert answer.json["settled"]

    async def fault(self, api: str, fault: str, **more: Any) -> None:
        assert (await self.post("/simulator/faults", [{"api": api, "fault": fault, **more}])).status == 200

    async def notifications(self, count: int) -> list[Received]:
        """Wait until the receiver has so many in total and the simulator has no other send in progress or due."""
        await eventually(lambda: len(self.received) >= count)
        await self.advance(0)
        assert len(self.received) == count
        return self.received
