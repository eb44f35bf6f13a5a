"""The app of a run and its rows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from paycenter_server.bootstrap import open_services
from paycenter_server.domain.addresses import endpoint_of
from paycenter_server.domain.apps import NotificationSuccess, SurplusPolicy
from paycenter_server.domain.callers import Caller
from paycenter_server.grpc_server.orders import order_message
from paycenter_server.services.apps import NewApp
from paycenter_server.services.attempts_submission import NewSubmission
from paycenter_server.services.channels import NewChannel
from paycenter_server.services.orders import NewOrder
from paycenter_server.services.refunds import NewRefund
from paycenter_server.settings import Settings
from paycenter_server.storage import orders_insert
from processes import Processes


@dataclass(frozen=True)
class App:
    """An app with the mock channel, and an order of it as the server answers it."""

    id: Any
    key_id: str
    key_secret: str
    order: bytes
    row: dict[str, Any]


def settings_of(made: Processes) -> Settings:
    """The settings of the processes, for services in this one."""
    values: dict[str, Any] = {name.lower(): value for name, value in made.settings.items()}
    values["master_key_file"] = Path(values["master_key_file"])
    return Settings(**values)


async def make_app(made: Processes, url: str, *, paid: bool = False) -> App:
    """Create the app with its mock channel and one order. `paid`: it is paid, and partly refunded."""
    operator = Caller("benchmark", None, "")
    async with open_services(settings_of(made)) as services:
        created = await services.apps.create(
            operator,
            NewApp("shop", "Shop", "", url, url, SurplusPolicy.REFUND, NotificationSuccess.HTTP_2XX),
        )
        await services.channels.create(operator, NewChannel("shop", "mock", 0, "", "mock", {}, enabled=True))
        caller = Caller(created.key_id, created.app.id, "shop")
        new = NewOrder(
            "shop", "sample", "Tea", "Green tea, 100 g", 1990, "CNY", None, "203.0.113.7", "user-1", "https://shop.example/return"
        )
        order = await services.orders.create(caller, new)
        if paid:
            await services.submission.submit(caller, NewSubmission(order.number, "mock", {}, "", "", ""))
            await services.refunds.create(caller, NewRefund("shop", "sample", "sample", 10, "too much tea"))
        async with services.context.database.connection() as connection:
            row = await connection.fetchrow("SELECT * FROM pay_order WHERE id = $1", order.id)
    assert row is not None
    return App(created.app.id, created.key_id, created.key_secret, order_message(order).SerializeToString(), dict(row))


async def make_neighbour(made: Processes) -> str:
    """Create another app without channels. Key id and secret of its credential."""
    url = "http://127.0.0.1:1/"
    async with open_services(settings_of(made)) as services:
        new = NewApp("books", "Books", "", url, url, SurplusPolicy.REFUND, NotificationSuccess.HTTP_2XX)
        created = await services.apps.create(Caller("benchmark", None, ""), new)
    return f"{created.key_id}:{created.key_secret}"


def insert_script(app: App) -> str:
    """A script for pgbench: the statement of CreatePayOrder with the values of an order, and new keys."""
    values: list[str] = []
    for name in orders_insert.GIVEN:
        value = app.row[name]
        if name == "id":
            values.append("(SELECT id FROM k)")
        elif name == "merchant_order_id":
            values.append("'b' || :number::text || '-' || :client_id::text")
        elif value is None:
            values.append("NULL")
        elif isinstance(value, int):
            values.append(str(value))
        else:
            values.append(f"'{value}'")
    values += ["'APP'", "'benchmark'", "NULL::jsonb"]
    statement = re.sub(r"\$(\d+)", lambda found: f"ARRAY[{values[int(found.group(1)) - 1]}]", orders_insert.INSERT)
    statement = statement.replace("WITH ", "WITH k AS MATERIALIZED (SELECT uuidv7() AS id), ", 1)
    return f"\\set number random(1, 9000000000000000)\n{' '.join(statement.split())};\n"


async def fill_notifications(made: Processes, app: App, url: str, count: int) -> None:
    """Make this many notifications due, as payments would."""
    connection = await asyncpg.connect(made.urls.database_url)
    try:
        await connection.execute(
            """INSERT INTO pay_notify_task (id, app_id, type, event, data_id, data_version, merchant_order_id, merchant_refund_no,
                 notification_url, endpoint, payload, state, notify_times, next_notify_time, schedule_start_time,
                 schedule_start_times, create_time, update_time)
               SELECT uuidv7(), $1, 'ORDER', 'pay_order.success', uuidv7(), 1, 'M' || n, '', $2, $3,
                 '{"type":"pay_order.success","data":{"amount":1990}}', 'WAITING', 0, now(), now(), 0, now(), now()
               FROM generate_series(1, $4::int) n""",
            app.id, url, endpoint_of(url), count,
        )  # fmt: skip
    finally:
        await connection.close()


async def look_no_more(made: Processes) -> None:
    """Leave the open attempts to nobody: the workers of later subjects would query them."""
    connection = await asyncpg.connect(made.urls.database_url)
    try:
        await connection.execute("UPDATE pay_attempt SET next_check_time = NULL WHERE next_check_time IS NOT NULL")
    finally:
        await connection.close()


async def make_orders(made: Processes, app: App, count: int) -> list[tuple[str, str]]:
    """Create this many orders. Their numbers, and those of the merchant."""
    from paycenter_server.domain.ids import Prefix, encode

    columns = ", ".join(app.row)
    chosen = ", ".join({"id": "uuidv7()", "merchant_order_id": "'p' || gen_random_uuid()"}.get(name, name) for name in app.row)
    connection = await asyncpg.connect(made.urls.database_url)
    try:
        rows = await connection.fetch(
            f"""INSERT INTO pay_order ({columns}) SELECT {chosen} FROM (SELECT * FROM pay_order WHERE id = $1) sample,
                generate_series(1, $2::int) RETURNING id, merchant_order_id""",
            app.row["id"], count,
        )  # fmt: skip
    finally:
        await connection.close()
    return [(encode(Prefix.ORDER, row["id"]), row["merchant_order_id"]) for row in rows]


async def order_numbers(made: Processes, prefix: str, table: str = "pay_order") -> list[str]:
    """The numbers of the orders whose merchant_order_id begins so. `table`: the one of PayCenter, or that of the ORM."""
    from paycenter_server.domain.ids import Prefix, encode

    connection = await asyncpg.connect(made.urls.database_url)
    try:
        rows = await connection.fetch(f"SELECT id FROM {table} WHERE merchant_order_id LIKE $1 || '%'", prefix)
    finally:
        await connection.close()
    return [row["id"] if isinstance(row["id"], str) else encode(Prefix.ORDER, row["id"]) for row in rows]


async def open_attempts(made: Processes, prefix: str) -> list[str]:
    """The out_trade_no of the attempts of these orders. The jobs of workers leave them alone from now on."""
    from paycenter_server.domain.ids import Prefix, encode

    await look_no_more(made)
    connection = await asyncpg.connect(made.urls.database_url)
    try:
        rows = await connection.fetch(
            "SELECT a.id FROM pay_attempt a JOIN pay_order o ON o.id = a.order_id WHERE o.merchant_order_id LIKE $1 || '%'", prefix
        )
    finally:
        await connection.close()
    return [encode(Prefix.ATTEMPT, row["id"]) for row in rows]
