"""Overload: calls beyond the limits are refused at once, an app takes no places of another, and a hanging channel takes none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from paycenter import PayCenter, PayCenterError
from paycenter.v1.pay_order_service_pb2 import GetPayOrderRequest
from paycenter.v1.pay_refund_service_pb2 import ListPayRefundsRequest
from paycenter_server.services.limits import (
    LATE_SECONDS,
    MOST_LATE,
    MOST_LATE_UNKNOWN,
    OPERATORS,
    REFUSALS_AT_ONCE,
    UNKNOWN,
    Admission,
    Limits,
)
from paycenter_server.services.turns import Turns
from support.grpc_rig import Rig, fails, key_of, open_rig
from support.locks import transaction
from support.system import PayCenterSystem, open_system
from support.transports import HangingTransport
from support.waiting import eventually, pause


@asynccontextmanager
async def waiting_calls(rig: Rig, order: Any, count: int) -> AsyncIterator[None]:
    """Calls of the shop that wait for the lock of an order."""
    async with transaction(rig.system) as held:
        await held.execute("SELECT 1 FROM pay_order WHERE merchant_order_id = $1 FOR UPDATE", order.merchant_order_id)
        before = rig.server.admission.calls
        calls = [asyncio.ensure_future(rig.shop.update_price(order, 100 + number)) for number in range(1, count + 1)]
        await eventually(lambda: rig.server.admission.calls == before + count)
        yield
    await asyncio.gather(*calls, return_exceptions=True)


async def test_calls_beyond_the_limit_are_refused_at_once(system: PayCenterSystem) -> None:
    async with open_rig(system, limits=Limits(calls=2, app_calls=2)) as rig:
        order = await rig.order()
        async with waiting_calls(rig, order, 2):
            for client in (rig.shop, rig.op):
                async with fails("TOO_MANY_CALLS", grpc.StatusCode.RESOURCE_EXHAUSTED) as caught:
                    await client.get_order(id=order.id)
                assert caught[0].retry_after == 0.2
        assert (await rig.shop.get_order(id=order.id)).id == order.id
        assert rig.server.admission.calls == 0


async def test_an_app_cannot_take_the_places_of_another(system: PayCenterSystem) -> None:
    async with open_rig(system, limits=Limits(calls=8, app_calls=2)) as rig:
        other = await rig.app("books")
        order = await rig.order()
        async with waiting_calls(rig, order, 2):
            async with fails("TOO_MANY_CALLS", grpc.StatusCode.RESOURCE_EXHAUSTED):
                await rig.order()
            assert (await rig.order(other)).app_key == "books"
            assert (await rig.op.get_order(id=order.id)).id == order.id, "operators have no limit of an app"
        await other.close()


async def test_the_client_of_a_connection_holds_back_more_calls_than_it_may_have(system: PayCenterSystem) -> None:
    async with open_rig(system, connection_calls=2) as rig:
        order = await rig.order()
        async with waiting_calls(rig, order, 2):
            more = asyncio.ensure_future(rig.shop.get_order(id=order.id))
            for _ in range(5):
                assert (await rig.op.get_order(id=order.id)).id == order.id, "another connection"
            assert not more.done()
            assert rig.server.admission.calls == 2
        assert (await more).id == order.id


async def test_more_calls_than_a_connection_may_have_are_all_answered(system: PayCenterSystem) -> None:
    """The client starts the next call when one has ended, at once, which the server must not take for one too many."""
    async with open_rig(system, connection_calls=16) as rig:
        order = await rig.order()

        async def one_after_the_other() -> None:
            for _ in range(10):
                await rig.shop.get_order(id=order.id)

        found = await asyncio.gather(*(one_after_the_other() for _ in range(64)), return_exceptions=True)
        assert found == [None] * 64


async def test_calls_that_have_waited_too_long_before_they_begin_are_ended(system: PayCenterSystem) -> None:
    """The event loop does nothing for a while, as a server that has more calls than it can answer accepts none of the last ones."""
    async with open_rig(system, queue_seconds=1) as rig:
        await rig.order()
        key_id, key_secret = key_of(system)
        with PayCenter(rig.target, key_id=key_id, key_secret=key_secret, attempts=1) as client, ThreadPoolExecutor(8) as threads:

            def create(number: int) -> str:
                try:
                    client.create_order(merchant_order_id=f"late-{number}", subject="Tea", amount=100, user_ip="203.0.113.9")
                except PayCenterError as error:
                    return str(error.code.name)
                return ""

            loop = asyncio.get_running_loop()
            assert await loop.run_in_executor(threads, create, 100) == "", "it is connected"
            calls = [loop.run_in_executor(threads, create, number) for number in range(8)]
            threading.Event().wait(3)  # nothing is accepted meanwhile, as the loop is blocked
            found = await asyncio.gather(*calls)
        assert [why for why in found if why] == ["CANCELLED"] * 7, "one was accepted before"
        made = await system.value("SELECT count(*) FROM pay_order WHERE merchant_order_id LIKE 'late-%'")
        assert made == 1 + found.count(""), "what was ended has done nothing"
        await rig.order()


async def test_the_lists_of_an_app_leave_the_connections_to_others(system: PayCenterSystem) -> None:
    async with open_rig(system) as rig:
        other = await rig.app("books")
        async with transaction(system) as held:
            await held.execute("LOCK TABLE pay_refund IN ACCESS EXCLUSIVE MODE")
            lists = [asyncio.ensure_future(rig.shop.refunds.ListPayRefunds(ListPayRefundsRequest())) for _ in range(20)]
            await eventually(lambda: rig.server.turns.waiting == 18)
            assert rig.server.admission.calls == 2, "those that wait leave their places to others"
            assert (await rig.order(other, timeout=5)).app_key == "books"
        await asyncio.gather(*lists)
        await other.close()


async def test_lists_that_wait_take_places_of_their_app_only(system: PayCenterSystem) -> None:
    async with open_rig(system, limits=Limits(calls=6, app_calls=5)) as rig:
        other = await rig.app("books")
        await rig.order(other)
        await rig.order()
        lists = []
        async with transaction(system) as held:
            await held.execute("LOCK TABLE pay_refund IN ACCESS EXCLUSIVE MODE")
            for number in range(5):
                lists.append(asyncio.ensure_future(rig.shop.refunds.ListPayRefunds(ListPayRefundsRequest())))
                await eventually(partial(lambda waiting: rig.server.turns.waiting == waiting, max(0, number - 1)))
            async with fails("TOO_MANY_CALLS", grpc.StatusCode.RESOURCE_EXHAUSTED):
                await rig.order()
            assert rig.server.admission.calls == 2
            assert (await rig.order(other)).app_key == "books"
        await asyncio.gather(*lists)
        await eventually(lambda: rig.server.turns.idle)
        assert rig.server.admission.calls == 0
        await other.close()


async def test_operators_leave_places_to_apps(system: PayCenterSystem) -> None:
    async with open_rig(system, limits=Limits(calls=8, app_calls=2)) as rig:
        order = await rig.order()
        assert (await rig.op.get_order(id=order.id)).id == order.id, "its credential is known from now on"
        async with transaction(system) as held:
            await held.execute("LOCK TABLE pay_refund IN ACCESS EXCLUSIVE MODE")
            lists = [asyncio.ensure_future(rig.op.refunds.ListPayRefunds(ListPayRefundsRequest())) for _ in range(2)]
            await eventually(lambda: rig.server.admission.calls == 2)
            async with fails("TOO_MANY_CALLS", grpc.StatusCode.RESOURCE_EXHAUSTED) as caught:
                await rig.op.get_order(id=order.id)
            assert "of the operators" in str(caught[0])
            assert (await rig.order()).app_key == "shop"
        await asyncio.gather(*lists)
        assert (await rig.op.get_order(id=order.id)).id == order.id


class Begun:
    """Calls that have a turn until they are told to end."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.begun: list[str] = []
        self._end: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def call(self, name: str, app_id: UUID) -> None:
        """Begin it, up to where it has its turn or waits for it."""
        self._end[name] = asyncio.Event()
        waiting = self.turns.waiting
        self.tasks[name] = asyncio.ensure_future(self._call(name, app_id))
        await eventually(lambda: name in self.begun or self.turns.waiting > waiting)

    async def _call(self, name: str, app_id: UUID) -> None:
        async with self.turns.of(app_id):
            self.begun.append(name)
            await self._end[name].wait()

    def has_begun(self, name: str) -> bool:
        return name in self.begun

    def end(self, *names: str) -> None:
        for name in names:
            self._end[name].set()


async def test_a_turn_is_free_after_a_pause_while_others_wait() -> None:
    turns, loop, app = Turns(1), asyncio.get_running_loop(), uuid4()
    calls = Begun(turns)
    for name in ("first", "second", "third"):
        await calls.call(name, app)
    started = loop.time()
    calls.tasks["third"].cancel()
    await pause(0.05)
    calls.end("first")
    ended = loop.time()
    await eventually(lambda: calls.begun == ["first", "second"])
    assert loop.time() - ended >= min(ended - started, 0.05)
    calls.end("second")
    await asyncio.gather(*calls.tasks.values(), return_exceptions=True)
    assert calls.begun == ["first", "second"]
    assert turns.idle


async def test_apps_have_their_turns_one_after_the_other() -> None:
    """Two at the same time, however many apps there are, and who comes with many waits behind who comes with few."""
    calls, many, few, one = Begun(Turns(2)), uuid4(), uuid4(), uuid4()
    for name in ("m1", "m2", "m3", "m4", "m5"):
        await calls.call(name, many)
    for name, app_id in (("f1", few), ("f2", few), ("o1", one)):
        await calls.call(name, app_id)
    assert calls.begun == ["m1", "m2"]
    for wanted in ("m3", "f1", "o1", "m4", "f2", "m5"):
        calls.end(*calls.begun)
        await eventually(partial(calls.has_begun, wanted))
    calls.end(*calls.begun)
    await asyncio.gather(*calls.tasks.values())
    assert calls.begun == ["m1", "m2", "m3", "f1", "o1", "m4", "f2", "m5"]
    await eventually(lambda: calls.turns.idle)


async def test_a_list_that_waits_for_the_database_holds_up_its_app_only() -> None:
    calls, app, other = Begun(Turns(2, slow_seconds=0.01)), uuid4(), uuid4()
    for name in ("slow1", "slow2", "third"):
        await calls.call(name, app)
    await calls.call("another", other)
    await eventually(lambda: "another" in calls.begun)
    assert calls.begun == ["slow1", "slow2", "another"]
    calls.end("slow1", "slow2", "third", "another")
    await asyncio.gather(*calls.tasks.values())
    await eventually(lambda: calls.turns.idle)


async def test_a_call_that_is_cancelled_leaves_its_turn() -> None:
    """While it waits, and as it gets its turn."""
    calls, app, other = Begun(Turns(1)), uuid4(), uuid4()
    for name, app_id in (("first", app), ("second", app), ("third", other)):
        await calls.call(name, app_id)
    calls.tasks["second"].cancel()
    calls.end("first")
    await eventually(lambda: "third" in calls.begun)
    await calls.call("fourth", app)
    await calls.call("fifth", app)
    given = calls.turns._users[app].waiting[0]
    calls.end("third")
    while not given.done():
        await pause(0)
    calls.tasks["fourth"].cancel()
    await eventually(lambda: "fifth" in calls.begun)
    calls.end("fifth")
    await asyncio.gather(*calls.tasks.values(), return_exceptions=True)
    assert calls.begun == ["first", "third", "fifth"]
    await eventually(lambda: calls.turns.idle)


async def test_a_turn_that_becomes_free_is_not_given_to_a_call_that_was_cancelled_in_that_moment() -> None:
    turns, loop, app, end = Turns(1, slow_seconds=0), asyncio.get_running_loop(), uuid4(), asyncio.Event()
    begun: list[str] = []

    async def call(name: str, app_id: UUID) -> None:
        if name == "first":
            # Before the turn of the first is left, but in the same step of the event loop.
            loop.call_later(0, lambda: tasks[1].cancel())
        async with turns.of(app_id):
            begun.append(name)
            await end.wait()

    tasks = [
        asyncio.ensure_future(call(name, app_id)) for name, app_id in (("first", app), ("second", uuid4()), ("third", uuid4()))
    ]
    await eventually(lambda: begun == ["first", "third"])
    end.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    await eventually(lambda: turns.idle)


async def test_calls_of_an_app_in_a_second_are_limited(system: PayCenterSystem) -> None:
    async with open_rig(system, limits=Limits(app_rate=0.5)) as rig:
        other = await rig.app("books")
        order = await rig.order()
        async with fails("TOO_MANY_CALLS", grpc.StatusCode.RESOURCE_EXHAUSTED) as caught:
            await rig.shop.get_order(id=order.id)
        assert 0 < (caught[0].retry_after or 0) <= 2, "when the next call is allowed"
        assert (await rig.order(other)).app_key == "books"
        await other.close()


@asynccontextmanager
async def unsent(rig: Rig) -> AsyncIterator[grpc.aio.StreamUnaryCall[Any, Any]]:
    """A call of the shop that has sent its headers and never sends its message."""
    async with rig.bare() as channel:
        method: Any = channel.stream_unary("/paycenter.v1.PayOrderService/GetPayOrder")  # type: ignore[call-arg]
        call = method(timeout=5, metadata=(("authorization", rig.system.secrets["shop:authorization"]),))
        yield call
        call.cancel()


async def test_a_refused_call_is_answered_before_its_message_is_read(system: PayCenterSystem) -> None:
    for limits in (Limits(calls=2, app_calls=2), Limits(calls=8, app_calls=2)):
        async with open_rig(system, limits=limits) as rig:
            order = await rig.order()
            async with waiting_calls(rig, order, 2), unsent(rig) as call:
                assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert rig.server.admission.calls == 0


async def test_calls_whose_messages_do_not_come_take_no_places(system: PayCenterSystem) -> None:
    """Otherwise a stranger with one connection would take all, for as long as it likes."""
    path = "/paycenter.v1.PayOrderService/GetPayOrder"
    async with open_rig(system, limits=Limits(calls=2, app_calls=2)) as rig:
        order = await rig.order()
        for metadata in ((), (("authorization", rig.system.secrets["shop:authorization"]),)):
            async with rig.bare() as channel:
                stream: Any = channel.stream_unary(path)  # type: ignore[call-arg]
                calls = [stream(metadata=metadata) for _ in range(8)]
                # Its headers come after those of the others, on the same connection.
                last: Any = channel.unary_unary(path)  # type: ignore[call-arg]
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await last(b"", timeout=5)
                assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
                assert not any(call.done() for call in calls)
                assert (await rig.shop.get_order(id=order.id)).id == order.id
                for call in calls:
                    call.cancel()


async def test_calls_whose_messages_come_later_are_counted_then(system: PayCenterSystem) -> None:
    """There was a place when their headers came."""
    path, metadata = "/paycenter.v1.PayOrderService/GetPayOrder", (("authorization", system.secrets["shop:authorization"]),)
    async with open_rig(system, limits=Limits(calls=8, app_calls=2)) as rig:
        order = await rig.order()
        request = GetPayOrderRequest(id=order.id).SerializeToString()
        async with rig.bare() as channel:
            stream: Any = channel.stream_unary(path)  # type: ignore[call-arg]
            call = stream(metadata=metadata)
            whole: Any = channel.unary_unary(path)  # type: ignore[call-arg]
            await whole(request, metadata=metadata)
            async with waiting_calls(rig, order, 2):
                await call.write(request)
                await call.done_writing()
                assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_callers_that_were_never_verified_leave_places_to_others(system: PayCenterSystem) -> None:
    async with open_rig(system, limits=Limits(calls=4)) as rig:
        order = await rig.order()
        strangers = [rig.client("app_stranger", f"wrong{number}") for number in range(3)]
        async with transaction(system) as held:
            await held.execute("LOCK TABLE pay_credential IN ACCESS EXCLUSIVE MODE")
            waiting = [asyncio.ensure_future(stranger.get_order(id=order.id)) for stranger in strangers[:2]]
            await eventually(lambda: rig.server.admission.calls == 2)
            async with fails("TOO_MANY_CALLS", grpc.StatusCode.RESOURCE_EXHAUSTED):
                await strangers[2].get_order(id=order.id)
            assert (await rig.shop.get_order(id=order.id)).id == order.id
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert {getattr(error, "reason", "") for error in found} == {"CREDENTIALS_INVALID"}
        async with waiting_calls(rig, order, 2), fails("CREDENTIALS_INVALID", grpc.StatusCode.UNAUTHENTICATED):
            await strangers[2].get_order(id=order.id)
        for stranger in strangers:
            await stranger.close()


async def test_a_full_server_that_stops_refuses_and_counts_what_arrives(system: PayCenterSystem) -> None:
    """Otherwise it would stop while calls still arrive, and gRPC would cancel them."""
    async with open_rig(system, limits=Limits(calls=2, app_calls=2)) as rig:
        order = await rig.order()
        async with waiting_calls(rig, order, 2):
            calls = rig.server._calls
            stopping = asyncio.ensure_future(calls.refuse_calls(60, 60))
            await eventually(lambda: calls._refusing)
            async with fails("SERVER_STOPPING", grpc.StatusCode.UNAVAILABLE):
                await rig.shop.get_order(id=order.id)
            assert calls._refused == 1
            assert not stopping.done()
        stopping.cancel()


async def test_who_repeats_refused_calls_at_once_is_answered_late() -> None:
    admission, app, other = Admission(Limits()), uuid4(), uuid4()
    with ExitStack() as held:

        def refused(caller: UUID | str) -> float:
            return held.enter_context(admission.refusal(caller)).seconds

        assert [refused(app) for _ in range(REFUSALS_AT_ONCE)] == [0.0] * REFUSALS_AT_ONCE
        admission._refusals_of(app).left = -1000  # a second has passed for as many more
        assert refused(app) == LATE_SECONDS
        assert refused(other) == 0, "not because of another"
        admission._refusals_of(UNKNOWN).left = -1000
        assert refused(UNKNOWN) == LATE_SECONDS
        assert refused(OPERATORS) == 0, "not because of who is not known"
        while refused(UNKNOWN):
            assert admission._late <= 1 + MOST_LATE_UNKNOWN
        assert admission._late == 1 + MOST_LATE_UNKNOWN
        while refused(app):
            assert admission._late <= MOST_LATE
        assert admission._late == MOST_LATE, "what waits needs memory"
    assert admission._late == 0


async def test_a_late_refusal_comes_before_the_deadline_of_its_caller(system: PayCenterSystem) -> None:
    async with open_rig(system, limits=Limits(calls=8, app_calls=2)) as rig:
        order = await rig.order()
        admission = rig.server.admission
        (app_id,) = admission._apps
        async with waiting_calls(rig, order, 2):
            admission._refusals_of(app_id).left = -1000
            call = asyncio.ensure_future(rig.shop.get_order(id=order.id, timeout=LATE_SECONDS * 0.9))
            await eventually(lambda: admission._late == 1)
            assert (await rig.op.get_order(id=order.id)).id == order.id
            async with fails("TOO_MANY_CALLS", grpc.StatusCode.RESOURCE_EXHAUSTED):
                await call
            assert admission._late == 0
            async with unsent(rig) as headers_only:
                await eventually(lambda: admission._late == 1)
                assert await headers_only.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_the_refusals_of_a_full_server_are_those_of_their_callers(system: PayCenterSystem) -> None:
    """Also if their credentials have not been verified for a while, because the server has been full."""
    async with open_rig(system, limits=Limits(calls=2)) as rig:
        order = await rig.order()
        await rig.op.get_order(id=order.id)
        admission, known = rig.server.admission, system.services.identity._credentials._known
        admission._refusals_of(UNKNOWN).left = -1000
        async with waiting_calls(rig, order, 2):
            for authorization, (_, caller) in list(known.items()):
                known[authorization] = (float("-inf"), caller)
            for client in (rig.shop, rig.op):
                async with fails("TOO_MANY_CALLS", grpc.StatusCode.RESOURCE_EXHAUSTED):
                    await client.get_order(id=order.id)
        (app_id,) = admission._apps
        assert admission._refusals_of(UNKNOWN).left < -900, "no refusal was counted as that of who is not known"
        assert max(admission._refusals_of(caller).left for caller in (app_id, OPERATORS)) < REFUSALS_AT_ONCE


async def test_a_caller_who_is_verified_leaves_its_place_to_those_who_are_not() -> None:
    admission = Admission(Limits(calls=4))
    places = [admission.begin(verified=False), admission.begin(verified=False)]
    for place in places:
        admission.charge(place, None)
    places += [admission.begin(verified=False), admission.begin(verified=False)]
    for place in places:
        place.end()
    assert (admission.calls, admission._unverified) == (0, 0)


def test_a_call_that_ends_while_its_work_waits_gives_its_place_back_once() -> None:
    admission = Admission(Limits())
    place = admission.begin()
    place.pause()
    place.end()
    assert admission.calls == 0
    place.resume()
    assert admission.calls == 0


def test_a_call_that_waits_for_two_answers_gives_back_one_place() -> None:
    admission = Admission(Limits())
    other, place = admission.begin(), admission.begin()
    place.pause()
    place.pause()
    assert admission.calls == 1
    place.resume()
    place.resume()
    assert admission.calls == 2
    place.end()
    other.end()
    assert admission.calls == 0


async def test_calls_that_wait_for_a_channel_take_no_places(
    database_url: str, redis_url: str, keys_dir: Path, master_key_file: Path
) -> None:
    hanging = HangingTransport()
    async with (
        open_system(database_url, redis_url, keys_dir, master_key_file, transport=hanging) as system,
        open_rig(system, limits=Limits(calls=1, app_calls=1)) as rig,
    ):
        submits = []
        for number in range(1, 4):
            order = await rig.order()
            submits.append(asyncio.ensure_future(rig.shop.submit_order(order, "wx_native")))
            await eventually(lambda number=number: len(hanging.given) == number)  # type: ignore[misc]
        assert rig.server.admission.calls == 0
        assert (await rig.order()).state == 1
        submits.pop().cancel()  # its work goes on, and its place was given back when it began to wait
        hanging.answer.set()
        await asyncio.gather(*submits, return_exceptions=True)
        await system.services.context.drain(10)
        assert rig.server.admission.calls == 0
        await hanging.aclose()


async def test_a_call_that_waits_for_a_payer_takes_no_place(system: PayCenterSystem) -> None:
    await system.add_channel("wx_bar")
    await system.simulator.fault("wx2.micropay", "user_paying")
    async with open_rig(system, limits=Limits(calls=1, app_calls=1)) as rig:
        order = await rig.order()
        submit = rig.shop.submit_order(order, "wx_bar", {"auth_code": "134567890123456789"}, timeout=20)
        waiting = asyncio.ensure_future(submit)

        async def asked_for_the_password() -> Any:
            (found,) = await system.rows("SELECT * FROM pay_order WHERE merchant_order_id = $1", order.merchant_order_id)
            return await system.value("SELECT id FROM pay_event WHERE event = 'answered' AND order_id = $1", found["id"])

        await eventually(asked_for_the_password)
        # Less than the time until the next query, during which every call gives its place back.
        await eventually(lambda: rig.server.admission.calls == 0, 2)
        assert (await rig.order()).state == 1
        assert not waiting.done()
        (attempt,) = (await rig.op.get_order(id=order.id)).attempts
        await system.simulator.pay(attempt.out_trade_no)
        await waiting
