"""Puts the simulator together as an aiohttp application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from paycenter_server.simulator import actions, alipay_gateway, control, page_forms, pages, wechat_v2, wechat_v3
from paycenter_server.simulator.alipay_notices import AlipayNoticeForm
from paycenter_server.simulator.config import SimulatorConfig
from paycenter_server.simulator.inputs import read_json
from paycenter_server.simulator.keys import load_keys
from paycenter_server.simulator.model import ALIPAY, WECHATPAY_V3, Refund, Trade
from paycenter_server.simulator.state import STATE, Simulator
from paycenter_server.simulator.web_faults import STOPPING
from paycenter_server.simulator.wechat_notices import WechatNoticeForm
from paycenter_server.simulator.wechat_v2_notices import PAYMENT_FORM, V2PaymentForm
from paycenter_server.simulator.wechat_xml import WECHATPAY_V2, XmlNoticeForm

__all__ = ["create_app"]

_LARGEST_BODY = 1 << 20
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def create_app(config: SimulatorConfig) -> web.Application:
    """The application; the keys must exist (generate_keys). FileNotFoundError, InvalidFaultError: a file is missing or wrong."""
    simulator = Simulator.build(config, load_keys(config.keys_dir))
    if config.faults_file is not None:
        simulator.faults.add(read_json(config.faults_file.read_bytes()))

    def refund_finished(trade: Trade, refund: Refund) -> None:
        actions.refund_finished(simulator, trade, refund)

    for protocol in (WECHATPAY_V3, ALIPAY):
        simulator.ledger.on_refund_finished(protocol, refund_finished)
    simulator.notifier.register(WECHATPAY_V3, "wx.notify", WechatNoticeForm(simulator.keys, simulator.rotation))
    simulator.notifier.register(WECHATPAY_V2, "wx.notify/v2 refund", XmlNoticeForm(simulator.keys))
    simulator.notifier.register(PAYMENT_FORM, "wx.notify/v2", V2PaymentForm(simulator.keys))
    simulator.notifier.register(ALIPAY, "alipay.notify", AlipayNoticeForm(simulator.keys, simulator.clock, simulator.rotation))

    app = web.Application(client_max_size=_LARGEST_BODY, middlewares=[_unreadable])
    app[STATE] = simulator
    app[STOPPING] = asyncio.Event()
    wechat_v3.add_routes(app)
    wechat_v2.add_routes(app)
    alipay_gateway.add_routes(app)
    control.add_routes(app)
    pages.add_routes(app)
    page_forms.add_routes(app)
    app.on_shutdown.append(_stop_waiting)
    app.cleanup_ctx.append(_running)
    return app


@web.middleware
async def _unreadable(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A body that is not packed as its headers say is the caller's fault."""
    try:
        return await handler(request)
    except web.RequestPayloadError:
        response = web.Response(status=400, text="the body cannot be read")
        response.force_close()  # nobody knows where the next request begins
        return response


async def _stop_waiting(app: web.Application) -> None:
    app[STOPPING].set()


async def _running(app: web.Application) -> AsyncIterator[None]:
    simulator = app[STATE]
    await simulator.notifier.start()
    simulator.load()
    agenda = asyncio.create_task(simulator.agenda.run())
    yield
    agenda.cancel()
    await asyncio.gather(agenda, return_exceptions=True)
    await simulator.notifier.stop()
    simulator.store.close()
