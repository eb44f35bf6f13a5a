"""Puts the parts together. The only reader of settings, and the only place that knows every implementation."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property

import structlog

from paycenter_server.channels.registry import installed
from paycenter_server.channels.transport import AiohttpTransport, Transport
from paycenter_server.clock import DatabaseClock
from paycenter_server.services.accounts import Accounts
from paycenter_server.services.accounts_places import AccountPlaces
from paycenter_server.services.approvals import Approvals
from paycenter_server.services.approvals_desk import ApprovalDesk
from paycenter_server.services.apps import Apps
from paycenter_server.services.attempts import AttemptSettlement
from paycenter_server.services.attempts_submission import Submission
from paycenter_server.services.audit import Audit
from paycenter_server.services.callbacks import Callbacks
from paycenter_server.services.cases import Cases
from paycenter_server.services.cases_decisions import CaseDecisions
from paycenter_server.services.cases_desk import CaseDesk
from paycenter_server.services.cashier import Cashier
from paycenter_server.services.channels import Channels
from paycenter_server.services.channels_gateway import ChannelGateway
from paycenter_server.services.channels_probe import ChannelProbe
from paycenter_server.services.context import Clock, Context, NoWakeUp, Options, WakeUp
from paycenter_server.services.credentials import Credentials
from paycenter_server.services.exports import Exports
from paycenter_server.services.health import Health
from paycenter_server.services.identity import Identity
from paycenter_server.services.jobs import Jobs
from paycenter_server.services.notifications import Notifications
from paycenter_server.services.notifications_delivery import NotificationDelivery, NotificationSender
from paycenter_server.services.notifications_trial import NotificationTrial
from paycenter_server.services.operators import Operators
from paycenter_server.services.operators_totp import Totp
from paycenter_server.services.orders import Orders
from paycenter_server.services.overview import Overview
from paycenter_server.services.partitions import Partitions
from paycenter_server.services.passwords import Passwords
from paycenter_server.services.payments import Payments
from paycenter_server.services.payments_direct import DirectPayments
from paycenter_server.services.refunds import Refunds
from paycenter_server.services.refunds_settlement import RefundSettlement
from paycenter_server.services.search import Search
from paycenter_server.services.secrets import SecretBox
from paycenter_server.services.sessions import Sessions
from paycenter_server.services.timeline import Timelines
from paycenter_server.services.views import Views
from paycenter_server.settings import DatabaseSettings, Settings, SettingsError
from paycenter_server.storage.database import Database, read_time
from paycenter_server.workers.notification_sender import AddressGuard, AiohttpNotificationSender, parse_networks

log = structlog.get_logger(__name__)
_CLOCK_SECONDS = 10.0


@dataclass
class Services:
    """Every use case over one context, made when first used."""

    context: Context
    sender: NotificationSender
    addresses: AddressGuard

    @cached_property
    def identity(self) -> Identity:
        """Who calls."""
        return Identity(self.context)

    @cached_property
    def health(self) -> Health:
        """Whether this process can do its work."""
        return Health(self.context)

    @cached_property
    def gateway(self) -> ChannelGateway:
        """ConfiguredChannel channels."""
        return ChannelGateway(self.context, self.account_places)

    @cached_property
    def account_places(self) -> AccountPlaces:
        """The limits of the jobs' channel calls."""
        return AccountPlaces(self.context.options, self.context.clock)

    @cached_property
    def cases(self) -> Cases:
        """Money that needs a decision."""
        return Cases(self.context)

    @cached_property
    def payments(self) -> Payments:
        """Booking."""
        return Payments(self.context, self.cases)

    @cached_property
    def attempts(self) -> AttemptSettlement:
        """Making attempts unpayable."""
        return AttemptSettlement(self.context, self.gateway, self.payments, self.cases)

    @cached_property
    def orders(self) -> Orders:
        """Pay orders."""
        return Orders(self.context, self.identity, self.attempts)

    @cached_property
    def partitions(self) -> Partitions:
        """The monthly partitions of the ledger and of the log of deliveries."""
        return Partitions(self.context)

    @cached_property
    def timelines(self) -> Timelines:
        """Why an order is where it is."""
        return Timelines(self.context, self.orders)

    @cached_property
    def direct(self) -> DirectPayments:
        """Booking of payments in which nothing is odd."""
        return DirectPayments(self.context)

    @cached_property
    def submission(self) -> Submission:
        """Submitting."""
        return Submission(self.context, self.identity, self.orders, self.gateway, self.payments, self.direct, self.attempts)

    @cached_property
    def cashier(self) -> Cashier:
        """The payer's page."""
        return Cashier(self.context, self.identity, self.orders, self.submission)

    @cached_property
    def refund_settlement(self) -> RefundSettlement:
        """Carrying refunds to their end."""
        return RefundSettlement(self.context, self.gateway, self.attempts, self.cases)

    @cached_property
    def refunds(self) -> Refunds:
        """Refunds."""
        return Refunds(self.context, self.identity, self.refund_settlement, self.approvals)

    @cached_property
    def case_desk(self) -> CaseDesk:
        """Reading cases."""
        return CaseDesk(self.context, self.identity, self.timelines)

    @cached_property
    def case_decisions(self) -> CaseDecisions:
        """Deciding cases."""
        return CaseDecisions(self.context, self.case_desk, self.cases, self.attempts, self.refund_settlement)

    @cached_property
    def approvals(self) -> Approvals:
        """Acts that need a second operator."""
        return Approvals(self.context)

    @cached_property
    def approval_desk(self) -> ApprovalDesk:
        """Approving and refusing."""
        return ApprovalDesk(self.context, self.identity, self.approvals, self.refunds, self.accounts, self.channels, self.apps)

    @cached_property
    def callbacks(self) -> Callbacks:
        """The channels' callbacks."""
        return Callbacks(self.context, self.gateway, self.payments, self.direct, self.attempts, self.refund_settlement)

    @cached_property
    def jobs(self) -> Jobs:
        """Sync, expire, refund sync."""
        return Jobs(self.context, self.attempts, self.cases, self.refund_settlement, self.account_places)

    @cached_property
    def delivery(self) -> NotificationDelivery:
        """Deliveries."""
        return NotificationDelivery(self.context, self.sender)

    @cached_property
    def apps(self) -> Apps:
        """Administration of apps."""
        return Apps(self.context, self.identity, self.addresses, self.approvals)

    @cached_property
    def credentials(self) -> Credentials:
        """Credentials of apps and operators."""
        return Credentials(self.context, self.identity)

    @cached_property
    def passwords(self) -> Passwords:
        """Hashing and checking of passwords."""
        return Passwords(self.context)

    @cached_property
    def operators(self) -> Operators:
        """Administration of operators."""
        return Operators(self.context, self.identity, self.passwords)

    @cached_property
    def totp(self) -> Totp:
        """The second factor of a login."""
        return Totp(self.context, self.passwords)

    @cached_property
    def sessions(self) -> Sessions:
        """Logins and sessions of operators."""
        return Sessions(self.context, self.passwords)

    @cached_property
    def audit(self) -> Audit:
        """Administrative acts and refused attempts."""
        return Audit(self.context.database)

    @cached_property
    def channels(self) -> Channels:
        """Administration of channels."""
        return Channels(self.context, self.identity, self.gateway, self.approvals)

    @cached_property
    def accounts(self) -> Accounts:
        """Merchants' accounts."""
        return Accounts(self.context, self.identity, self.gateway, self.approvals)

    @cached_property
    def channel_probe(self) -> ChannelProbe:
        """Trying a channel."""
        return ChannelProbe(self.context, self.identity, self.gateway)

    @cached_property
    def notification_trial(self) -> NotificationTrial:
        """Test notifications."""
        return NotificationTrial(self.context, self.identity, self.sender)

    @cached_property
    def search(self) -> Search:
        """Finding by number."""
        return Search(self.context, self.identity)

    @cached_property
    def exports(self) -> Exports:
        """Whole lists for files."""
        return Exports(self.context, self.identity, self.orders, self.refunds)

    @cached_property
    def views(self) -> Views:
        """Operators' views of lists."""
        return Views(self.context)

    @cached_property
    def overview(self) -> Overview:
        """Figures, and what needs a person."""
        return Overview(self.context, self.identity)

    @cached_property
    def notifications(self) -> Notifications:
        """What apps were told."""
        return Notifications(self.context, self.identity)


def read_settings() -> Settings:
    """From the environment; pydantic's ValidationError names what is missing or wrong."""
    return Settings()


def read_database_settings() -> DatabaseSettings:
    """The same, of the database alone."""
    return DatabaseSettings()


@asynccontextmanager
async def open_database(settings: DatabaseSettings) -> AsyncIterator[Database]:
    """An open database, for commands that need no services. Raises OSError or a driver's error (`storage.problems`)."""
    database = Database(settings.database_url, size=settings.database_pool)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


def open_box(settings: Settings) -> SecretBox:
    """The master keys; SettingsError if the file is missing, can be read by others or holds no key."""
    try:
        mode = os.stat(settings.master_key_file).st_mode
        text = settings.master_key_file.read_text()
    except OSError as error:
        raise SettingsError(f"PAYCENTER_MASTER_KEY_FILE cannot be read: {settings.master_key_file}: {error.strerror}.") from error
    if settings.production and mode & 0o077:
        raise SettingsError(f"PAYCENTER_MASTER_KEY_FILE can be read by others: chmod 600 {settings.master_key_file}")
    try:
        return SecretBox.from_text(text)
    except ValueError as error:
        raise SettingsError(f"PAYCENTER_MASTER_KEY_FILE, {settings.master_key_file}, holds no valid keys: {error}") from error


@asynccontextmanager
async def open_services(
    settings: Settings,
    *,
    wake_up: WakeUp | None = None,
    other_workers: WakeUp | None = None,
    clock: Clock | None = None,
    transport: Transport | None = None,
    lock_wait: float = 0.0,
) -> AsyncIterator[Services]:
    """Services with an open database. Ports may be replaced; what callers left running is waited for at the end. `lock_wait`: see
    `Database`."""
    database_clock = DatabaseClock()
    follows = clock is None
    clock = clock or database_clock
    own_transport = AiohttpTransport() if transport is None else None
    addresses = AddressGuard(parse_networks(settings.notification_allowed_networks))
    sender = AiohttpNotificationSender(addresses, clock)
    database = Database(settings.database_url, size=settings.database_pool, lock_wait=lock_wait)
    context = Context(
        database=database,
        clock=clock,
        wake_up=wake_up or NoWakeUp(),
        other_workers=other_workers or NoWakeUp(),
        registry=installed(),
        transport=transport or own_transport or AiohttpTransport(),
        box=open_box(settings),
        options=Options(
            order_callback_url=settings.order_callback_url,
            refund_callback_url=settings.refund_callback_url,
            production=settings.production,
            cashier_url=settings.cashier_base,
            channel_timeout=settings.channel_timeout,
            account_places=settings.account_places,
            account_calls_per_second=settings.account_calls_per_second,
            account_calls_burst=settings.account_calls_burst,
            account_breaker_failures=settings.account_breaker_failures,
            event_retention_months=settings.event_retention_months,
            notification_log_retention_months=settings.notification_log_retention_months,
        ),
    )
    await database.open()
    following: list[asyncio.Task[None]] = []
    try:
        if follows:
            await set_clock(database_clock, database)
            following.append(asyncio.create_task(_follow(database_clock, database)))
        yield Services(context, sender, addresses)
    finally:
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        await context.drain(settings.channel_timeout + 2)
        await sender.aclose()
        if own_transport is not None:
            await own_transport.aclose()
        await database.close()
        context.close()


async def set_clock(clock: DatabaseClock, database: Database) -> None:
    """Take over the time of the database."""
    async with database.connection() as connection:
        begun = clock.begin()
        clock.set(await read_time(connection), begun)


async def _follow(clock: DatabaseClock, database: Database) -> None:
    """Take over the database's time again and again, because clocks drift. Without a database the time goes on."""
    while True:
        await asyncio.sleep(_CLOCK_SECONDS)
        try:
            await set_clock(clock, database)
        except Exception as error:
            log.debug("clock_not_set", why=f"{type(error).__name__}: {error}")
