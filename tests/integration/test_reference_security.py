"""The faults of the reference system that apply here, by the numbers of its analysis (§7.1). Not here: S6 (wallets)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlencode

import pytest
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.states import OrderState
from paycenter_server.workers.courier import AddressGuard
from support.world import OPERATOR, World


async def test_S1_alipay_values_are_read_from_what_was_verified(world: World) -> None:
    victim = await world.order(amount=999_900)
    target = await world.submit(victim, "alipay_qr")
    cheap = await world.order(amount=1)
    paid = await world.submit(cheap, "alipay_pc")
    async with world.session.get(paid.display_content):
        pass
    await world.simulator.pay(paid.out_trade_no)
    await world.until(cheap, "SUCCESS")
    # The signed parameters of the return_url are visible to every buyer: replayed in the query, with another body.
    log = await world.simulator.get(f"/simulator/log?out_trade_no={paid.out_trade_no}")
    forms = [entry for entry in log if "trade_status=TRADE_SUCCESS" in str(entry)]
    signed = next(body for body in _bodies(forms) if "sign=" in body)
    forged = urlencode({"trade_status": "TRADE_SUCCESS", "out_trade_no": target.out_trade_no, "total_amount": "9999.00"})
    for body, kind in ((forged, "text/plain"), (forged, "application/x-www-form-urlencoded")):
        url = f"{world.sidecar}/notify/order/{world.channels['alipay_qr']}?{signed}"
        async with world.session.post(url, data=body.encode(), headers={"content-type": kind}) as response:
            assert response.status >= 400
    changed = dict(parse_qsl(signed, keep_blank_values=True)) | {"out_trade_no": target.out_trade_no}
    status, _ = await world.call_back("alipay_qr", urlencode(changed).encode(), {})
    assert status >= 400
    assert (await world.read(victim)).state is OrderState.WAITING


def _bodies(entries: object) -> Iterator[str]:
    if isinstance(entries, dict):
        for value in entries.values():
            yield from _bodies(value)
    elif isinstance(entries, list):
        for value in entries:
            yield from _bodies(value)
    elif isinstance(entries, str) and "trade_status=" in entries:
        yield entries


async def test_S2_the_account_of_a_message_is_compared(world: World) -> None:
    # The same keys, another application: its genuine callback must not settle our order.
    order = await world.order()
    attempt = await world.submit(order, "alipay_qr")
    family, config = world.configs["alipay_qr"]
    await world.services.channels.update(
        OPERATOR, world.channels["alipay_qr"], {}, family, {**config, "seller_id": "2088000000000000"}
    )
    world.services.gateway._known.clear()
    await world.simulator.pay(attempt.out_trade_no)
    await asyncio.sleep(0.3)
    assert (await world.read(order)).state is OrderState.WAITING


async def test_S3_a_failure_is_never_answered_with_2xx(world: World) -> None:
    for code in ("wx_native", "alipay_qr", "mock"):
        for body in (b"", b"{}", b"a=b&sign=c", b"\xff\x00", b"<xml/>"):
            status, _ = await world.call_back(code, body, {})
            assert status >= 400, (code, body)


async def test_S4_notifications_are_signed_and_say_what_happened(world: World) -> None:
    await world.paid("mock")
    post = (await world.deliver())[0]
    assert post.headers["webhook-signature"].startswith("v1,")
    assert {"webhook-id", "webhook-timestamp"} <= set(post.headers)
    assert {"app_key", "pay_order_id", "merchant_order_id", "amount", "paid_amount", "state"} <= set(post.json["data"])


async def test_S5_a_notification_names_its_app_and_order(world: World) -> None:
    other = await world.add_app("other", codes=("mock",))
    mine = await world.paid("mock", merchant_order_id="1")
    theirs = await world.services.orders.create(other, world.new_order(merchant_order_id="1"))
    assert mine.id != theirs.id
    data = (await world.deliver())[0].json["data"]
    assert (data["app_key"], data["pay_order_id"]) == ("shop", mine.number)


async def test_S7_secrets_are_write_only(world: World) -> None:
    view = await world.services.channels.get(OPERATOR, world.channels["wx_native"])
    assert set(view.secrets) == {"private_key", "api_v3_key", "mch_key"}
    assert not set(view.secrets) & set(view.config)
    assert world.configs["wx_native"][1]["api_v3_key"] not in repr(view)


async def test_S8_only_the_owner_may_submit(world: World) -> None:
    order = await world.order()
    stranger = await world.add_app("other", codes=("mock",))
    from paycenter_server.services.submit import NewSubmit

    with pytest.raises(PayCenterError) as caught:
        await world.services.submit.submit(stranger, NewSubmit(order.number, "mock", {}, "", "", ""))
    assert caught.value.reason is Reason.ORDER_NOT_FOUND


async def test_S9_mock_is_refused_in_production(world: World) -> None:
    order = await world.order()
    production = type(world.services.context.options)(
        **{name: getattr(world.services.context.options, name) for name in world.services.context.options.__slots__}
        | {"production": True}
    )
    world.services.context.options = production
    with pytest.raises(PayCenterError) as caught:
        await world.submit(order, "mock")
    assert caught.value.reason is Reason.CHANNEL_NOT_ALLOWED


async def test_S10_private_receivers_are_refused_unless_allowed(world: World) -> None:
    guard = AddressGuard([])
    for address in ("127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:127.0.0.1", "0.0.0.0", "fd00::1", "224.0.0.1"):
        assert not guard.permits(address), address
    assert guard.permits("203.0.114.9")
    with pytest.raises(PayCenterError) as caught:
        await world.services.apps.update(OPERATOR, "shop", {"order_notify_url": "file:///etc/passwd"})
    assert caught.value.reason is Reason.INVALID_FIELD
