"""What many tests share: one PostgreSQL and Valkey per test process, migrated once; keys made once."""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from paycenter_server.local import Embedded, LocalServices
from support.system import PayCenterSystem, SystemOn, open_system

settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("default")


@dataclass(frozen=True)
class Running:
    servers: Embedded
    urls: LocalServices


@pytest.fixture(scope="session")
def embedded() -> Iterator[Running]:
    # The tests need no data after a crash of the machine, and most of their time would be waiting for the disk.
    servers = Embedded.temporary(fsync=False)
    urls = servers.start()
    try:
        yield Running(servers, urls)
    finally:
        servers.stop()


# Servers and keys that somebody has made already, for many short runs (`make mutants`).
DATABASE_GIVEN, REDIS_GIVEN, KEYS_GIVEN = "TESTS_DATABASE_URL", "TESTS_REDIS_URL", "TESTS_KEYS_DIR"


@pytest.fixture(scope="session")
def database_url(request: pytest.FixtureRequest) -> str:
    if given := os.environ.get(DATABASE_GIVEN):
        return given
    from paycenter_server.storage.migrate import ensure

    embedded: Running = request.getfixturevalue("embedded")
    ensure(embedded.urls.database_url)
    return embedded.urls.database_url


@pytest.fixture
async def fresh(database_url: str) -> AsyncIterator[str]:
    """An empty database."""
    name = f"migrations_{uuid.uuid4().hex[:12]}"
    admin = await asyncpg.connect(database_url)
    await admin.execute(f"CREATE DATABASE {name}")
    try:
        yield urlsplit(database_url)._replace(path=f"/{name}").geturl()
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


@pytest.fixture(scope="session")
def redis_url(request: pytest.FixtureRequest) -> str:
    if given := os.environ.get(REDIS_GIVEN):
        return given
    embedded: Running = request.getfixturevalue("embedded")
    return embedded.urls.redis_url


@pytest.fixture(scope="session")
def keys_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if given := os.environ.get(KEYS_GIVEN):
        return Path(given)
    from paycenter_server.simulator.keys import generate_keys

    folder = tmp_path_factory.mktemp("keys")
    generate_keys(folder)
    return folder


@pytest.fixture(scope="session")
def other_keys_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The keys of a second merchant."""
    from paycenter_server.simulator.keys import generate_keys

    folder = tmp_path_factory.mktemp("other-keys")
    generate_keys(folder)
    return folder


@pytest.fixture(scope="session")
def master_key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("secrets") / "master.key"
    path.write_text(base64.b64encode(os.urandom(32)).decode())
    path.chmod(0o600)
    return path


@pytest.fixture
async def system(database_url: str, redis_url: str, keys_dir: Path, master_key_file: Path) -> AsyncIterator[PayCenterSystem]:
    async with open_system(database_url, redis_url, keys_dir, master_key_file) as opened:
        yield opened


@pytest.fixture
def system_on(database_url: str, redis_url: str, keys_dir: Path, master_key_file: Path) -> SystemOn:
    """The same on a network of the test's own, which wraps a real one as `inner`, and with other settings if they are given."""

    @asynccontextmanager
    async def opened(network: Any, **more: Any) -> AsyncIterator[PayCenterSystem]:
        async with open_system(database_url, redis_url, keys_dir, master_key_file, transport=network, **more) as system:
            yield system
        await network.inner.aclose()

    return opened
