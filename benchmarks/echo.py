"""The ceiling: a bare grpc.aio server that parses the same requests and answers with messages of the same size. Prints its port."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import uvloop
from paycenter.v1 import pay_order_service_pb2 as pb
from paycenter.v1 import pay_order_service_pb2_grpc as services


class Echo(services.PayOrderServiceServicer):
    """Answers with the given order, and the merchant's number of the request."""

    def __init__(self, order: pb.PayOrder) -> None:
        self._order = order

    async def CreatePayOrder(self, request: pb.CreatePayOrderRequest, context: Any) -> pb.CreatePayOrderResponse:
        """As the real method, without anything behind it."""
        answer = pb.CreatePayOrderResponse(pay_order=self._order)
        answer.pay_order.merchant_order_id = request.merchant_order_id
        return answer

    async def GetPayOrder(self, request: pb.GetPayOrderRequest, context: Any) -> pb.GetPayOrderResponse:
        """As the real method, without anything behind it."""
        answer = pb.GetPayOrderResponse(pay_order=self._order)
        answer.pay_order.merchant_order_id = request.merchant_order_id
        return answer


async def _serve(order: bytes) -> None:
    server = grpc.aio.server()
    services.add_PayOrderServiceServicer_to_server(Echo(pb.PayOrder.FromString(order)), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(bytes.fromhex(sys.argv[1])))
