"""Health and readiness tell whether calls would succeed: writes, schema, master keys; within two seconds, and cheaply."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from paycenter_server.bootstrap import open_services
from paycenter_server.services.health import Health
from paycenter_server.storage.migrate import SchemaVersion, head
from support.grpc_rig import Rig, fails, open_rig
from support.system import PayCenterSystem
from support.waiting import eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def rig(system: PayCenterSystem) -> AsyncIterator[Rig]:
    async with open_rig(system) as opened:
        yield opened


async def grpc_status(rig: Rig, service: str = "") -> int:
    async with rig.bare() as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=3)
        return int(answer.status)


async def readyz(system: PayCenterSystem, path: str = "/readyz") -> tuple[int, str]:
    async with system.session.get(system.sidecar + path) as response:
        return response.status, await response.text()


async def until_not_ready(rig: Rig) -> str:
    """What readyz says, once gRPC and the sidecar both are not ready. Liveness stays."""

    async def both() -> str:
        status, text = await readyz(rig.system)
        return text if status == 503 and await grpc_status(rig) == NOT_SERVING else ""

    text = str(await eventually(both))
    assert await grpc_status(rig, "paycenter.v1.PayOrderService") == NOT_SERVING
    assert await grpc_status(rig, "liveness") == SERVING
    assert await readyz(rig.system, "/healthz") == (200, "ok")
    return text


async def until_ready(rig: Rig) -> None:
    async def both() -> bool:
        return (await readyz(rig.system))[0] == 200 and await grpc_status(rig) == SERVING

    await eventually(both)
    assert await readyz(rig.system) == (200, "ok")


@asynccontextmanager
async def server_setting(system: PayCenterSystem, name: str, value: str) -> AsyncIterator[None]:
    """A setting of the whole PostgreSQL server, for open connections too."""
    connection = await asyncpg.connect(system.database_url, server_settings={"default_transaction_read_only": "off"})
    try:
        await connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        await connection.execute("SELECT pg_reload_conf()")
        yield
    finally:
        await connection.execute(f"ALTER SYSTEM RESET {name}")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()


async def test_a_read_only_database(rig: Rig) -> None:
    order = await rig.order()
    async with server_setting(rig.system, "default_transaction_read_only", "on"):
        assert await until_not_ready(rig) == "The database accepts no writes."
        async with fails("DATABASE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE):
            await rig.order()
        assert (await rig.shop.get_order(id=order.id)).id == order.id
    await until_ready(rig)


async def test_no_space_for_a_page(rig: Rig) -> None:
    """A full disk has no room for new pages. `temp_file_limit` refuses them in its place, with an error of the same class."""
    async with server_setting(rig.system, "temp_file_limit", "128kB"):
        assert await until_not_ready(rig) == "The database accepts no writes."
    await until_ready(rig)


async def test_no_space_at_the_write(rig: Rig) -> None:
    await rig.system.rows(
        'CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE \'could not extend file "base/1/2": '
        "No space left on device' USING ERRCODE = '53100'; END$$"
    )
    try:
        await rig.system.rows("CREATE CONSTRAINT TRIGGER t AFTER INSERT OR UPDATE ON pay_health DEFERRABLE INITIALLY DEFERRED "
                              "FOR EACH ROW EXECUTE FUNCTION no_space()")  # fmt: skip
        # The trigger acts at the commit.
        assert await until_not_ready(rig) == "The database accepts no writes."
        await rig.system.rows("DROP TRIGGER t ON pay_health")
        await rig.system.rows("CREATE TRIGGER t BEFORE INSERT ON pay_order FOR EACH ROW EXECUTE FUNCTION no_space()")
        async with fails("DATABASE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE) as caught:
            await rig.order()
        assert "accepts no writes" in caught[0].message
        assert "base/1/2" not in f"{caught[0]}{caught[0].metadata}"
    finally:
        await rig.system.rows("DROP FUNCTION no_space CASCADE")
    await until_ready(rig)


async def set_revision(system: PayCenterSystem, revision: str | None) -> None:
    await system.rows("DELETE FROM alembic_version")
    if revision:
        await system.rows("INSERT INTO alembic_version VALUES ($1)", revision)


@pytest.mark.parametrize("revision", ["0000", None])
async def test_the_schema_of_an_older_version(rig: Rig, revision: str | None) -> None:
    try:
        await set_revision(rig.system, revision)
        assert await until_not_ready(rig) == (
            f"The database schema is at {revision or 'no revision'} and this version needs {head()}; run `paycenter migrate`."
        )
    finally:
        await set_revision(rig.system, head())
    await until_ready(rig)


async def test_the_schema_of_a_newer_version_is_a_warning(system: PayCenterSystem, capsys: pytest.CaptureFixture[str]) -> None:
    health = Health(system.services.context, fresh=0)
    try:
        await set_revision(system, "9999")
        for _ in range(3):
            assert (await health.check()).ready
        assert capsys.readouterr().out.count("schema_is_newer") == 1
    finally:
        await set_revision(system, head())


async def test_a_table_that_is_missing_is_no_internal_error(rig: Rig) -> None:
    await rig.system.rows("ALTER TABLE pay_order RENAME TO pay_order_away")
    try:
        async with fails("DATABASE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE) as caught:
            await rig.order()
        assert "has not the schema of this version" in caught[0].message
    finally:
        await rig.system.rows("ALTER TABLE pay_order_away RENAME TO pay_order")


def test_which_revisions_are_older() -> None:
    schema = SchemaVersion()
    assert [schema.is_older(revision) for revision in (None, "0000", head(), "9999")] == [True, True, False, False]


async def test_a_master_key_that_is_missing(system: PayCenterSystem, tmp_path: Path, master_key_file: Path) -> None:
    """The keys of apps (also of the secret before the last rotation) and of channels."""
    other = tmp_path / "other.key"
    other.write_text(base64.b64encode(os.urandom(32)).decode())
    other.chmod(0o600)
    sealed = next(iter(system.services.context.box.key_ids))
    settings = system.settings.model_copy(update={"master_key_file": other})
    async with open_services(settings) as services:
        assert (await services.health.check()).text == (
            f"Stored secrets are sealed with the master key {sealed}, which PAYCENTER_MASTER_KEY_FILE does not hold."
        )
        own = services.context.box.seal("secret", "anywhere")
        changes = (
            "UPDATE pay_app SET notification_secret = $1",
            "UPDATE pay_app SET notification_secrets_previous = '[]'",
            # The keys of accounts, their earlier keys, and the values of a way to pay.
            "UPDATE pay_account SET earlier_keys = jsonb_build_array(jsonb_build_object('until', now()::text, 'config', config)), "
            "config = '{}'",
            "UPDATE pay_binding SET config = (SELECT earlier_keys -> 0 -> 'config' FROM pay_account WHERE family = 'wechatpay')",
            "UPDATE pay_account SET earlier_keys = '[]'",
            "UPDATE pay_binding SET config = '{}'",
        )
        # Each place alone keeps the process from being ready.
        for statement in changes:
            assert not (await Health(services.context).check()).ready
            await system.rows(statement, *([own] if "$1" in statement else []))
        assert (await Health(services.context).check()).ready

        async def ready() -> bool:
            return (await services.health.check()).ready

        # While a key is missing every check looks again.
        await eventually(ready)
        previous = [{"sealed": "v1:0badbeef:AAAA", "until": "2030-01-01T00:00:00+00:00"}]
        await system.rows("UPDATE pay_app SET notification_secrets_previous = $1", previous)
        assert "0badbeef" in (await Health(services.context).check()).text


async def test_a_check_ends_within_two_seconds(rig: Rig) -> None:
    connection = await asyncpg.connect(rig.system.database_url)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE pay_health IN ACCESS EXCLUSIVE MODE")
            health = Health(rig.system.services.context)
            started = asyncio.get_running_loop().time()
            reports = await asyncio.gather(*(health.check() for _ in range(20)))
            assert asyncio.get_running_loop().time() - started < 2.5
            assert {report.text for report in reports} == {"The database did not finish a small write within 2 seconds."}
            await until_not_ready(rig)
    finally:
        await connection.close()
    await until_ready(rig)


async def test_a_check_that_starts_while_another_ends(system: PayCenterSystem) -> None:
    """The probe ends for several callers at once, and the first of them may start the next probe before the others continue."""
    health = Health(system.services.context, fresh=0)

    async def twice() -> list[bool]:
        return [(await health.check()).ready, (await health.check()).ready]

    results = await asyncio.gather(*(twice() for _ in range(3)), return_exceptions=True)
    assert results == [[True, True]] * 3


async def test_probes_are_cheap_and_leave_one_row(system: PayCenterSystem) -> None:
    probes: list[Any] = [Health(system.services.context, fresh=0) for _ in range(4)]
    for _ in range(100):
        for report in await asyncio.gather(*(probe.check() for probe in probes)):
            assert report.ready
    assert await system.value("SELECT count(*) FROM pay_health") == 1
    assert await system.value("SELECT pg_relation_size('pay_health')") <= 5 * 8192
    # Heap-only updates: the index has one entry, and needs no second page for more.
    assert await system.value("SELECT pg_relation_size('pay_health_pkey')") == 2 * 8192
    # A caller that asks again and again costs no more than two checks a second.
    health = system.services.health
    await health.check()
    before = await system.value("SELECT probe_time FROM pay_health")
    await asyncio.gather(*(health.check() for _ in range(100)))
    assert await system.value("SELECT probe_time FROM pay_health") == before
