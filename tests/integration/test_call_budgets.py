"""How many functions of PayCenter each operation calls, when many are in progress. Each costs more than what it does: a change of a
number is a change of the cost."""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import paycenter_server
from faults.crash.money import caught_callback
from paycenter.v1 import pay_order_service_pb2 as pb
from paycenter.v1 import pay_refund_service_pb2 as refund_pb
from paycenter_server.channels.protocol import CallbackRequest
from paycenter_server.grpc_server.server import Server
from support.grpc_rig import parts_of
from support.notifications import fill
from support.system import PayCenterSystem

COUNT = 64
_OURS = str(Path(paycenter_server.__file__).parent)
ORDERS, REFUNDS = "/paycenter.v1.PayOrderService/", "/paycenter.v1.PayRefundService/"


@contextmanager
def counted() -> Iterator[list[int]]:
    """The calls of functions of the package `paycenter_server`, and the times that its coroutines go on."""
    found = [0]

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(_OURS):
            found[0] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(before)


async def calls_of(work: Sequence[Callable[[], Awaitable[Any]]]) -> float:
    """The calls for each of these operations, which are begun together."""
    with counted() as found:
        await asyncio.gather(*(one() for one in work))
    return found[0] / len(work)


@dataclass(frozen=True)
class Call:
    """What gRPC gives to a method."""

    invocation_metadata_: tuple[tuple[str, str], ...]

    def time_remaining(self) -> float | None:
        return None

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self.invocation_metadata_


@dataclass(frozen=True)
class Details:
    """What gRPC gives to a generic handler."""

    method: str
    invocation_metadata: tuple[tuple[str, str], ...]


class Methods:
    """The methods of a server, called as gRPC calls them."""

    def __init__(self, system: PayCenterSystem) -> None:
        self._calls: Any = Server(parts_of(system.services), "127.0.0.1:0", tls=None, with_reflection=False)._calls
        self._metadata = (("authorization", system.secrets["shop:authorization"]),)

    async def __call__(self, method: str, request: Any) -> bytes:
        handler = self._calls.service(Details(method, self._metadata))
        return bytes(await handler.unary_unary(request.SerializeToString(), Call(self._metadata)))


def create(number: str) -> pb.CreatePayOrderRequest:
    return pb.CreatePayOrderRequest(
        merchant_order_id=number, subject="Tea", amount=1990, user_ip="203.0.113.7", return_url="https://shop.example/"
    )


async def test_calls(system: PayCenterSystem) -> None:
    methods = Methods(system)
    found: dict[str, float] = {}
    for turn in range(2):  # the first time statements are prepared, and the app is read
        numbers = [f"{turn}-{number}" for number in range(COUNT)]
        made: list[str] = []

        async def create_one(number: str, made: list[str] = made) -> None:
            answer = await methods(f"{ORDERS}CreatePayOrder", create(number))
            made.append(pb.CreatePayOrderResponse.FromString(answer).pay_order.id)

        found["create"] = await calls_of([partial(create_one, number) for number in numbers])
        found["get"] = await calls_of(
            [partial(methods, f"{ORDERS}GetPayOrder", pb.GetPayOrderRequest(merchant_order_id=number)) for number in numbers]
        )
        submits = [pb.SubmitPayOrderRequest(id=number, channel_code="mock") for number in made]
        found["submit"] = await calls_of([partial(methods, f"{ORDERS}SubmitPayOrder", submit) for submit in submits])
        refunds = [
            refund_pb.CreatePayRefundRequest(merchant_order_id=number, merchant_refund_no=number, amount=10, reason="x")
            for number in numbers
        ]
        found["refund"] = await calls_of([partial(methods, f"{REFUNDS}CreatePayRefund", refund) for refund in refunds])
    within(found, {"create": 62, "get": 46, "submit": 184, "refund": 164})


async def test_callbacks(system: PayCenterSystem) -> None:
    callbacks: list[CallbackRequest] = []
    for _ in range(16):
        order = await system.order()
        attempt = await system.submit(order)
        number = attempt.out_trade_no
        headers, body, query = await caught_callback(system, number, lambda number=number: system.simulator.pay(number))  # type: ignore[misc]
        callbacks.append(CallbackRequest(headers, base64.b64decode(body), query))
    receive = partial(system.services.callbacks.receive, system.channels["wx_native"])
    await receive(callbacks.pop())
    found = {"callback": await calls_of([partial(receive, callback) for callback in callbacks])}
    within(found, {"callback": 69})


async def test_deliveries(system: PayCenterSystem) -> None:
    url = "http://merchant.test/shop/order"
    for _ in range(2):
        await fill(system, url, COUNT)
        delivery = system.services.delivery
        with counted() as calls:
            await delivery.deliver_due()
            await delivery.settle()
    within({"deliver": calls[0] / COUNT}, {"deliver": 42})


def within(found: dict[str, float], most: dict[str, int]) -> None:
    """A twentieth more than was measured, because on a slow machine fewer calls share a statement, and rows are read again."""
    assert found.keys() == most.keys()
    assert not {name for name, calls in found.items() if calls > most[name]}, f"{found}, at most {most}"
