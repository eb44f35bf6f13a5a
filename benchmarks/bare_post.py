"""The ceiling of the callback: a bare aiohttp handler of POST that reads the body and answers 204. Prints its port."""

from __future__ import annotations

import asyncio

import uvloop
from aiohttp import web


async def _serve() -> None:
    async def receive(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=204)

    app = web.Application()
    app.add_routes([web.post("/callback/order/{channel_id}", receive)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve())
