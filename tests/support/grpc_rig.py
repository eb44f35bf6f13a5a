"""No tests: what the gRPC and sidecar tests share. A real server over a system, its clients, and a database that can be cut off."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from paycenter import AsyncPayCenter, PayCenterError
from paycenter_server.bootstrap import Services
from paycenter_server.grpc_server.server import Parts, Server, Tls
from paycenter_server.services.limits import Limits

from support.system import PayCenterSystem, free_port


def parts_of(services: Services) -> Parts:
    """As `paycenter serve` puts them together."""
    return Parts(
        identity=services.identity, orders=services.orders, submission=services.submission, timelines=services.timelines,
        cashier=services.cashier,
        refunds=services.refunds, apps=services.apps, channels=services.channels, accounts=services.accounts,
        credentials=services.credentials,
        notifications=services.notifications, case_desk=services.case_desk,
        case_decisions=services.case_decisions, health=services.health,
        operators=services.operators, sessions=services.sessions, audit=services.audit, approval_desk=services.approval_desk,
    )  # fmt: skip


@dataclass
class Rig:
    """A server over a system. `shop` is the client of the app, `op` an operator's."""

    system: PayCenterSystem
    server: Server
    stop: asyncio.Event
    running: asyncio.Task[None]
    shop: AsyncPayCenter
    op: AsyncPayCenter

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def client(self, key_id: str, key_secret: str, **more: Any) -> AsyncPayCenter:
        """A client without retries."""
        return AsyncPayCenter(self.target, key_id=key_id, key_secret=key_secret, **{"attempts": 1, **more})

    def bare(self) -> grpc.aio.Channel:
        """A channel without credentials."""
        return grpc.aio.insecure_channel(self.target, [("grpc.use_local_subchannel_pool", 1)])

    async def app(self, app_key: str) -> AsyncPayCenter:
        """Another app and its client."""
        await self.system.add_app(app_key, codes=("mock",))
        return self.client(*key_of(self.system, app_key))

    async def order(self, client: AsyncPayCenter | None = None, **more: Any) -> Any:
        """A new order, over the wire."""
        values = {"merchant_order_id": self.system.next_id(), "subject": "咖啡", "amount": 100, "user_ip": "203.0.113.9", **more}
        return await (client or self.shop).create_order(**values)


def key_of(system: PayCenterSystem, app_key: str = "shop") -> tuple[str, str]:
    """Key id and secret of an app of the system."""
    key_id, _, secret = base64.b64decode(system.secrets[f"{app_key}:authorization"].removeprefix("Basic ")).decode().partition(":")
    return key_id, secret


@asynccontextmanager
async def open_rig(
    system: PayCenterSystem, *, tls: Tls | None = None, trusted: bytes | bool = False, limits: Limits | None = None, **options: Any
) -> AsyncIterator[Rig]:
    """Started on a free port; its health looks at the database every 50 ms."""
    host = "localhost" if tls else "127.0.0.1"
    server = Server(
        parts_of(system.services), f"{host}:0", tls=tls, with_reflection=True, health_seconds=0.05, limits=limits, **options
    )  # fmt: skip
    await server.start()
    stop = asyncio.Event()
    running = asyncio.create_task(server.run(stop))
    target = f"{host}:{server.port}"
    clients = []
    for key_id, secret in (key_of(system), await system.services.credentials.create_operator("test")):
        clients.append(AsyncPayCenter(target, key_id=key_id, key_secret=secret, attempts=1, tls=trusted))
    try:
        yield Rig(system, server, stop, running, *clients)
    finally:
        stop.set()
        for client in clients:
            await client.close()
        await running


@asynccontextmanager
async def fails(reason: str, code: grpc.StatusCode | None = None) -> AsyncIterator[list[PayCenterError]]:
    """The block must raise this reason; the error is put into the list."""
    caught: list[PayCenterError] = []
    with pytest.raises(PayCenterError) as info:
        yield caught
    caught.append(info.value)
    assert info.value.reason == reason, repr(info.value)
    if code is not None:
        assert info.value.code is code, repr(info.value)


@dataclass
class Wire:
    """An error as it travels."""

    code: grpc.StatusCode
    text: str
    status: Status
    info: ErrorInfo
    fields: list[str]
    retry: RetryInfo | None
    pushback: str | None


def wire(error: grpc.aio.AioRpcError) -> Wire:
    """Unpacked."""
    pairs: Any = error.trailing_metadata() or ()
    trailing: dict[str, Any] = dict(tuple(pairs))
    status = Status.FromString(trailing["grpc-status-details-bin"])
    found: dict[type[Message], Any] = {}
    for detail in status.details:
        for kind in (ErrorInfo, BadRequest, RetryInfo):
            message = kind()
            if detail.Unpack(message):
                found[kind] = message
    fields = [item.field for item in found[BadRequest].field_violations] if BadRequest in found else []
    pushback = trailing.get("grpc-retry-pushback-ms")
    return Wire(
        error.code(), error.details() or "", status, found[ErrorInfo], fields, found.get(RetryInfo),
        pushback if pushback is None else str(pushback),
    )  # fmt: skip


def raw_call(channel: Any, method: str) -> Any:
    """A call of bytes, without a stub."""
    return channel.unary_unary(method)


async def refused(call: Any) -> Wire:
    """The error of a raw call."""
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await call
    return wire(info.value)


class Line:
    """A database behind a line that can be cut: connections are aborted, and new ones refused until it is mended.

    `silent`: what is sent does not arrive. `accepted`: the connections so far.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        self._upstream = (parts.hostname, parts.port)
        self.port = free_port()
        self.url = url.replace(f"{parts.hostname}:{parts.port}", f"127.0.0.1:{self.port}")
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.silent = False
        self.accepted = 0

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        self.accepted += 1
        await asyncio.gather(self._forward(reader, far_writer), self._forward(far_reader, writer))
        self._writers -= {writer, far_writer}

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if not self.silent:
                    writer.write(data)
                    await writer.drain()
        writer.transport.abort()


def named(message: Message, *fields: str) -> Sequence[Any]:
    """Several fields of a message."""
    return [getattr(message, field) for field in fields]


def write_pem(folder: Path) -> tuple[Tls, bytes]:
    """A self-signed certificate for localhost."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    tls = Tls(folder / "cert.pem", folder / "key.pem")
    tls.certificate.write_bytes(pem)
    tls.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return tls, pem
