"""One of the processes of test_refund_race: `refund_racer.py NUMBER EACH MERCHANT_ORDER_ID…`; counts its successful refunds."""

from __future__ import annotations

import asyncio
import json
import sys

from paycenter_server.bootstrap import open_services, read_settings
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.services.identity import Caller
from paycenter_server.services.refunds import NewRefund
from paycenter_server.storage import apps
from paycenter_server.telemetry import configure_logging


async def main(number: str, each: int, orders: list[str]) -> None:
    configure_logging("json", "error")
    async with open_services(read_settings()) as services:
        async with services.context.database.connection() as connection:
            app = await apps.get_app(connection, "shop")
        assert app is not None
        caller = Caller("racer", app.id, "shop")
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        counts = []
        for order in orders:
            calls = (
                services.refunds.create(caller, NewRefund("", order, f"{order}-{number}-{index}", 30, "race"))
                for index in range(each)
            )
            results = await asyncio.gather(*calls, return_exceptions=True)
            for item in results:
                if isinstance(item, BaseException) and not (
                    isinstance(item, PayCenterError) and item.reason is Reason.REFUND_EXCEEDS_PAID
                ):
                    raise item
            counts.append(sum(1 for item in results if not isinstance(item, BaseException)))
        print(json.dumps(counts), flush=True)


asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
