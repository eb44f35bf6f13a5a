"""The subject `first notification`: how long after its commit the notification of a payment arrives, on an idle system."""

from __future__ import annotations

import asyncio
import random
import statistics
import time

import grpc
from aiohttp import web
from paycenter.v1 import pay_order_service_pb2 as orders
from paycenter.v1 import pay_order_service_pb2_grpc as services
from subjects import Benchmark, Measured

PAYMENTS = 25


class FirstNotification:
    """Payments one after the other, with pauses, so that each finds a worker that rests."""

    def __init__(self, benchmark: Benchmark) -> None:
        self._benchmark = benchmark

    def first_notification(self) -> None:
        """From the answer to SubmitPayOrder, by the mock channel, which pays at once, to the arrival of the notification."""
        (worker,) = self._benchmark.workers(1)
        try:
            taken = sorted(asyncio.run(self._pay()))
        finally:
            worker.terminate()
            worker.wait(20)
        measured = self._benchmark.found.setdefault("first notification", Measured())
        measured.rates.append(1000 / statistics.median(taken))
        measured.p50.append(statistics.median(taken))
        measured.p99.append(taken[-1])

    async def _pay(self) -> list[float]:
        """The milliseconds of each payment."""
        arrived: asyncio.Queue[float] = asyncio.Queue()

        async def receive(request: web.Request) -> web.Response:
            arrived.put_nowait(time.monotonic())
            await request.read()
            return web.Response(text="success")

        app = web.Application()
        app.add_routes([web.post("/notify", receive)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/notify"
        metadata = (("authorization", self._benchmark.authorization),)
        found = []
        async with grpc.aio.insecure_channel(self._benchmark.target) as channel:
            stub: services.PayOrderServiceAsyncStub = services.PayOrderServiceStub(channel)
            for _ in range(PAYMENTS):
                await asyncio.sleep(random.uniform(0.02, 0.12))
                new = orders.CreatePayOrderRequest(
                    merchant_order_id=f"n{time.monotonic_ns()}", subject="Tea", amount=1990, user_ip="203.0.113.7",
                    notification_url=url,
                )  # fmt: skip
                order = (await stub.CreatePayOrder(new, metadata=metadata)).pay_order
                await stub.SubmitPayOrder(orders.SubmitPayOrderRequest(id=order.id, channel_code="mock"), metadata=metadata)
                answered = time.monotonic()
                async with asyncio.timeout(10):
                    found.append(max(0.0, (await arrived.get() - answered) * 1000))
        await runner.cleanup()
        return found
