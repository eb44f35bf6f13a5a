"""The simulator as an aiohttp application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from paycenter_server.simulator import control
from paycenter_server.simulator.alipay import gateway
from paycenter_server.simulator.alipay import notifications as alipay_notifications
from paycenter_server.simulator.http import STOPPING
from paycenter_server.simulator.inputs import read_json
from paycenter_server.simulator.keys import load_keys
from paycenter_server.simulator.pages import forms, views
from paycenter_server.simulator.settings import SimulatorConfig
from paycenter_server.simulator.state import STATE, Simulator
from paycenter_server.simulator.wechatpay import notifications as wechatpay_notifications
from paycenter_server.simulator.wechatpay import v2_routes, v3_routes

__all__ = ["create_app"]

_MAX_BODY_BYTES = 1 << 20
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def create_app(config: SimulatorConfig) -> web.Application:
    """The application. The keys must exist (see generate_keys). FileNotFoundError, ValueError: a file is missing or invalid."""
    simulator = Simulator.build(config, load_keys(config.keys_dir))
    if config.faults_file is not None:
        simulator.faults.add(read_json(config.faults_file.read_bytes()))
    alipay_notifications.register(simulator)
    wechatpay_notifications.register(simulator)

    app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[_unreadable_body])
    app[STATE] = simulator
    app[STOPPING] = asyncio.Event()
    v3_routes.add_routes(app)
    v2_routes.add_routes(app)
    gateway.add_routes(app, views.cashier_page, views.refusal_page)
    control.add_routes(app)
    views.add_routes(app)
    forms.add_routes(app)
    app.on_shutdown.append(_stop_pauses)
    app.cleanup_ctx.append(_run)
    return app


@web.middleware
async def _unreadable_body(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 400 if the body is not encoded as its headers say."""
    try:
        return await handler(request)
    except web.RequestPayloadError:
        response = web.Response(status=400, text="the body cannot be read")
        response.force_close()  # the start of the next request is unknown
        return response


async def _stop_pauses(app: web.Application) -> None:
    app[STOPPING].set()


async def _run(app: web.Application) -> AsyncIterator[None]:
    simulator = app[STATE]
    await simulator.notifier.start()
    simulator.load()
    scheduler = asyncio.create_task(simulator.scheduler.run())
    yield
    scheduler.cancel()
    await asyncio.gather(scheduler, return_exceptions=True)
    await simulator.notifier.stop()
    simulator.store.close()
