"""A whole PayCenter inside a test: real PostgreSQL, the real simulator over loopback, the real sidecar; only ports are doubles."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
from aiohttp import web
from paycenter_server.bootstrap import Services, open_services
from paycenter_server.channels.transport import Transport
from paycenter_server.cli.seed import channel_configs
from paycenter_server.domain.apps import NotificationSuccess, SurplusPolicy
from paycenter_server.domain.events import Cause
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.refunds import PayRefund
from paycenter_server.domain.states import OrderState, RefundState
from paycenter_server.http_callback.app import create_app as create_sidecar
from paycenter_server.http_callback.app import create_runner
from paycenter_server.http_cashier.app import add_cashier
from paycenter_server.services.apps import NewApp
from paycenter_server.services.attempts_submission import NewSubmission
from paycenter_server.services.channels import NewChannel
from paycenter_server.services.identity import Caller
from paycenter_server.services.notifications_delivery import DeliveryResponse
from paycenter_server.services.orders import NewOrder
from paycenter_server.services.refunds import NewRefund
from paycenter_server.settings import Settings
from paycenter_server.simulator.app import create_app
from paycenter_server.simulator.keys import load_keys
from paycenter_server.simulator.settings import SimulatorConfig
from paycenter_server.storage.events import compare_amounts

from support.first_app import first_app, start_simulator
from support.ports import free_port as free_port
from support.waiting import eventually

OPERATOR = Caller("test", None, "")
CAUSE = Cause(OPERATOR.actor)
# In the order of their foreign keys: a row goes before those that it refers to.
MONEY = ("pay_notify_log", "pay_notify_task", "pay_refund", "pay_case", "pay_attempt", "pay_order", "pay_approval")
TABLES = (
    *MONEY, "pay_binding", "pay_channel", "pay_account", "pay_credential", "pay_session", "pay_login_failure",
    "pay_operator_view", "pay_operator", "pay_app",
)  # fmt: skip
# Above so many bytes a table is truncated. That takes 90 ms for all of them, because of their indexes, and a DELETE 3 ms.
_LARGE = 256 * 1024


class FakeClock:
    """Real time plus an offset that tests move."""

    def __init__(self) -> None:
        self.offset = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.offset

    def advance(self, seconds: float) -> None:
        self.offset += timedelta(seconds=seconds)


class CountingWakeUp:
    def __init__(self) -> None:
        self.count = 0

    def send(self) -> None:
        self.count += 1


@dataclass
class SentNotification:
    url: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class RecordingSender:
    """Answers what it is told to; 200 by default."""

    def __init__(self) -> None:
        self.sent: list[SentNotification] = []
        self.answers: list[DeliveryResponse] = []
        self.default = DeliveryResponse(200, "ok")

    async def send(self, url: str, headers: dict[str, str], body: bytes) -> DeliveryResponse:
        self.sent.append(SentNotification(url, headers, body))
        return self.answers.pop(0) if self.answers else self.default

    @property
    def events(self) -> list[str]:
        return [post.json["type"] for post in self.sent]


class Simulator:
    """The simulator's control API."""

    def __init__(self, base: str, session: aiohttp.ClientSession) -> None:
        self.base = base
        self._session = session

    async def post(self, path: str, body: Any = None, expect: int = 200) -> Any:
        async with self._session.post(self.base + path, json=body if body is not None else {}) as response:
            text = await response.text()
            assert response.status == expect, f"{path}: {response.status} {text}"
            return json.loads(text) if text.startswith(("{", "[")) else text

    async def get(self, path: str) -> Any:
        async with self._session.get(self.base + path) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def pay(self, out_trade_no: str, **body: Any) -> Any:
        return await self.post(f"/simulator/pay/{out_trade_no}", body)

    async def fault(self, api: str, fault: str, **more: Any) -> None:
        await self.post("/simulator/faults", [{"api": api, "fault": fault, **more}])

    async def advance(self, seconds: float) -> None:
        await self.post("/simulator/clock", {"advance_seconds": seconds, "wait_seconds": 5})


# A system on a network of the test's own: the fixture `system_on`.
SystemOn = Callable[..., AbstractAsyncContextManager["PayCenterSystem"]]


def listening_socket() -> socket.socket:
    """On a port of its own, held from now on: a port that is looked up and let go may be taken by another test."""
    made = socket.socket()
    made.bind(("127.0.0.1", 0))
    made.listen(128)
    made.setblocking(False)
    return made


@dataclass
class PayCenterSystem:
    services: Services
    clock: FakeClock
    wake_up: CountingWakeUp
    sender: RecordingSender
    simulator: Simulator
    session: aiohttp.ClientSession
    database_url: str
    sidecar: str
    settings: Settings
    configs: dict[str, tuple[str, dict[str, str]]]
    keys_dir: Path
    caller: Caller = OPERATOR
    channels: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    # False in the few tests that change amounts by SQL of their own.
    books_are_checked: bool = True
    _serial: int = 0

    async def check_books(self) -> None:
        """The amounts of every order are the sums of its events."""
        if self.books_are_checked:
            async with self.services.context.database.connection() as connection:
                compared = await compare_amounts(connection, None, 100_000)
            assert not compared.differences

    async def add_app(
        self,
        app_key: str = "shop",
        *,
        policy: SurplusPolicy = SurplusPolicy.REFUND,
        rule: NotificationSuccess = NotificationSuccess.HTTP_2XX,
        codes: tuple[str, ...] = ("wx_native", "alipay_qr", "alipay_pc", "mock"),
        fee_rate_ppm: int = 6000,
    ) -> Caller:
        new = NewApp(
            app_key, "Shop", "", f"http://merchant.test/{app_key}/order", f"http://merchant.test/{app_key}/refund", policy, rule
        )
        created = await self.services.apps.create(OPERATOR, new)
        app, notification_secret, key_id, secret = created.app, created.notification_secret, created.key_id, created.key_secret
        self.secrets[app_key] = notification_secret
        self.secrets[f"{app_key}:authorization"] = "Basic " + base64.b64encode(f"{key_id}:{secret}".encode()).decode()
        for code in codes:
            family, config = self.configs[code]
            channel = NewChannel(app_key, code, fee_rate_ppm, "", family, config, enabled=True)
            view = await self.services.channels.create(OPERATOR, channel)
            self.channels[code if app_key == "shop" else f"{app_key}:{code}"] = view.channel.number
        return Caller(key_id, app.id, app_key)

    async def add_channel(self, code: str, app_key: str = "shop") -> None:
        family, config = self.configs[code]
        view = await self.services.channels.create(OPERATOR, NewChannel(app_key, code, 6000, "", family, config, enabled=True))
        self.channels[code] = view.channel.number

    async def open_in_alipay(self, order_string: str) -> None:
        """What Alipay's app does with the order string that it is handed."""
        async with self.session.post(f"{self.simulator.base}/simulator/alipay/app", data=order_string.encode()) as response:
            assert response.status == 200, await response.text()

    def next_id(self, prefix: str = "M") -> str:
        self._serial += 1
        return f"{prefix}{self._serial:04d}"

    def new_order(self, **changes: Any) -> NewOrder:
        values: dict[str, Any] = {
            "app_key": "",
            "merchant_order_id": self.next_id(),
            "subject": "一杯咖啡",
            "body": "",
            "amount": 100,
            "currency": "CNY",
            "expire_time": self.clock.now() + timedelta(hours=2),
            "user_ip": "203.0.113.9",
            "user_id": "",
            "return_url": "",
            **changes,
        }
        return NewOrder(**values)

    async def order(self, **changes: Any) -> PayOrder:
        return await self.services.orders.create(self.caller, self.new_order(**changes))

    async def submit(self, order: PayOrder, code: str = "wx_native", **extras: str) -> Any:
        new = NewSubmission(order.number, code, extras, "", "", "")
        _, attempt = await self.services.submission.submit(self.caller, new)
        return attempt

    async def read(self, order: PayOrder) -> PayOrder:
        return await self.services.orders.load(self.caller, order.number)

    async def paid(self, code: str = "wx_native", **changes: Any) -> PayOrder:
        """An order that was paid through a channel, by its callback."""
        order = await self.order(**changes)
        if code == "mock":
            await self.submit(order, "mock")
        else:
            attempt = await self.submit(order, code)
            await self.simulator.pay(attempt.out_trade_no)
            await self.until(order, "SUCCESS")
        return await self.read(order)

    async def until(self, order: PayOrder, state: str, seconds: float = 10) -> PayOrder:
        async def there() -> PayOrder | None:
            current = await self.read(order)
            return current if current.state.value == state else None

        found = await eventually(there, seconds)
        assert found is not None
        return found

    async def refund(self, order: PayOrder, amount: int, **changes: Any) -> Any:
        values: dict[str, Any] = {
            "app_key": "",
            "merchant_order_id": order.merchant_order_id,
            "merchant_refund_no": self.next_id("R"),
            "amount": amount,
            "reason": "退货",
            **changes,
        }
        return await self.services.refunds.create(self.caller, NewRefund(**values))

    async def decided(self, refund: PayRefund) -> PayRefund:
        """The refund after it is decided. Until then the channel is queried as for a caller."""

        async def current() -> PayRefund | None:
            asked = await self.services.refunds.sync(self.caller, refund)
            return asked if asked.state is not RefundState.WAITING else None

        found = refund if refund.state is not RefundState.WAITING else await eventually(current)
        assert found is not None
        return found

    async def deliver(self) -> list[SentNotification]:
        """Everything that is due now, delivered and recorded."""
        before = len(self.sender.sent)
        await self.services.delivery.deliver_due()
        await self.services.delivery.settle()
        return self.sender.sent[before:]

    async def rows(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        async with self.services.context.database.connection() as connection:
            return list(await connection.fetch(query, *arguments))

    async def value(self, query: str, *arguments: Any) -> Any:
        async with self.services.context.database.connection() as connection:
            return await connection.fetchval(query, *arguments)

    async def first_case(self, order: PayOrder) -> asyncpg.Record:
        """The first case, as soon as there is one; AssertionError if the order is paid instead."""

        async def decided() -> bool:
            return bool(await self.cases()) or (await self.read(order)).state is OrderState.SUCCESS

        await eventually(decided)
        cases = await self.cases()
        assert cases, "the order is paid, and there is no case"
        return cases[0]

    async def cases(self) -> list[asyncpg.Record]:
        return await self.rows("SELECT * FROM pay_case ORDER BY id")

    async def call_back(self, code: str, body: bytes, headers: dict[str, str], kind: str = "order") -> tuple[int, bytes]:
        url = f"{self.sidecar}/callback/{kind}/{self.channels.get(code, code)}"
        async with self.session.post(url, data=body, headers=headers) as response:
            return response.status, await response.read()


def delete_all(tables: Sequence[str]) -> str:
    """The statements that remove every row of these tables."""
    return ";".join(f"DELETE FROM {table}" for table in tables)


async def clean(database_url: str) -> None:
    """Remove all rows but those of the ledger and the audit, which are append-only."""
    connection = await asyncpg.connect(database_url)
    try:
        if await connection.fetchval("SELECT max(pg_relation_size(t::regclass)) FROM unnest($1::text[]) t", TABLES) > _LARGE:
            await connection.execute(f"TRUNCATE {', '.join(TABLES)} CASCADE")
        else:
            await connection.execute(delete_all(TABLES))
    finally:
        await connection.close()


@asynccontextmanager
async def open_system(
    database_url: str,
    redis_url: str,
    keys_dir: Path,
    master_key_file: Path,
    *,
    transport: Transport | None = None,
    mode: str = "development",
    channel_timeout: float = 5.0,
    **more: Any,
) -> AsyncIterator[PayCenterSystem]:
    await clean(database_url)
    listening = listening_socket()
    sidecar_url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    settings = Settings(
        mode=mode, database_url=database_url, redis_url=redis_url, master_key_file=master_key_file,
        order_callback_url=f"{sidecar_url}/callback/order", refund_callback_url=f"{sidecar_url}/callback/refund",
        channel_timeout=channel_timeout, notification_allowed_networks="127.0.0.0/8", **more,
    )  # fmt: skip
    clock, wake_up, sender = FakeClock(), CountingWakeUp(), RecordingSender()
    simulator = await start_simulator(create_app(SimulatorConfig(keys_dir=keys_dir, refund_delay_seconds=0.05)))
    async with (
        aiohttp.ClientSession() as session,
        open_services(settings, wake_up=wake_up, clock=clock, transport=transport) as services,
    ):
        services.sender = sender
        application = create_sidecar(services.callbacks, services.health)
        add_cashier(application, services.cashier)
        sidecar = create_runner(application)
        await sidecar.setup()
        await web.SockSite(sidecar, listening).start()
        base = str(simulator.make_url("")).rstrip("/")
        configs = channel_configs(load_keys(keys_dir), base)
        system = PayCenterSystem(
            services,
            clock,
            wake_up,
            sender,
            Simulator(base, session),
            session,
            database_url,
            sidecar_url,
            settings,
            configs,
            keys_dir,
        )
        system.caller = await first_app(system, (str(keys_dir), str(master_key_file), base))
        try:
            yield system
            await system.check_books()
        finally:
            await simulator.close()
            await sidecar.cleanup()
