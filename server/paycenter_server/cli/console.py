"""`paycenter console`: the management console."""

from __future__ import annotations

import asyncio

import click

from paycenter_server.bootstrap import Services, open_services
from paycenter_server.cli.processes import CALL_LOCK_SECONDS, check_address, schema_watched
from paycenter_server.cli.running import run_until_signalled
from paycenter_server.http_console.parts import Check, Parts
from paycenter_server.settings import Settings, split_address


@click.command()
def console() -> None:
    """Run the management console until SIGTERM or Ctrl-C."""
    run_until_signalled(_console)


async def _console(settings: Settings, stop: asyncio.Event) -> None:
    from paycenter_server.http_console.app import create_app
    from paycenter_server.http_console.app import serve as serve_http
    from paycenter_server.workers.wake_up import RedisWakeUp

    wake_up = RedisWakeUp(settings.redis_url)
    async with open_services(settings, wake_up=wake_up, lock_wait=CALL_LOCK_SECONDS) as services:
        host, port = split_address(settings.console_address)
        check_address("PAYCENTER_CONSOLE_ADDRESS", settings.console_address)
        async with schema_watched(services.context.database, stop):
            await serve_http(create_app(console_parts(services, settings)), host, port, stop)
    await wake_up.aclose()


def console_parts(services: Services, settings: Settings) -> Parts:
    """The use cases of the console, and what the settings say about production."""
    from paycenter.version import VERSION

    context = services.context
    return Parts(
        now=context.now, new_key=lambda: context.new_key(context.now()), version=VERSION, registry=context.registry,
        grpc_address=settings.grpc_address, checks=_checks(settings),
        identity=services.identity, operators=services.operators, totp=services.totp, login_sessions=services.sessions,
        audit=services.audit, orders=services.orders, refunds=services.refunds,
        timelines=services.timelines, notifications=services.notifications,
        notification_trial=services.notification_trial, apps=services.apps, credentials=services.credentials,
        accounts=services.accounts, channels=services.channels, channel_probe=services.channel_probe,
        search=services.search, cashier=services.cashier, exports=services.exports, views=services.views,
        case_desk=services.case_desk, case_decisions=services.case_decisions, approvals=services.approval_desk,
        overview=services.overview, health=services.health,
    )  # fmt: skip


def _checks(settings: Settings) -> list[Check]:
    https = all(url.startswith("https://") for url in (settings.order_callback_url, settings.refund_callback_url))
    tls = settings.tls_certificate_file is not None
    return [
        Check("Production mode", settings.production, "Production mode refuses the mock channel and addresses without https."),
        Check("Callbacks by https", https, "Channels send callbacks to https addresses only."),
        Check("TLS of the API", tls, "Without TLS, here or in a proxy, credentials travel in clear text."),
    ]
