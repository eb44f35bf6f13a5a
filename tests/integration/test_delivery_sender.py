"""The real sender with a receiver on this machine: answers, Retry-After, and addresses."""

from __future__ import annotations

import asyncio
import base64
import gzip
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import web
from paycenter_server.domain.apps import NotificationSuccess
from paycenter_server.services.notifications_delivery import NotificationDelivery, clean
from paycenter_server.storage.notifications import list_logs
from paycenter_server.workers.notification_sender import AddressGuard, AiohttpNotificationSender, parse_networks
from standardwebhooks import Webhook
from support.system import OPERATOR, FakeClock, PayCenterSystem
from support.waiting import pause

LOOPBACK = parse_networks("127.0.0.0/8")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Receiver:
    """A merchant's endpoint; `answer` is its behaviour."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.answer: Handler = self._ok
        self.url = ""

    async def _ok(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="ok")

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, dict(request.headers), await request.read()))
        return await self.answer(request)

    def answers(self, status: int = 200, body: bytes = b"ok", **headers: str) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            return web.Response(
                status=status, body=body, headers={name.replace("_", "-"): value for name, value in headers.items()}
            )

        self.answer = answer


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made, app = Receiver(), web.Application()
    app.router.add_route("*", "/{rest:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = "http://{}:{}".format(*runner.addresses[0][:2])
    yield made
    await runner.cleanup()


@pytest.fixture
async def sender() -> AsyncIterator[AiohttpNotificationSender]:
    made = AiohttpNotificationSender(AddressGuard(LOOPBACK), FakeClock(), timeout=0.4)
    yield made
    await made.aclose()


async def test_a_post_has_exactly_the_signed_bytes(receiver: Receiver, sender: AiohttpNotificationSender) -> None:
    body = '{"a":"茶\\u0000"}'.encode()
    headers = {"webhook-id": "N1", "content-type": "application/json; charset=utf-8"}
    assert (await sender.send(f"{receiver.url}/a%2Fb?q=%E8%8C%B6", headers, body)).status == 200
    _, sent, got = receiver.requests[0]
    assert got == body
    assert sent["webhook-id"] == "N1"
    assert sent["Content-Type"] == "application/json; charset=utf-8"


async def test_a_large_answer_is_cut(receiver: Receiver, sender: AiohttpNotificationSender) -> None:
    receiver.answers(body=b"x" * (1 << 20))
    received = await sender.send(receiver.url, {}, b"{}")
    assert (received.status, len(received.text)) == (200, 64 * 1024)
    assert len(clean(received.text)) == 2000


async def test_a_compressed_answer_is_cut_as_well(receiver: Receiver, sender: AiohttpNotificationSender) -> None:
    receiver.answers(body=gzip.compress(b"\0" * (64 << 20)), content_encoding="gzip")
    received = await sender.send(receiver.url, {}, b"{}")
    assert (received.status, len(received.text)) == (200, 64 * 1024)


async def test_an_answer_in_parts_is_read_to_its_end(receiver: Receiver, sender: AiohttpNotificationSender) -> None:
    async def parts(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for part in (b"one ", b"two ", b"three"):
            await response.write(part)
            await pause()
        return response

    receiver.answer = parts
    assert (await sender.send(receiver.url, {}, b"{}")).text == "one two three"


async def test_an_answer_that_never_ends(receiver: Receiver, sender: AiohttpNotificationSender) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await pause()

    receiver.answer = drip
    received = await sender.send(receiver.url, {}, b"{}")
    assert (received.status, received.text) == (0, "no answer within 0.4 seconds")


async def test_no_answer_in_time(receiver: Receiver, sender: AiohttpNotificationSender) -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    receiver.answer = hang
    received = await sender.send(receiver.url, {}, b"{}")
    assert (received.status, received.text) == (0, "no answer within 0.4 seconds")


async def test_a_redirect_is_not_followed(receiver: Receiver, sender: AiohttpNotificationSender) -> None:
    for status in (301, 302, 303, 307, 308):
        receiver.answers(status, location=f"{receiver.url}/elsewhere")
        assert (await sender.send(f"{receiver.url}/here", {}, b"{}")).status == status
    assert {path for path, _, _ in receiver.requests} == {"/here"}


async def test_retry_after(receiver: Receiver) -> None:
    clock = FakeClock()
    sender = AiohttpNotificationSender(AddressGuard(LOOPBACK), clock)
    later = format_datetime(clock.now() + timedelta(seconds=90), usegmt=True)
    early = format_datetime(clock.now() - timedelta(seconds=90), usegmt=True)
    for status, value, low, high in (
        (429, "120", 120, 120), (503, "0", 0, 0), (429, later, 85, 91), (503, early, 0, 0), (503, "9" * 50, 86_400, 86_400),
    ):  # fmt: skip
        receiver.answers(status, retry_after=value)
        after = (await sender.send(receiver.url, {}, b"{}")).retry_after
        assert after is not None
        assert low <= after <= high, (status, value, after)
    receiver.answers(500, retry_after="120")
    assert (await sender.send(receiver.url, {}, b"{}")).retry_after is None
    await sender.aclose()


@pytest.mark.parametrize(
    "value",
    [
        "soon",
        "-5",
        "1.5",
        "Mon, 01 Jan 0001 00:00:00 +2300",
        "Fri, 31 Dec 9999 23:59:59 -2300",
        "Mon, 01 Jan 99999 00:00:00 GMT",
        "Wed, 21 Oct 2015 07:28:00",
        "Wed, 21 Oct 2015 07:28:00 -0000",
        "Wed, 99 Oct 2015 99:99:99 GMT",
        ",",
        "\u0661",
        "1e5",
        "Mon,",
        "Wed, 21 Oct 2015 07:28:00 +99999999999",
        "1 1 1 1 1 1 1",
    ],
)
async def test_an_invalid_retry_after_is_ignored(receiver: Receiver, sender: AiohttpNotificationSender, value: str) -> None:
    receiver.answers(503, retry_after=value)
    received = await sender.send(receiver.url, {}, b"{}")
    assert received.status == 503
    assert received.retry_after is None or received.retry_after >= 0


async def test_a_retry_after_beyond_every_date_is_ignored(receiver: Receiver, sender: AiohttpNotificationSender) -> None:
    receiver.answers(503, retry_after="Mon, 01 Jan 2030 00:00:00 +999999999999999")
    assert (await sender.send(receiver.url, {}, b"{}")).retry_after is None


async def test_a_name_and_password_in_the_url_are_sent(receiver: Receiver, sender: AiohttpNotificationSender) -> None:
    url = receiver.url.replace("http://", "http://shop:secret@")
    assert (await sender.send(f"{url}/notify", {}, b"{}")).status == 200
    path, headers, _ = receiver.requests[0]
    assert (path, headers["Authorization"]) == ("/notify", "Basic " + base64.b64encode(b"shop:secret").decode())
    assert headers["Host"] == receiver.url.removeprefix("http://")


async def test_a_header_cannot_begin_another_one(receiver: Receiver, sender: AiohttpNotificationSender) -> None:
    for value in ("N1\r\nx: y", "N1\nx: y", "N1\rx: y"):
        received = await sender.send(receiver.url, {"webhook-id": value, "a": "b"}, b"{}")
        assert (received.status, received.text) == (0, "ValueError: a header has a line break")
    assert receiver.requests == []


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"junk\r\n\r\n",
        b"HTTP/1.1 \xff\xff\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\njunk",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nSet-Cookie: \xff=\x01\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=nonsense\r\nContent-Length: 2\r\n\r\n\xff\xfe",
    ],
)
async def test_a_receiver_that_does_not_answer_http(sender: AiohttpNotificationSender, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    received = await sender.send(f"http://127.0.0.1:{port}/", {}, b"{}")
    assert received.status in (0, 101, 200)
    clean(received.text).encode()
    server.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "http://127.1.2.3:{port}/",
        "http://[::1]:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://0.0.0.0:{port}/",
        "http://localhost:{port}/",
        "http://2130706433:{port}/",
        "http://0x7f.1:{port}/",
        "http://10.0.0.1:{port}/",
        "http://[::]:{port}/",
        "http://169.254.169.254/latest/meta-data",
        "http://192.168.1.1/",
        "http://172.16.0.1/",
        "http://100.64.0.1/",
        "http://[fe80::1]/",
        "http://[fc00::1]/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
        "http://[::ffff:10.0.0.1]/",
        "http://[ff02::1]/",
    ],
)
async def test_private_addresses_are_refused(receiver: Receiver, url: str) -> None:
    guarded = AiohttpNotificationSender(AddressGuard([]), FakeClock(), timeout=2)
    received = await guarded.send(url.format(port=receiver.url.rpartition(":")[2]), {}, b"{}")
    await guarded.aclose()
    assert received.status == 0
    assert receiver.requests == []
    assert "private address" in received.text or "Invalid" in received.text or "Cannot connect" in received.text


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("1.1.1.1", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:1.1.1.1", True),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::a00:1", False),
        ("2002:7f00:1::", False),
        ("2002:a00:1::", False),
        ("::127.0.0.1", False),
        ("64:ff9b::101:101", True),
        ("198.18.0.1", False),
        ("192.0.2.1", False),
        ("fe80::1%eth0", False),
        ("240.0.0.1", False),
        ("64:ff9b:1::1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert AddressGuard([]).permits(address) is public


def test_networks_are_allowed_by_name() -> None:
    guard = AddressGuard(parse_networks("10.1.0.0/16, fd00::/8,"))
    assert guard.permits("10.1.2.3")
    assert guard.permits("::ffff:10.1.2.3")
    assert guard.permits("fd00::1")
    assert AddressGuard(parse_networks("::1/128")).permits("::1")
    assert not guard.permits("10.2.0.1")
    assert not guard.permits("127.0.0.1")
    assert parse_networks("") == []
    with pytest.raises(ValueError):
        parse_networks("10.0.0.0/8, nonsense")
    assert ipaddress.ip_network("127.0.0.0/8") in LOOPBACK


async def test_an_allowed_name_and_literal_work(receiver: Receiver, sender: AiohttpNotificationSender) -> None:
    port = receiver.url.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost"):
        assert (await sender.send(f"http://{host}:{port}/", {}, b"{}")).status == 200


async def test_only_http_is_spoken(receiver: Receiver, sender: AiohttpNotificationSender) -> None:
    for scheme in ("ftp", "ws", "tcp"):
        assert (await sender.send(receiver.url.replace("http", scheme), {}, b"{}")).status == 0
    assert receiver.requests == []


async def test_invalid_urls(sender: AiohttpNotificationSender) -> None:
    for url in (
        "",
        "x",
        "http://",
        "http://[",
        "ftp://a/",
        "http://\udcff/",
        "http://a:99999/",
        "http://exa mple/",
        "http://" + "a" * 300 + "/",
    ):
        received = await sender.send(url, {}, b"{}")
        assert received.status == 0, url
        clean(received.text).encode()


ZERO, ANY = NotificationSuccess.CODE_ZERO, NotificationSuccess.HTTP_2XX
ANSWERS = [
    (200, b"", ANY, "SUCCESS"),
    (204, b"", ANY, "SUCCESS"),
    (200, b'{"code":1}', ANY, "SUCCESS"),
    (302, b"", ANY, "REQUEST_SUCCESS"),
    (404, b"", ANY, "REQUEST_SUCCESS"),
    (500, b"", ANY, "REQUEST_SUCCESS"),
    (410, b"gone", ANY, "FAILURE"),
    (200, b'{"code":0}', ZERO, "SUCCESS"),
    (200, b' {"code": 0, "msg": "", "data": true}\n', ZERO, "SUCCESS"),
    (200, b"success", ZERO, "REQUEST_SUCCESS"),
    (200, b'{"code":1}', ZERO, "REQUEST_SUCCESS"),
    (200, b'{"code":false}', ZERO, "REQUEST_SUCCESS"),
    (200, b'{"code":"0"}', ZERO, "REQUEST_SUCCESS"),
    (200, b"[0]", ZERO, "REQUEST_SUCCESS"),
    (500, b'{"code":0}', ZERO, "REQUEST_SUCCESS"),
    (200, b"[" * 60_000, ZERO, "REQUEST_SUCCESS"),
    (200, b'{"code":' + b"9" * 9000 + b"}", ZERO, "REQUEST_SUCCESS"),
    (200, b"\0\xff\xfe\xed\xa0\x80 poison", ZERO, "REQUEST_SUCCESS"),
    (503, b"\0" * 70_000, ANY, "REQUEST_SUCCESS"),
]


async def test_what_counts_as_received(system: PayCenterSystem, receiver: Receiver, sender: AiohttpNotificationSender) -> None:
    delivery = NotificationDelivery(system.services.context, sender)
    for status, body, rule, state in ANSWERS:
        await system.services.apps.update(OPERATOR, "shop", {"notification_success": rule.value, **urls(receiver)})
        receiver.answers(status, body)
        receiver.requests.clear()
        order = await system.paid("mock")
        assert await delivery.deliver_due() == 1
        await delivery.settle()
        (task,) = await system.rows("SELECT * FROM pay_notify_task WHERE data_id = $1", order.id)
        async with system.services.context.database.connection() as connection:
            (entry,) = await list_logs(connection, task["id"])
        assert (task["state"], task["notify_times"], entry.http_status) == (state, 1, status), (status, body[:40], rule)
        assert (task["next_notify_time"] is None) is (state in ("SUCCESS", "FAILURE"))
        assert len(entry.answer) <= 2000
        _, headers, sent = receiver.requests[0]
        assert entry.request == task["payload"] == sent.decode()
        Webhook(system.secrets["shop"]).verify(sent, {name.lower(): value for name, value in headers.items()})


def urls(receiver: Receiver) -> dict[str, Any]:
    return {"order_notification_url": f"{receiver.url}/order", "refund_notification_url": f"{receiver.url}/refund"}


def test_now_is_aware() -> None:
    assert FakeClock().now().tzinfo is UTC
    assert FakeClock().now() - datetime.now(UTC) < timedelta(seconds=1)
