"""Names whose servers do not answer stop no others."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest
from paycenter_server.host_names import ANSWERED, FAILED, NEW, HostNames
from support.waiting import ended, eventually

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]


class NameServer:
    """Names that begin with `dead` are answered when `answer` is set. `asked` has each that was looked up."""

    def __init__(self) -> None:
        self.answer = threading.Event()
        self.asked: list[str] = []
        self.names = HostNames(self.look_up, seconds=0.2)

    def look_up(self, host: str, port: int, **arguments: int) -> Any:
        self.asked.append(host)
        if host.startswith("dead"):
            self.answer.wait(30)
        if host.startswith("none"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return FOUND

    async def find(self, host: str) -> Any:
        return await self.names.getaddrinfo(host, 80)


@pytest.fixture
def server() -> Any:
    made = NameServer()
    yield made
    made.answer.set()


async def test_names_that_are_not_answered_stop_none_that_were_found(server: NameServer) -> None:
    assert await server.find("shop") == FOUND
    dead = [asyncio.create_task(server.find(f"dead{number}")) for number in range(2 * NEW)]
    await eventually(lambda: len(server.asked) == 1 + NEW)
    assert await server.find("shop") == FOUND
    errors = await ended(dead)
    assert {(type(error), error.errno) for error in errors} == {(socket.gaierror, socket.EAI_AGAIN)}
    assert len(server.asked) == 2 + NEW, "each of the others has waited for a place"


async def test_names_that_were_not_found_have_few_places(server: NameServer) -> None:
    names = [f"dead{number}" for number in range(NEW)]
    await ended([asyncio.create_task(server.find(name)) for name in names])
    server.answer.set()  # the threads end
    await eventually(lambda: server.names._places[None]._value == NEW)
    server.answer.clear()
    server.asked.clear()
    again = [asyncio.create_task(server.find(name)) for name in names]
    assert await server.find("new") == FOUND
    await ended(again)
    assert len(server.asked) == 1 + FAILED


async def test_a_name_that_had_no_place_is_still_new(server: NameServer) -> None:
    """It was not looked up."""
    await ended([asyncio.create_task(server.find(f"dead{number}")) for number in range(NEW + 1)])
    assert list(server.names._found) == [f"dead{number}" for number in range(NEW)]


async def test_a_name_that_is_found_again_has_its_places_again(server: NameServer) -> None:
    await ended([asyncio.create_task(server.find("dead"))])
    assert server.names._found == {"dead": False}
    server.answer.set()
    assert await server.find("dead") == FOUND
    assert server.names._found == {"dead": True}
    await eventually(lambda: server.names._places[True]._value == ANSWERED)


async def test_a_name_that_does_not_exist(server: NameServer) -> None:
    for name in ("none", "." * 300):
        with pytest.raises(socket.gaierror):
            await HostNames().getaddrinfo(name, 80) if name != "none" else await server.find(name)
    assert server.names._found == {"none": False}


async def test_for_a_connector(server: NameServer) -> None:
    (found,) = await server.names.resolver().resolve("shop", 8080)
    assert (found["hostname"], found["host"]) == ("shop", "192.0.2.1")
    (own,) = await HostNames().resolver().resolve("127.0.0.1", 8080)
    assert (own["host"], own["port"]) == ("127.0.0.1", 8080)
