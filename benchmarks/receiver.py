"""A receiver of notifications that answers at once. Prints its port; GET /count gives what it has received.

Its address of a callback is the ceiling of the callback: a bare handler that reads the body and answers 204.
"""

from __future__ import annotations

import asyncio

import uvloop
from aiohttp import web


async def _serve() -> None:
    received = 0

    async def receive(request: web.Request) -> web.Response:
        nonlocal received
        await request.read()
        received += 1
        return web.Response(text="success")

    async def count(_: web.Request) -> web.Response:
        return web.Response(text=str(received))

    async def bare_callback(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=204)

    app = web.Application()
    app.add_routes([
        web.post("/notify", receive), web.get("/count", count), web.post("/callback/order/{channel_id}", bare_callback),
    ])  # fmt: skip
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve())
