"""Measures deliveries: `python tools/bench_notifications.py` starts an embedded PostgreSQL, receivers on loopback and one worker.

It prints the deliveries a second with a backlog of 20,000 and of 200,000 to a receiver that answers at once, and the delay of the
first delivery to a receiver beside 10,000 notifications to one that does not answer. `--backlog N` measures one backlog.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from paycenter_server.bootstrap import Services, open_services
from paycenter_server.domain.addresses import endpoint_of
from paycenter_server.domain.apps import NotificationSuccess, SurplusPolicy
from paycenter_server.local.embedded import Embedded
from paycenter_server.services.apps import NewApp
from paycenter_server.services.identity import Caller
from paycenter_server.settings import Settings

OPERATOR = Caller("bench", None, "")
LAST_AFTER = 20.0  # seconds of one measurement
_FILL = """INSERT INTO pay_notify_task (id, app_id, type, event, data_id, data_version, merchant_order_id, merchant_refund_no,
    notification_url, endpoint, payload, state, notify_times, next_notify_time, schedule_start_time, schedule_start_times,
    create_time, update_time)
  SELECT gen_random_uuid(), $1, 'ORDER', 'pay_order.success', gen_random_uuid(), 1, 'M' || n, '', $2, $3, $4, 'WAITING', 0,
    now() - interval '1 hour' + interval '1 millisecond' * n, now(), 0, now(), now() FROM generate_series(1, $5::int) n"""
_PAYLOAD = '{"type":"pay_order.success","data":{"subject":"' + "x" * 300 + '"}}'


class Receiver(asyncio.Protocol):
    """Answers each request at once with 200, or never."""

    def __init__(self, hangs: bool) -> None:
        self._hangs = hangs
        self._transport: asyncio.Transport | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each complete request."""
        if self._hangs or self._transport is None:
            return
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            if len(self._buffer) < end + 4 + length:
                return
            self._buffer = self._buffer[end + 4 + length :]
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


async def receive() -> None:
    """A process with two receivers. It prints the ports of the quick one and of the one that hangs."""
    loop, ports = asyncio.get_running_loop(), []
    for hangs in (False, True):
        server = await loop.create_server(lambda hangs=hangs: Receiver(hangs), "127.0.0.1", 0, backlog=1024)  # type: ignore[misc]
        ports.append(str(server.sockets[0].getsockname()[1]))
    print(" ".join(ports), flush=True)
    await asyncio.Event().wait()


async def fill(services: Services, app: UUID, url: str, count: int) -> None:
    """Due notifications of an app, and no statistics about them."""
    async with services.context.database.connection() as connection:
        for start in range(0, count, 20_000):
            await connection.execute(_FILL, app, url, endpoint_of(url), _PAYLOAD, min(20_000, count - start))


async def empty(services: Services) -> None:
    """No notifications, as after an installation."""
    async with services.context.database.connection() as connection:
        await connection.execute("TRUNCATE pay_notify_task, pay_notify_log")


async def delivered(services: Services, url: str) -> int:
    """How many of this URL were received."""
    async with services.context.database.connection() as connection:
        return int(
            await connection.fetchval("SELECT count(*) FROM pay_notify_task WHERE state = 'SUCCESS' AND notification_url = $1", url)
        )


async def first_delivery(services: Services, url: str) -> datetime | None:
    """When the first delivery to this URL was recorded."""
    async with services.context.database.connection() as connection:
        found: datetime | None = await connection.fetchval("SELECT min(create_time) FROM pay_notify_log WHERE url = $1", url)
        return found


async def worker(services: Services, seconds: float) -> float:
    """What a worker process does with the notifications, for so long or until nothing is due. Seconds that it took."""
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        await services.delivery.deliver_due()
        try:
            await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(services.delivery.settle())), 0.5)
        except TimeoutError:
            continue
        break
    return time.monotonic() - started


async def rate(services: Services, app: UUID, url: str, backlog: int) -> None:
    """Prints the deliveries a second with a backlog."""
    await empty(services)
    await fill(services, app, url, backlog)
    took = await worker(services, LAST_AFTER)
    done = await delivered(services, url)
    services.delivery.stop()
    await services.delivery.settle()
    print(f"backlog {backlog:>7}: {done / took:.0f} deliveries/s ({done} in {took:.1f} s)", flush=True)


async def beside(services: Services, app: UUID, quick: str, hanging: str, count: int) -> None:
    """Prints the delay of the first delivery beside notifications that hang."""
    await empty(services)
    await fill(services, app, hanging, count)
    running = asyncio.ensure_future(worker(services, LAST_AFTER))
    for number in range(5):
        await asyncio.sleep(2)
        url, now = f"{quick}?{number}", datetime.now(UTC)
        await fill(services, app, url, 1)
        await services.delivery.deliver_due()
        at = None
        for _ in range(2000):
            if (at := await first_delivery(services, url)) is not None:
                break
            await asyncio.sleep(0.005)
        delay = f"{(at - now).total_seconds() * 1000:.0f} ms" if at else "none within 10 s"
        print(f"first delivery beside {count} that hang: {delay}", flush=True)
    services.delivery.stop()
    await running


async def measure(backlogs: list[int], quick: str, hanging: str) -> None:
    """All measurements, each with a worker that has not delivered anything before."""
    from paycenter_server.storage.migrate import ensure

    with Embedded.temporary(want_redis=False) as urls, tempfile.TemporaryDirectory() as folder:
        await asyncio.to_thread(ensure, urls.database_url)
        key = Path(folder) / "master.key"
        key.write_text(base64.b64encode(os.urandom(32)).decode())
        settings = Settings(
            mode="development", database_url=urls.database_url, master_key_file=key,
            order_callback_url="http://127.0.0.1:1", refund_callback_url="http://127.0.0.1:1",
            notification_allowed_networks="127.0.0.0/8",
        )  # fmt: skip
        async with open_services(settings) as services:
            new = NewApp("bench", "Bench", "", quick, quick, SurplusPolicy.HOLD, NotificationSuccess.HTTP_2XX)
            app = (await services.apps.create(OPERATOR, new)).app.id
        for backlog in backlogs:
            async with open_services(settings) as services:
                await rate(services, app, quick, backlog)
        async with open_services(settings) as services:
            await beside(services, app, quick, hanging, 10_000)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backlog", type=int, action="append")
    parser.add_argument("--receive", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.receive:
        asyncio.run(receive())
        return
    receiver = subprocess.Popen([sys.executable, __file__, "--receive"], stdout=subprocess.PIPE, text=True)
    try:
        ports = receiver.stdout.readline().split() if receiver.stdout else []
        quick, hanging = (f"http://127.0.0.1:{port}/notifications" for port in ports)
        asyncio.run(measure(given.backlog or [20_000, 200_000], quick, hanging))
    finally:
        receiver.terminate()


if __name__ == "__main__":
    main()
