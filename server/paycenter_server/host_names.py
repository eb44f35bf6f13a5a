"""Resolution of host names in threads of its own.

An event loop resolves names in the few threads that all of the process share (uvloop two at a time), and a thread that waits for a
name server that does not answer is lost for 10 seconds or longer. So a few names of one app would stop all new connections.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from aiohttp.abc import AbstractResolver
from aiohttp.resolver import ThreadedResolver

ANSWERED, NEW, FAILED = 32, 32, 8
"""Names that are looked up at the same time: those that were found the last time, those that were not looked up yet, and those
that were not found the last time. So names that are not found take no places from the others."""
SECONDS = 5.0
"""For one name, with the time until it has a place."""
_REMEMBERED = 10_000


class HostNames:
    """Looks names up by `getaddrinfo` of the system. To be used in one event loop."""

    def __init__(self, look_up: Callable[..., Any] = socket.getaddrinfo, seconds: float = SECONDS) -> None:
        """The arguments are for tests."""
        self._look_up = look_up
        self._seconds = seconds
        self._found: dict[str, bool] = {}
        self._places = {True: asyncio.Semaphore(ANSWERED), None: asyncio.Semaphore(NEW), False: asyncio.Semaphore(FAILED)}

    async def getaddrinfo(self, host: str | None, port: int | None, **arguments: int) -> list[Any]:
        """As of the event loop. OSError if the name is not found, or within SECONDS."""
        name = host or ""
        place, asked = self._places[self._found.get(name)], False
        try:
            async with asyncio.timeout(self._seconds):
                await place.acquire()
                asked = True
                found = await self._in_thread(place, host, port, arguments)
        except TimeoutError as error:
            if asked:
                self._remember(name, found=False)
            raise socket.gaierror(socket.EAI_AGAIN, f"not found within {self._seconds:g} seconds") from error
        except UnicodeError as error:
            raise socket.gaierror(socket.EAI_NONAME, str(error)) from error
        except OSError:
            self._remember(name, found=False)
            raise
        self._remember(name, found=True)
        return cast(list[Any], found)

    async def getnameinfo(self, address: Any, flags: int) -> Any:
        """As of the event loop, for numeric names only, which need no name server."""
        return socket.getnameinfo(address, flags)

    def resolver(self) -> AbstractResolver:
        """For a connector of aiohttp."""
        return ThreadedResolver(loop=cast(asyncio.AbstractEventLoop, self))  # of a loop it uses these two

    def _in_thread(self, place: asyncio.Semaphore, host: str | None, port: int | None, arguments: dict[str, int]) -> Any:
        """The result of a thread, which has the place until it ends, also if nobody waits for it any more."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def end(result: Any, error: Exception | None) -> None:
            place.release()
            if done.done():
                return
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)

        def run() -> None:
            result, error = None, None
            try:
                result = self._look_up(host, port, **arguments)
            except Exception as raised:
                error = raised
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(end, result, error)

        # A daemon, because a process that ends must not wait for a name server.
        try:
            threading.Thread(target=run, name="host name", daemon=True).start()
        except RuntimeError as error:  # no more threads
            end(None, OSError(str(error)))
        return done

    def _remember(self, host: str, *, found: bool) -> None:
        self._found.pop(host, None)  # it becomes the youngest
        if len(self._found) >= _REMEMBERED:
            del self._found[next(iter(self._found))]
        self._found[host] = found
