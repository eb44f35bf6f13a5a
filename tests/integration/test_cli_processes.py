"""`serve`, `callback` and `worker` as processes: they wait for the schema, and listen on IPv6."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from paycenter_server.settings import split_address
from paycenter_server.storage import migrate
from support.system import free_port
from support.waiting import eventually

REPEAT_SECONDS = 5


@pytest.fixture
async def empty_database(embedded: Any) -> AsyncIterator[str]:
    name = f"processes_{uuid.uuid4().hex[:12]}"
    admin = await asyncpg.connect(embedded.urls.database_url)
    await admin.execute(f"CREATE DATABASE {name}")
    try:
        yield urlsplit(embedded.urls.database_url)._replace(path=f"/{name}").geturl()
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


@asynccontextmanager
async def process(command: str, environment: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "paycenter_server.cli", command, env=environment, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield started
        started.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(started.wait(), 20) == 0
    finally:
        if started.returncode is None:
            started.kill()
            await started.wait()


async def lines_until(started: asyncio.subprocess.Process, event: str, count: int) -> list[dict[str, Any]]:
    """Lines of the log up to the one of the event that is number `count`."""
    found: list[dict[str, Any]] = []
    assert started.stderr is not None
    async with asyncio.timeout(40):
        while sum(line["event"] == event for line in found) < count:
            raw = await started.stderr.readline()
            assert raw, f"the process ended; its log: {found}"
            if raw.startswith(b"{"):
                found.append(json.loads(raw))
    return found


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


async def test_seed_creates_what_is_missing(empty_database: str, redis_url: str, master_key_file: Path, tmp_path: Path) -> None:
    """Also what dev.json names and the database does not hold: the credentials of another database."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PAYCENTER_")},
        "PAYCENTER_DATABASE_URL": empty_database,
        "PAYCENTER_REDIS_URL": redis_url,
        "PAYCENTER_MASTER_KEY_FILE": str(master_key_file),
        "PAYCENTER_MODE": "development",
        "PAYCENTER_ORDER_CALLBACK_URL": "http://127.0.0.1/o",
        "PAYCENTER_REFUND_CALLBACK_URL": "http://127.0.0.1/r",
    }
    file = tmp_path / "dev.json"

    async def seed() -> dict[str, Any]:
        words = (
            "seed",
            "--data-dir",
            str(tmp_path),
            "--simulator-url",
            "http://127.0.0.1:1",
            "--shop-url",
            "http://127.0.0.1:2",
        )
        started = await asyncio.create_subprocess_exec(sys.executable, "-m", "paycenter_server.cli", *words, env=environment)
        assert await asyncio.wait_for(started.wait(), 60) == 0
        made: dict[str, Any] = json.loads(file.read_text())
        return made

    first = await seed()
    assert await seed() == first
    connection = await asyncpg.connect(empty_database)
    try:
        await connection.execute(
            "DELETE FROM pay_credential; DELETE FROM pay_binding WHERE channel_id = "
            "(SELECT id FROM pay_channel WHERE code = 'wx_bar'); DELETE FROM pay_channel WHERE code = 'wx_bar'"
        )
        second = await seed()
        assert set(second["channels"]) == set(first["channels"])
        known = {row["key_id"] for row in await connection.fetch("SELECT key_id FROM pay_credential WHERE enabled")}
        assert known == {second["app"]["key_id"], second["operator"]["key_id"]}
        file.unlink()
        third = await seed()
        assert third["channels"] == second["channels"]
        assert third["app"]["notification_secret"] != second["app"]["notification_secret"]
    finally:
        await connection.close()


async def test_processes_wait_for_the_schema(empty_database: str, redis_url: str, master_key_file: Path) -> None:
    host = "[::1]" if has_ipv6() else "127.0.0.1"
    grpc_address, callback_address = f"{host}:{free_port()}", f"{host}:{free_port()}"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PAYCENTER_")},
        "PAYCENTER_DATABASE_URL": empty_database,
        "PAYCENTER_REDIS_URL": redis_url,
        "PAYCENTER_MASTER_KEY_FILE": str(master_key_file),
        "PAYCENTER_MODE": "development",
        "PAYCENTER_GRPC_ADDRESS": grpc_address,
        "PAYCENTER_CALLBACK_ADDRESS": callback_address,
        "PAYCENTER_ORDER_CALLBACK_URL": "http://127.0.0.1/o",
        "PAYCENTER_REFUND_CALLBACK_URL": "http://127.0.0.1/r",
    }
    async with AsyncExitStack() as stack:
        commands = ("serve", "callback", "worker")
        started = {command: await stack.enter_async_context(process(command, environment)) for command in commands}
        logs = await asyncio.gather(*(lines_until(one, "schema_not_ready", 2) for one in started.values()))
        for log in logs:
            waiting = [line for line in log if line["event"] == "schema_not_ready"]
            assert [(line["found"], line["wanted"]) for line in waiting] == [("nothing", migrate.head())] * 2
            assert "paycenter migrate" in waiting[0]["action"]
            first, second = (datetime.fromisoformat(line["timestamp"]) for line in waiting)
            assert REPEAT_SECONDS - 0.5 < (second - first).total_seconds() < REPEAT_SECONDS + 3
        async with aiohttp.ClientSession() as session, grpc.aio.insecure_channel(grpc_address) as channel:

            async def ready() -> tuple[int, int]:
                async with session.get(f"http://{callback_address}/readyz") as answer:
                    health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
                    return answer.status, health.status

            # They listen, and say that they cannot work yet.
            assert await ready() == (503, health_pb2.HealthCheckResponse.NOT_SERVING)
            await asyncio.to_thread(migrate.ensure, empty_database)
            await lines_until(started["worker"], "workers_running", 1)

            async def serving() -> bool:
                return await ready() == (200, health_pb2.HealthCheckResponse.SERVING)

            await eventually(serving, 20)


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:50051", ("127.0.0.1", 50051)),
        ("[::1]:50051", ("::1", 50051)),
        ("[::]:0", ("::", 0)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_addresses(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize(
    "address", ["", "127.0.0.1", ":50051", "::1", "::1:50051", "[::1]", "[]:1", "h:", "h:65536", "h:٣", "[h:1"]
)
def test_addresses_that_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        split_address(address)
