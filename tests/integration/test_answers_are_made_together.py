"""Calls that go on at the same time: the answers of all are made before the first is sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.protobuf.message import Message
from paycenter.v1 import pay_order_service_pb2 as pb
from support.grpc_rig import open_rig
from support.system import PayCenterSystem


class _AbortedError(Exception):
    """What gRPC sends to the caller: the details and the trailing metadata."""


class _Context:
    """Of a context of gRPC what a call uses."""

    def __init__(self, authorization: str) -> None:
        self._metadata = (("authorization", authorization),)

    def invocation_metadata(self) -> Any:
        return self._metadata

    def peer(self) -> str:
        return "ipv4:203.0.113.9:4000"

    def time_remaining(self) -> float | None:
        return None

    async def abort(self, code: Any, details: str, trailing: Any) -> None:
        raise _AbortedError(details, trailing)


async def test_the_answers_of_calls_that_share_a_statement_are_made_before_one_is_sent(system: PayCenterSystem) -> None:
    order = await system.order()
    async with open_rig(system) as rig:
        method = rig.server.unary.methods["/paycenter.v1.PayOrderService/GetPayOrder"]
        context = _Context(system.secrets["shop:authorization"])
        raw = pb.GetPayOrderRequest(merchant_order_id=order.merchant_order_id).SerializeToString()
        done: list[str] = []

        async def call() -> None:
            def render(answer: Message) -> Message:
                assert isinstance(answer, pb.GetPayOrderResponse)
                assert answer.pay_order.id == order.number
                done.append("made")
                return answer

            await method.handler(raw, context, pb.GetPayOrderRequest.FromString, render)
            done.append("sent")

        await call()  # what is read once for a caller is known now
        done.clear()
        # The first has a statement of its own, the others share the next one.
        await asyncio.gather(*(call() for _ in range(4)))
        assert done == ["made", "sent", *["made"] * 3, *["sent"] * 3]


async def test_an_answer_that_cannot_be_made_tells_the_caller_nothing_of_why(system: PayCenterSystem) -> None:
    order = await system.order()
    async with open_rig(system) as rig:
        method = rig.server.unary.methods["/paycenter.v1.PayOrderService/GetPayOrder"]
        raw = pb.GetPayOrderRequest(id=order.number).SerializeToString()

        def render(answer: Message) -> Message:
            raise ValueError("the text of an exception")

        context = _Context(system.secrets["shop:authorization"])
        with pytest.raises(_AbortedError, match="An internal error") as raised:
            await method.handler(raw, context, pb.GetPayOrderRequest.FromString, render)
        assert "the text of an exception" not in repr(raised.value.args)
        assert rig.server.admission.calls == 0
