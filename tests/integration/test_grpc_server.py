"""The server itself: health that follows the database, deadlines, TLS, and an end that lets running calls end."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from paycenter import PayCenterError
from paycenter_server.bootstrap import open_services
from paycenter_server.grpc_server.server import Server
from paycenter_server.services.limits import Limits
from support.grpc_rig import Line, Rig, fails, key_of, open_rig, parts_of, raw_call, write_pem
from support.system import PayCenterSystem, open_system
from support.transports import HangingTransport
from support.waiting import ended, eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def rig(system: PayCenterSystem) -> AsyncIterator[Rig]:
    async with open_rig(system) as opened:
        yield opened


async def test_work_outlives_the_deadline_of_its_caller(
    database_url: str, redis_url: str, keys_dir: Path, master_key_file: Path
) -> None:
    slow = HangingTransport()
    async with (
        open_system(database_url, redis_url, keys_dir, master_key_file, transport=slow) as system,
        open_rig(system) as rig,
    ):
        order = await rig.order()
        started = asyncio.get_running_loop().time()
        async with fails("DEADLINE_EXCEEDED", grpc.StatusCode.DEADLINE_EXCEEDED):
            await rig.shop.submit_order(order, "wx_native", timeout=1.0)
        assert asyncio.get_running_loop().time() - started > 0.9
        # The channel was given less time than the caller had, whose deadline gRPC rounds up when it sends it.
        assert 0.4 < slow.given[0] < 0.8

        slow.answer.set()

        async def booked() -> bool:
            (attempt,) = (await rig.shop.get_order(id=order.id)).attempts
            return bool(await system.value("SELECT display_content FROM pay_attempt") and attempt.state)

        await eventually(booked)
        again = await rig.shop.submit_order(order, "wx_native")
        assert again.display_content.startswith("weixin://")
        assert len(slow.given) == 1
        await slow.aclose()


async def test_a_cancelled_caller_does_not_stop_its_work(
    database_url: str, redis_url: str, keys_dir: Path, master_key_file: Path
) -> None:
    slow = HangingTransport()
    async with (
        open_system(database_url, redis_url, keys_dir, master_key_file, transport=slow) as system,
        open_rig(system) as rig,
    ):
        order = await rig.order()
        call = asyncio.ensure_future(rig.shop.submit_order(order, "alipay_qr"))
        await slow.arrived.wait()
        call.cancel()
        slow.answer.set()
        await eventually(lambda: system.value("SELECT display_content FROM pay_attempt WHERE display_content <> ''"))
        await slow.aclose()


async def test_a_running_call_ends_before_the_server_does(
    database_url: str, redis_url: str, keys_dir: Path, master_key_file: Path
) -> None:
    slow = HangingTransport()
    async with (
        open_system(database_url, redis_url, keys_dir, master_key_file, transport=slow) as system,
        open_rig(system) as rig,
        rig.client(*key_of(system), timeout=2.0) as other,
    ):
        order = await rig.order()
        await rig.order(other)
        call = asyncio.ensure_future(rig.shop.submit_order(order, "wx_native"))
        await slow.arrived.wait()
        started = asyncio.get_running_loop().time()
        rig.stop.set()

        async def refusal() -> PayCenterError | None:
            try:
                await rig.order(other)
            except PayCenterError as error:
                return error
            return None

        # What has not begun is refused in a way that clients repeat, and tells when.
        error = await eventually(refusal)
        assert error is not None
        assert (error.code, error.reason, error.retry_after) == (grpc.StatusCode.UNAVAILABLE, "SERVER_STOPPING", 2.0)
        assert not call.done()
        # It takes no calls, and it lives: nobody has to end it before its running calls have ended.
        assert [await health_of(rig, name) for name in ("", "liveness")] == [NOT_SERVING, SERVING]
        slow.answer.set()
        assert (await call).display_content
        await rig.running
        assert asyncio.get_running_loop().time() - started < 3
        async with rig.client(*key_of(system), timeout=1.0) as late:
            error = await refusal_of(rig.order(late))
            assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "")
        await slow.aclose()


async def health_of(rig: Rig, name: str) -> Any:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.server.port}") as channel:
        request = health_pb2.HealthCheckRequest(service=name)
        return (await health_pb2_grpc.HealthStub(channel).Check(request, timeout=2)).status


async def refusal_of(call: Any) -> PayCenterError:
    with pytest.raises(PayCenterError) as caught:
        await call
    return caught.value


async def test_health_is_not_serving_before_calls_are_refused(rig: Rig) -> None:
    async with rig.bare() as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        rig.stop.set()
        assert (await watch.read()).status == NOT_SERVING
        watch.cancel()
    await rig.running


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """An HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


async def test_a_watch_that_reads_nothing_holds_up_nobody(rig: Rig) -> None:
    """Without room for a byte of the answer (SETTINGS_INITIAL_WINDOW_SIZE 0). Neither the health of others nor the stop waits."""
    path = b"/grpc.health.v1.Health/Watch"
    # Indexed: POST, http. Literals: the path, the authority, the content type (RFC 7541).
    block = b"\x83\x86\x04" + bytes((len(path),)) + path + b"\x01\x01x\x0f\x10\x10application/grpc\x00\x02te\x08trailers"
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.server.port)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, struct.pack(">HI", 4, 0)) + frame(4, 1, 0, b""))
    writer.write(frame(1, 4, 1, block) + frame(0, 1, 1, bytes(5)))
    read = b""
    while frame(1, 4, 1, b"")[3:] not in read:  # until the headers of the answer, which need no room
        read += await reader.read(1000)
    async with rig.bare() as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        async with asyncio.timeout(10):
            assert (await watch.read()).status == SERVING
            rig.stop.set()
            assert (await watch.read()).status == NOT_SERVING
        watch.cancel()
    await ended([rig.running], 20)
    writer.close()


async def test_a_watch_ends_when_the_server_stops(rig: Rig) -> None:
    """Otherwise the stop would wait ten seconds for it."""
    async with rig.bare() as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        rig.stop.set()
        assert (await watch.read()).status == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as ending:
            await watch.read()
        assert (ending.value.code(), ending.value.details()) == (grpc.StatusCode.UNAVAILABLE, "The server stops.")
    await rig.running


async def test_no_call_is_cancelled_by_the_end_of_the_server(rig: Rig) -> None:
    """Also for clients that repeat nothing but UNAVAILABLE, as the pushback says."""
    seen: set[grpc.StatusCode] = set()
    ended = asyncio.Event()
    started = 0

    async def caller() -> None:
        nonlocal started
        async with rig.client(*key_of(rig.system)) as client:
            while not ended.is_set():
                started += 1
                try:
                    await client.list_channel_codes()
                except PayCenterError as error:
                    seen.add(error.code)
                    if error.code is not grpc.StatusCode.UNAVAILABLE:
                        return
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(ended.wait(), error.retry_after or 0.1)

    callers = [asyncio.create_task(caller()) for _ in range(32)]

    async def busy() -> bool:
        return started > 200

    await eventually(busy, 20)
    rig.stop.set()
    await rig.running
    ended.set()
    await asyncio.gather(*callers)
    assert seen == {grpc.StatusCode.UNAVAILABLE}


async def test_the_database_goes_away_and_comes_back(system: PayCenterSystem) -> None:
    line = Line(system.database_url)
    await line.mend()
    settings = system.settings.model_copy(update={"database_url": line.url})
    async with (
        open_services(settings, clock=system.clock, wake_up=system.wake_up) as services,
        open_rig(replace(system, services=services)) as rig,
        rig.bare() as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)

        async def state() -> int:
            return int((await health.Check(health_pb2.HealthCheckRequest(service=""))).status)

        async def is_state(wanted: int) -> bool:
            return await state() == wanted

        order = await rig.order()
        assert await state() == SERVING
        for _ in range(2):
            await line.cut()
            for call in (rig.order(), rig.shop.get_order(id=order.id), rig.shop.submit_order(order, "mock")):
                async with fails("DATABASE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE) as caught:
                    await call
                assert caught[0].retry_after == 1.0
                assert "127.0.0.1" not in f"{caught[0]}{caught[0].metadata}"
            await eventually(lambda: is_state(NOT_SERVING))
            await line.mend()
            await eventually(lambda: is_state(SERVING))
            assert (await rig.shop.get_order(id=order.id)).id == order.id
        # A client with retries does not notice a short absence.
        await line.cut()
        async with rig.client(*key_of(system), attempts=4) as patient:
            waiting = asyncio.ensure_future(patient.get_order(id=order.id))
            await eventually(lambda: is_state(NOT_SERVING))
            assert not waiting.done()
            await line.mend()
            assert (await waiting).id == order.id
        await line.cut()


async def test_nothing_is_incomplete_after_the_database_stops_during_a_burst(system: PayCenterSystem) -> None:
    line = Line(system.database_url)
    await line.mend()
    settings = system.settings.model_copy(update={"database_url": line.url})
    async with (
        open_services(settings, clock=system.clock, wake_up=system.wake_up) as services,
        open_rig(replace(system, services=services), limits=Limits(app_calls=256)) as rig,
    ):
        results: list[str] = []

        async def one(number: int) -> None:
            try:
                await rig.order(merchant_order_id=f"B{number}")
                results.append("done")
            except PayCenterError as error:
                results.append(str(error.reason) or str(error))

        burst = asyncio.gather(*(one(number) for number in range(200)))
        await eventually(lambda: results)
        await line.cut()
        await eventually(lambda: "DATABASE_UNAVAILABLE" in results or burst.done())
        await line.mend()
        await burst
        assert set(results) <= {"done", "DATABASE_UNAVAILABLE"}, set(results)
        assert "done" in results
        # Repeating them all gives one order each: what was stored before the answer was lost is found again.
        await eventually(lambda: _answers(rig))
        results.clear()
        await asyncio.gather(*(one(number) for number in range(200)))
        assert results == ["done"] * 200
        await line.cut()
    assert await system.value("SELECT count(*) FROM pay_order WHERE merchant_order_id LIKE 'B%'") == 200


async def test_a_crash_of_postgresql(system: PayCenterSystem, embedded: Any) -> None:
    async with open_rig(system) as rig:
        order = await rig.order()
        flying = [asyncio.ensure_future(rig.shop.get_order(id=order.id)) for _ in range(20)]
        await eventually(lambda: system.value("SELECT true"))
        # Otherwise the recovery repeats the writes of all tests before this one, for longer than the deadline of the calls.
        await system.rows("CHECKPOINT")
        embedded.servers.restart_postgres()
        for result in await asyncio.gather(*flying, return_exceptions=True):
            if isinstance(result, BaseException):
                assert isinstance(result, PayCenterError)
                assert result.reason == "DATABASE_UNAVAILABLE", repr(result)
        # Connections of before are dead; each is found out and replaced.
        await eventually(lambda: _answers(rig))
        assert (await rig.shop.get_order(id=order.id)).id == order.id


async def _answers(rig: Rig) -> bool:
    try:
        await rig.order()
    except PayCenterError:
        return False
    return True


async def test_a_server_that_starts_without_its_database_is_not_serving(system: PayCenterSystem) -> None:
    line = Line(system.database_url)
    await line.mend()
    settings = system.settings.model_copy(update={"database_url": line.url})
    async with open_services(settings, clock=system.clock) as services:
        await line.cut()
        server = Server(parts_of(services), "127.0.0.1:0", tls=None, with_reflection=False, health_seconds=0.05)
        await server.start()
        stop = asyncio.Event()
        running = asyncio.create_task(server.run(stop))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            health = health_pb2_grpc.HealthStub(channel)
            assert (await health.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
            watch = health.Watch(health_pb2.HealthCheckRequest(service="paycenter.v1.PayOrderService"))
            assert (await watch.read()).status == NOT_SERVING
            await line.mend()
            assert (await watch.read()).status == SERVING
            stop.set()
            assert (await watch.read()).status == NOT_SERVING
            watch.cancel()
            await running
        with pytest.raises(grpc.aio.AioRpcError):
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                await raw_call(channel, "/grpc.reflection.v1.ServerReflection/x")(b"", timeout=0.5)
        await line.cut()


async def test_tls(system: PayCenterSystem, tmp_path: Path) -> None:
    tls, pem = write_pem(tmp_path)
    async with open_rig(system, tls=tls, trusted=pem) as rig:
        order = await rig.order()
        assert (await rig.shop.get_order(id=order.id)).id == order.id
        target = f"localhost:{rig.server.port}"
        _, other = write_pem(tmp_path)
        assert other != pem
        for channel in (
            grpc.aio.insecure_channel(target),
            grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(other)),
            grpc.aio.secure_channel(target, grpc.ssl_channel_credentials()),
        ):
            async with channel:
                with pytest.raises(grpc.aio.AioRpcError) as info:
                    await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2)
                assert info.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_two_servers_do_not_share_a_port(rig: Rig) -> None:
    with pytest.raises(RuntimeError):
        Server(parts_of(rig.system.services), rig.target, tls=None, with_reflection=False)
