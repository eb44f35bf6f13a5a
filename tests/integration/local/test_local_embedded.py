"""The embedded servers: start, stop, crash, leftovers, refusals."""

import asyncio
import os
import signal
import socket
import stat
import threading
import time
from pathlib import Path

import asyncpg
import pytest
import redis
from paycenter_server.local import Embedded, LocalError, postgres
from paycenter_server.local.process import pid_alive, spawn, stop
from support.local_fakes import wait_until


def sql(url: str, statement: str) -> list[asyncpg.Record]:
    async def run() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            return list(await connection.fetch(statement))
        finally:
            await connection.close()

    return asyncio.run(run())


def test_cold_and_warm_start(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = []
    for round_ in range(3):
        began = time.perf_counter()
        embedded = Embedded(data_dir)
        services = embedded.start()
        times.append(time.perf_counter() - began)
        try:
            if round_ == 0:
                sql(services.database_url, "CREATE TABLE kept AS SELECT 1 AS n")
                row = sql(
                    services.database_url,
                    "SELECT current_setting('fsync') AS fsync, current_setting('listen_addresses') AS listen, "
                    "datcollate, pg_encoding_to_char(encoding) AS encoding FROM pg_database WHERE datname = 'paycenter'",
                )[0]
                assert (row["fsync"], row["listen"], row["encoding"]) == ("on", "127.0.0.1", "UTF8")
            assert sql(services.database_url, "SELECT n FROM kept")[0]["n"] == 1
            assert redis.Redis.from_url(services.redis_url).ping()
            assert services.database_url.endswith("/paycenter")
        finally:
            embedded.stop()
        assert embedded.postgres_pid is None and embedded.redis_pid is None
    with capsys.disabled():
        print(f"\n  embedded start: cold {times[0]:.2f} s, warm {times[1]:.2f} s, {times[2]:.2f} s")


def test_secrets_and_data_are_closed(data_dir: Path) -> None:
    with Embedded(data_dir, want_redis=False) as services:
        assert services.redis_url == ""
    for name in ("secrets", "logs", "postgres", "postgres/data"):
        assert stat.S_IMODE((data_dir / name).stat().st_mode) == 0o700, name
    assert stat.S_IMODE((data_dir / "secrets" / "postgres.password").stat().st_mode) == 0o600
    assert stat.S_IMODE(data_dir.stat().st_mode) == (0o711 if os.geteuid() == 0 else 0o700)
    password = (data_dir / "secrets" / "postgres.password").read_text()
    assert password not in (data_dir / "logs" / "postgres.log").read_text()


def test_wrong_password_is_refused(data_dir: Path) -> None:
    with Embedded(data_dir) as services:
        with pytest.raises(asyncpg.InvalidPasswordError):
            sql(services.database_url.replace("paycenter:", "paycenter:x"), "SELECT 1")
        with pytest.raises(redis.exceptions.AuthenticationError):
            redis.Redis.from_url("redis://" + services.redis_url.split("@")[1]).ping()


def test_a_committed_row_survives_sigkill_and_the_port_stays(data_dir: Path) -> None:
    embedded = Embedded(data_dir)
    services = embedded.start()
    try:
        sql(services.database_url, "CREATE TABLE t AS SELECT 42 AS n")
        first = embedded.postgres_pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        assert wait_until(lambda: embedded.postgres_pid is None)
        embedded.restart_postgres()
        assert embedded.postgres_pid not in (None, first)
        assert sql(services.database_url, "SELECT n FROM t")[0]["n"] == 42
        embedded.restart_postgres(immediate=True)
        embedded.restart_postgres(immediate=False)
        assert sql(services.database_url, "SELECT n FROM t")[0]["n"] == 42
    finally:
        embedded.stop()


def test_redis_stops_and_starts_again_empty(data_dir: Path) -> None:
    embedded = Embedded(data_dir)
    services = embedded.start()
    try:
        redis.Redis.from_url(services.redis_url).set("k", "v")
        embedded.stop_redis()
        assert embedded.redis_pid is None
        with pytest.raises(redis.exceptions.ConnectionError):
            redis.Redis.from_url(services.redis_url).ping()
        embedded.start_redis()
        assert redis.Redis.from_url(services.redis_url).get("k") is None
    finally:
        embedded.stop()


def test_a_second_owner_is_refused_with_the_pid(data_dir: Path) -> None:
    with Embedded(data_dir), pytest.raises(LocalError, match=rf"in use by process {os.getpid()}\b"):
        Embedded(data_dir).start()
    with Embedded(data_dir, want_redis=False):
        pass


def test_a_stale_pid_file_of_a_reused_number_does_not_matter(data_dir: Path) -> None:
    embedded = Embedded(data_dir, want_redis=False)
    services = embedded.start()
    assert embedded.place is not None
    cluster, user = embedded.place.cluster, embedded.place.user
    sql(services.database_url, "CREATE TABLE t AS SELECT 1 AS n")
    embedded.stop()
    other = spawn(["/bin/sleep", "60"], env={}, output=-3, user=user)
    try:
        pid_file = cluster / "postmaster.pid"
        pid_file.write_text(f"{other.pid}\n{cluster}\n1\n5432\n\n127.0.0.1\n\nready\n")
        with Embedded(data_dir, want_redis=False) as services:
            assert sql(services.database_url, "SELECT n FROM t")[0]["n"] == 1
        assert pid_alive(other.pid)
    finally:
        stop(other, ())


def test_an_interrupted_initdb_is_not_a_cluster(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(*args: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(postgres, "wait_exit", cut_off)
    with pytest.raises(KeyboardInterrupt):
        Embedded(data_dir).start()
    monkeypatch.undo()
    assert not (data_dir / "postgres" / "data").exists()
    with Embedded(data_dir) as services:
        assert sql(services.database_url, "SELECT 1 AS n")[0]["n"] == 1
    assert not list((data_dir / "postgres").glob("cluster-*"))


def test_a_taken_port_is_left_alone(data_dir: Path) -> None:
    with Embedded(data_dir, want_redis=False) as services:
        port = int(services.database_url.rsplit(":", 1)[1].split("/")[0])
    with socket.create_server(("127.0.0.1", port)), Embedded(data_dir, want_redis=False) as services:
        assert f":{port}/" not in services.database_url
        assert sql(services.database_url, "SELECT 1 AS n")[0]["n"] == 1


def test_given_servers_are_not_started(data_dir: Path) -> None:
    embedded = Embedded(data_dir, database_url="postgresql://db/x", redis_url="redis://r/0")
    services = embedded.start()
    try:
        assert (services.database_url, services.redis_url) == ("postgresql://db/x", "redis://r/0")
        assert embedded.postgres_pid is None and embedded.redis_pid is None
    finally:
        embedded.stop()


def test_production_is_refused(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYCENTER_MODE", "production")
    with pytest.raises(LocalError, match="refused with PAYCENTER_MODE=production"):
        Embedded(data_dir).start()


def test_another_thread_is_refused(data_dir: Path) -> None:
    caught: list[BaseException] = []

    def start() -> None:
        try:
            Embedded(data_dir).start()
        except LocalError as error:
            caught.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])


def test_a_failing_server_shows_its_log(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(postgres._SETTINGS, "max_connections", "banana")
    with pytest.raises(LocalError, match="banana"):
        Embedded(data_dir).start()


def test_temporary_servers_leave_nothing() -> None:
    embedded = Embedded.temporary(want_redis=False)
    services = embedded.start()
    assert sql(services.database_url, "SELECT 1 AS n")[0]["n"] == 1
    assert embedded.place is not None and embedded.place.base.is_dir()
    embedded.stop()
    assert not embedded.place.base.exists()


def test_two_folders_at_once(data_dir: Path) -> None:
    data_dir.chmod(0o711)
    with Embedded(data_dir / "a", want_redis=False) as one, Embedded(data_dir / "b", want_redis=False) as two:
        sql(one.database_url, "CREATE TABLE only_here ()")
        assert not sql(two.database_url, "SELECT 1 FROM pg_class WHERE relname = 'only_here'")
