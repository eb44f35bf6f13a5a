"""One of the processes of test_races. Each line of the input is a round: a JSON list of calls, which are made at the same time. The
answer is a line with the results in their order: a number, a status, or the reason of an error."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from typing import Any

from paycenter_server.bootstrap import Services, open_services, read_settings
from paycenter_server.channels.protocol import CallbackRequest
from paycenter_server.domain.errors import PayCenterError
from paycenter_server.services.identity import Caller
from paycenter_server.services.orders import NewOrder
from paycenter_server.services.refunds import NewRefund
from paycenter_server.storage import apps
from paycenter_server.telemetry import configure_logging


async def call(services: Services, caller: Caller, what: str, arguments: list[Any]) -> str:
    """Make one call."""
    try:
        match what, arguments:
            case "create", [merchant_order_id]:
                order = NewOrder("", merchant_order_id, "race", "", 100, "CNY", None, "203.0.113.9", "", "")
                return (await services.orders.create(caller, order)).number
            case "callback", [channel, headers, body]:
                request = CallbackRequest(headers, base64.b64decode(body), "")
                return str((await services.callbacks.receive(channel, request)).status)
            case "close", [number]:
                return (await services.orders.close(caller, number)).state.value
            case "price", [number, amount]:
                return str((await services.orders.update_price(caller, number, amount)).amount)
            case "refund", [merchant_order_id, merchant_refund_no]:
                new = NewRefund("", merchant_order_id, merchant_refund_no, 30, "race")
                return (await services.refunds.create(caller, new)).number
            case "job", [name]:
                await getattr(services.jobs, name)()
                return "done"
            case "deliver", []:
                await services.delivery.deliver_due()
                await services.delivery.settle()
                return "done"
    except PayCenterError as error:
        return error.reason.value
    raise ValueError(f"no such call: {what}")


async def main() -> None:
    """Until the end of the input."""
    configure_logging("json", "error")
    async with open_services(read_settings()) as services:
        async with services.context.database.connection() as connection:
            app = await apps.get_app(connection, "shop")
        assert app is not None
        caller = Caller("racer", app.id, "shop")
        print("ready", flush=True)
        while line := await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
            calls = [call(services, caller, what, arguments) for what, *arguments in json.loads(line)]
            print(json.dumps(await asyncio.gather(*calls)), flush=True)


asyncio.run(main())
