"""The second subject: a payment as a Python team writes it by default: SQLAlchemy's ORM over asyncpg, one commit a step.

`serve` creates and submits orders; its mock channel pays at once. `deliver` sends what waits, 64 at a time. It does less than
PayCenter: no authentication, no event ledger, no check of who else pays or closes, no attempt that is unclear.
"""

# ruff: noqa: D101, D102, D103
from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import sys
import uuid
from datetime import UTC, datetime
from typing import Any

import aiohttp
import grpc
import uvloop
from paycenter.v1 import pay_order_service_pb2 as pb
from paycenter.v1 import pay_order_service_pb2_grpc as services
from sqlalchemy import DateTime, ForeignKey, String, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

STATES = {"WAITING": pb.PAY_ORDER_STATE_WAITING, "SUCCESS": pb.PAY_ORDER_STATE_SUCCESS}
AT_ONCE = 64


class Base(DeclarativeBase):
    type_annotation_map = {datetime: DateTime(timezone=True)}  # noqa: RUF012


class Order(Base):
    __tablename__ = "orm_order"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    merchant_order_id: Mapped[str] = mapped_column(String(64), unique=True)
    subject: Mapped[str]
    amount: Mapped[int]
    state: Mapped[str]
    paid_amount: Mapped[int]
    create_time: Mapped[datetime]
    attempts: Mapped[list[Attempt]] = relationship(lazy="selectin")


class Attempt(Base):
    __tablename__ = "orm_attempt"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    order_id: Mapped[str] = mapped_column(ForeignKey("orm_order.id"), index=True)
    channel_code: Mapped[str]
    state: Mapped[str]
    channel_order_no: Mapped[str]
    create_time: Mapped[datetime]


class Notification(Base):
    __tablename__ = "orm_notification"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str] = mapped_column(ForeignKey("orm_order.id"), index=True)
    state: Mapped[str] = mapped_column(index=True)
    payload: Mapped[str]
    attempts: Mapped[int]


Sessions = async_sessionmaker[AsyncSession]


def message(order: Order) -> pb.PayOrder:
    found = pb.PayOrder(id=order.id, app_key="shop", merchant_order_id=order.merchant_order_id, subject=order.subject,
                        amount=order.amount, currency="CNY", state=STATES[order.state],
                        paid_amount=order.paid_amount)  # fmt: skip
    found.create_time.FromDatetime(order.create_time)
    return found


class Server(services.PayOrderServiceServicer):
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def CreatePayOrder(self, request: pb.CreatePayOrderRequest, context: Any) -> pb.CreatePayOrderResponse:
        async with self._sessions() as session:
            order = await session.scalar(select(Order).where(Order.merchant_order_id == request.merchant_order_id))
            if order is None:
                order = Order(id=uuid.uuid4().hex, merchant_order_id=request.merchant_order_id, subject=request.subject,
                              amount=request.amount, state="WAITING", paid_amount=0,
                              create_time=datetime.now(UTC))  # fmt: skip
                session.add(order)
                await session.commit()
            return pb.CreatePayOrderResponse(pay_order=message(order))

    async def SubmitPayOrder(self, request: pb.SubmitPayOrderRequest, context: Any) -> pb.SubmitPayOrderResponse:
        attempt = Attempt(id=uuid.uuid4().hex, order_id=request.id, channel_code="mock", state="WAITING", channel_order_no="",
                          create_time=datetime.now(UTC))  # fmt: skip
        async with self._sessions() as session:
            order = await session.get_one(Order, request.id)
            if order.state != "WAITING" or any(other.state == "SUCCESS" for other in order.attempts):
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the order is paid")
            session.add(attempt)
            await session.commit()
        async with self._sessions() as session:  # as a callback would have it
            found = await session.get_one(Attempt, attempt.id)
            order = await session.get_one(Order, found.order_id, with_for_update=True)
            found.state, found.channel_order_no = "SUCCESS", f"MOCK{found.id}"
            order.state, order.paid_amount = "SUCCESS", order.amount
            data = {"type": "pay_order.success", "data": {"id": order.id, "amount": order.amount, "state": order.state}}
            session.add(Notification(order_id=order.id, state="WAITING", payload=json.dumps(data), attempts=0))
            await session.commit()
            return pb.SubmitPayOrderResponse(state=STATES[order.state], out_trade_no=found.id, pay_order=message(order))


async def serve(sessions: Sessions) -> None:
    server = grpc.aio.server()
    services.add_PayOrderServiceServicer_to_server(Server(sessions), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.Event().wait()


async def deliver(sessions: Sessions, url: str) -> None:
    async def send(client: aiohttp.ClientSession, one: Notification) -> None:
        signature = hmac.new(b"secret", one.payload.encode(), hashlib.sha256).hexdigest()
        async with client.post(url, data=one.payload, headers={"webhook-signature": signature}) as answer:
            received = answer.status == 200
        async with sessions() as session:
            stored = await session.get_one(Notification, one.id)
            stored.attempts, stored.state = stored.attempts + 1, "SUCCESS" if received else "WAITING"
            await session.commit()

    print(0, flush=True)
    async with aiohttp.ClientSession() as client:
        while True:
            async with sessions() as session:
                waiting = await session.scalars(select(Notification).where(Notification.state == "WAITING").limit(AT_ONCE))
            found = waiting.all()
            await asyncio.gather(*(send(client, one) for one in found))
            await asyncio.sleep(0 if found else 0.05)


async def main(command: str, database: str, *more: str) -> None:
    engine = create_async_engine(database.replace("postgresql://", "postgresql+asyncpg://"), pool_size=8, max_overflow=0)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    await (serve(sessions) if command == "serve" else deliver(sessions, *more))


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
