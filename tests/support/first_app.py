"""The app with its channels that every system begins with, and the simulator that they are connected to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg
from aiohttp import web
from aiohttp.test_utils import TestServer
from paycenter_server.services.identity import Caller

if TYPE_CHECKING:
    from support.system import PayCenterSystem


class _Simulators:
    """The port of this process's simulators, one after the other: accounts have its address in their configuration."""

    port: int | None = None


async def start_simulator(app: web.Application) -> TestServer:
    """A simulator on the port of the last one, or on another if that is taken."""
    for port in (_Simulators.port, None):
        server = TestServer(app, port=port)
        try:
            await server.start_server()
        except OSError:
            continue
        _Simulators.port = server.port
        return server
    raise AssertionError("no port is free")


# A new app with its channels needs some 40 statements, so the rows of the first one are inserted again for the next systems.
_APP_TABLES = ("pay_app", "pay_credential", "pay_account", "pay_channel", "pay_binding")
_RESTORE = (
    "WITH "
    + ", ".join(
        f"i{number} AS (INSERT INTO {table} SELECT * FROM json_populate_recordset(NULL::{table}, $1::json -> '{table}'))"
        for number, table in enumerate(_APP_TABLES)
    )
    + " SELECT 1"
)
_SAVE = "SELECT json_build_object({})::text".format(
    ", ".join(f"'{table}', (SELECT json_agg(t) FROM {table} t)" for table in _APP_TABLES)
)


@dataclass(frozen=True)
class _FirstApp:
    """The rows of an app with its channels, and what a system knows of it."""

    rows: str
    caller: Caller
    secrets: dict[str, str]
    channels: dict[str, str]


_first_apps: dict[tuple[str, ...], _FirstApp] = {}


async def first_app(system: PayCenterSystem, key: tuple[str, ...]) -> Caller:
    """The app `shop` with its channels. `key`: what its rows depend on."""
    known = _first_apps.get(key)
    connection = await asyncpg.connect(system.database_url)
    try:
        if known is None:
            caller = await system.add_app()
            rows = await connection.fetchval(_SAVE)
            known = _first_apps[key] = _FirstApp(rows, caller, dict(system.secrets), dict(system.channels))
        else:
            await connection.execute(_RESTORE, known.rows)
            system.secrets.update(known.secrets)
            system.channels.update(known.channels)
    finally:
        await connection.close()
    return known.caller
