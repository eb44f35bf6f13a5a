"""Calls that go on at the same time: the answers of all are made before the first is sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from paycenter.v1 import pay_order_service_pb2 as pb
from paycenter_server.grpc_server.unary import CallError
from support.grpc_rig import open_rig
from support.system import PayCenterSystem


class _Context:
    """Of a context of gRPC what a call that succeeds uses."""

    def __init__(self, authorization: str) -> None:
        self._metadata = (("authorization", authorization),)

    def invocation_metadata(self) -> Any:
        return self._metadata

    def peer(self) -> str:
        return "ipv4:203.0.113.9:4000"

    def time_remaining(self) -> float | None:
        return None


async def test_the_answers_of_calls_that_share_a_statement_are_made_before_one_is_sent(system: PayCenterSystem) -> None:
    order = await system.order()
    async with open_rig(system) as rig:
        method = rig.server.unary.methods["/paycenter.v1.PayOrderService/GetPayOrder"]
        context = _Context(system.secrets["shop:authorization"])
        raw = pb.GetPayOrderRequest(merchant_order_id=order.merchant_order_id).SerializeToString()
        done: list[str] = []

        async def call() -> None:
            def render(answer: pb.GetPayOrderResponse) -> bytes:
                assert answer.pay_order.id == order.number
                done.append("made")
                return answer.SerializeToString()

            # As gRPC calls it, which sends the answer in the same step of the task.
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

        def render(answer: pb.GetPayOrderResponse) -> bytes:
            raise ValueError("the text of an exception")

        metadata = {"authorization": system.secrets["shop:authorization"]}
        with pytest.raises(CallError, match="An internal error") as raised:
            await rig.server.unary.call(
                method, raw, pb.GetPayOrderRequest.FromString, render, metadata=metadata, peer="ipv4:203.0.113.9:4000", timeout=None
            )
        assert "the text of an exception" not in str(raised.value.status)
        assert rig.server.admission.calls == 0
