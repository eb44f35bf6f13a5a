"""Bringing a database to the schema of this version."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import asyncpg

from paycenter_server.distribution import migrations_folder
from paycenter_server.storage.database import Connection


def _revisions() -> dict[str, str]:
    """Every revision of this version with the one before it ("" for the first), read without importing Alembic, which is slow."""
    revisions: dict[str, str] = {}
    for path in (migrations_folder() / "versions").glob("*.py"):
        text = path.read_text()
        own = re.search(r"^revision = ['\"](\w+)['\"]", text, re.MULTILINE)
        down = re.search(r"^down_revision = ['\"](\w+)['\"]", text, re.MULTILINE)
        if own:
            revisions[own.group(1)] = down.group(1) if down else ""
    return revisions


def head() -> str:
    """The newest revision of this version."""
    revisions = _revisions()
    heads = set(revisions) - set(revisions.values())
    if len(heads) != 1:
        raise RuntimeError(f"the migrations have {len(heads)} heads; merge them")
    return heads.pop()


class SchemaVersion:
    """The revision that this version needs, compared with others. Reads the migrations once."""

    def __init__(self) -> None:
        self.head = head()
        self._known = frozenset(_revisions())

    def is_older(self, revision: str | None) -> bool:
        """Whether a database at this revision lacks a migration. A higher number that is not known is of a newer version."""
        return revision is None or (revision != self.head and (revision in self._known or revision < self.head))


async def revision_of(connection: Connection) -> str | None:
    """The database's revision; None if it was never migrated."""
    if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
        return None
    revision = await connection.fetchval("SELECT version_num FROM alembic_version")
    return str(revision) if revision else None


async def connect(database_url: str, **more: Any) -> Any:
    """A connection to the database, by the URL as the services take it."""
    return await asyncpg.connect(database_url.replace("postgresql+asyncpg://", "postgresql://"), timeout=5, **more)


async def current(database_url: str) -> str | None:
    """`revision_of` a database that nobody is connected to yet."""
    connection = await connect(database_url)
    try:
        return await revision_of(connection)
    finally:
        await connection.close()


def upgrade(database_url: str, revision: str = "head") -> None:
    """Run the migrations that are missing. Not inside an event loop."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    config.set_main_option("path_separator", "os")
    config.attributes["url"] = database_url
    command.upgrade(config, revision)


def ensure(database_url: str) -> bool:
    """Upgrade if the database is not at the head; whether anything was done. Not inside an event loop."""
    if asyncio.run(current(database_url)) == head():
        return False
    upgrade(database_url)
    return True
