"""The connections of the sender, with a server that answers with given bytes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler
from paycenter_server.deadlines import Deadlines
from paycenter_server.http_requests import OtherAiohttpError, PoolRequests, UnreadableError
from paycenter_server.workers.notification_sender import AddressGuard, AiohttpNotificationSender, parse_networks
from support.grpc_rig import write_pem
from support.system import FakeClock
from support.waiting import ended, eventually, pause


@pytest.fixture
async def sender() -> AsyncIterator[AiohttpNotificationSender]:
    made = AiohttpNotificationSender(AddressGuard(parse_networks("127.0.0.0/8, ::1/128")), FakeClock(), timeout=5)
    yield made
    await made.aclose()


@asynccontextmanager
async def serving(
    *answers: bytes, closes: bool = True, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that answers with these bytes, one after the other. Its port, and the heads of the requests, empty ones for
    connections."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(b"")
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                seen.append(await reader.readuntil(b"\r\n\r\n"))
                await reader.readexactly(2)
                writer.write(answers[sum(map(bool, seen)) - 1])
                await writer.drain()
                if closes:
                    break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    yield server.sockets[0].getsockname()[1], seen
    server.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_an_early_answer_is_not_the_answer(sender: AiohttpNotificationSender) -> None:
    async with serving(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK) as (port, _):
        received = await sender.send(f"http://127.0.0.1:{port}/", {}, b"{}")
    assert (received.status, received.text) == (200, "ok")


async def test_interim_answers_without_an_answer_end_the_connection(sender: AiohttpNotificationSender) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    async with serving(8 * interim + OK, 9 * interim + OK, OK, closes=False) as (port, seen):
        received = [await sender.send(f"http://127.0.0.1:{port}/", {}, b"{}") for _ in range(3)]
    assert [answer.status for answer in received] == [200, 0, 200]
    assert "more than 8 interim answers" in received[1].text
    assert [bool(head) for head in seen] == [False, True, True, False, True]


async def test_a_connection_is_used_again_unless_the_receiver_closes_it(sender: AiohttpNotificationSender) -> None:
    last = OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
    async with serving(OK, last, OK, closes=False) as (port, seen):
        for _ in range(3):
            assert (await sender.send(f"http://127.0.0.1:{port}/a?b=c", {"webhook-id": "N1"}, b"{}")).text == "ok"
    assert [bool(head) for head in seen] == [False, True, True, False, True]
    assert seen[1].startswith(b"POST /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % port)
    assert b"\r\nwebhook-id: N1\r\ncontent-length: 2\r\n\r\n" in seen[1]


async def test_idle_connections_do_not_use_up_the_descriptors() -> None:
    """Descriptors are given from the lowest on, so a high one means that there are many."""
    requests = PoolRequests(aiohttp.TCPConnector())
    async with serving(OK, OK, OK, closes=False) as (port, seen):
        for kept in (True, False):
            requests._keep_below = 1 << 20 if kept else 3
            await requests.send("POST", f"http://127.0.0.1:{port}/", (), b"{}", 10)
        await requests.send("POST", f"http://127.0.0.1:{port}/", (), b"{}", 10)
    await requests.aclose()
    assert [bool(head) for head in seen] == [False, True, True, False, True]


async def test_an_answer_that_was_cut_leaves_no_connection(sender: AiohttpNotificationSender) -> None:
    """What follows on it would be taken for the answer to the next request."""
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000
    async with serving(long, OK, closes=False) as (port, seen):
        assert len((await sender.send(f"http://127.0.0.1:{port}/", {}, b"{}")).text) == 64 * 1024
        assert (await sender.send(f"http://127.0.0.1:{port}/", {}, b"{}")).text == "ok"
    assert [bool(head) for head in seen] == [False, True, False, True]


async def test_a_certificate_that_nobody_has_signed_is_refused(sender: AiohttpNotificationSender, tmp_path: Path) -> None:
    tls, _ = write_pem(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    async with serving(OK, tls=context) as (port, seen):
        received = await sender.send(f"https://localhost:{port}/", {}, b"{}")
    assert received.status == 0
    assert "CERTIFICATE_VERIFY_FAILED" in received.text
    assert not any(seen)


async def test_the_timer_of_a_block_that_has_ended_ends_the_next_one_in_its_time() -> None:
    deadlines, loop = Deadlines(0.1), asyncio.get_running_loop()
    with deadlines.next():
        await pause(0.05)
    for _ in range(2):
        begun = loop.time()
        with pytest.raises(TimeoutError), deadlines.next():
            await asyncio.Event().wait()
        assert loop.time() - begun > 0.09
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_blocks_at_the_same_time_end_each_by_itself() -> None:
    deadlines, go_on = Deadlines(0.1), asyncio.Event()

    async def wait(event: asyncio.Event) -> str:
        with deadlines.next():
            await event.wait()
        return "in time"

    tasks = [asyncio.create_task(wait(event)) for event in (asyncio.Event(), go_on, asyncio.Event())]
    await eventually(lambda: len(deadlines._blocks) == 3)
    go_on.set()
    found = await ended(tasks)
    assert [type(one) for one in found] == [TimeoutError, str, TimeoutError]
    assert not deadlines._blocks


@pytest.mark.parametrize("expires", [False, True])
async def test_a_task_that_is_cancelled_is_no_timeout(expires: bool) -> None:
    """Also if both happen at the same time."""
    deadlines = Deadlines(10)

    async def wait() -> None:
        with deadlines.next():
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    (block,) = await eventually(lambda: list(deadlines._blocks))
    if expires:
        block.expire()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_in_a_block_is_not_changed() -> None:
    with pytest.raises(OSError, match="refused"), Deadlines(10).next():
        raise OSError("refused")


async def test_an_answer_to_no_request_is_not_taken_for_the_next_one() -> None:
    """A receiver answers once too often, while the connection is not in use. It is not used again."""
    more, sent = asyncio.Event(), asyncio.Event()
    bodies: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                bodies.append(await reader.readexactly(1))
                status = b"500 No" if bodies[-1] == b"2" else b"200 OK"
                writer.write(b"HTTP/1.1 %s\r\nContent-Length: 1\r\n\r\n%s" % (status, bodies[-1]))
                await writer.drain()
                if bodies == [b"0"]:
                    await more.wait()
                    writer.write(OK)
                    await writer.drain()
                    sent.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    requests = PoolRequests(aiohttp.TCPConnector())
    answers = [await requests.send("POST", url, (), b"0", 10)]
    (idle,) = requests._connector._conns.values()
    more.set()
    await sent.wait()
    await eventually(lambda: idle[0][0].should_close)
    answers += [await requests.send("POST", url, (), b"%d" % number, 10) for number in (1, 2, 3)]
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"0"), (200, b"1"), (500, b"2"), (200, b"3")]
    await requests.aclose()
    server.close()


class Patient(aiohttp.TCPConnector):
    """Gives a connection when something has arrived over it."""

    async def connect(self, *arguments: Any, **more: Any) -> Any:
        connection: Any = await super().connect(*arguments, **more)
        await eventually(lambda: connection.protocol.should_close)
        return connection


async def test_a_server_that_greets_is_not_connected_to_again_and_again() -> None:
    greeted = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal greeted
        greeted += 1
        writer.write(b"220 ready\r\n")
        with suppress(ConnectionError):
            assert await reader.read() == b"", "nothing is sent"
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    requests = PoolRequests(Patient())
    with pytest.raises(UnreadableError, match="an answer before a request"):
        await requests.send("POST", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", (), b"{}", 10)
    assert greeted == 17
    await requests.aclose()
    server.close()


async def test_a_part_of_aiohttp_that_is_not_there_after_the_request_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(OK) as (port, _):
        requests = PoolRequests(aiohttp.TCPConnector())
        monkeypatch.delattr(ResponseHandler, "set_response_params")
        with pytest.raises(OtherAiohttpError, match="AttributeError"):
            await requests.send("POST", f"http://127.0.0.1:{port}/", (), b"{}", 10)
        await requests.aclose()
