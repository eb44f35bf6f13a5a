"""The ceiling of the delivery: a bare aiohttp client, 64 requests at the same time. Prints requests a second,
and the processor time of one in microseconds."""

from __future__ import annotations

import asyncio
import sys
import time

import aiohttp
import uvloop

_BODY = b'{"type":"pay_order.success","object_id":"O01M8K970ZTFRF9G6B05BQB2ZNG","data":{"amount":1990,"currency":"CNY"}}' * 4


async def _run(url: str, count: int) -> None:
    left = iter(range(count))

    async def one(session: aiohttp.ClientSession) -> None:
        for _ in left:
            async with session.post(url, data=_BODY) as response:
                await response.read()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64)) as session:
        started, processor = time.perf_counter(), time.process_time()
        await asyncio.gather(*(one(session) for _ in range(64)))
        print(count / (time.perf_counter() - started), (time.process_time() - processor) / count * 1e6)


if __name__ == "__main__":
    uvloop.run(_run(sys.argv[1], int(sys.argv[2])))
