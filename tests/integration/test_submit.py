from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta

import pytest
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.states import AttemptState, OrderState
from paycenter_server.services.submit import NewSubmit
from support.world import OPERATOR, World


async def attempts(world: World) -> list[tuple[str, str, str]]:
    rows = await world.rows("SELECT channel_code, state, id::text AS out FROM pay_attempt ORDER BY pay_attempt.id")
    return [(row["channel_code"], row["state"], row["out"]) for row in rows]


async def test_submit_again_shows_the_same_code(world: World) -> None:
    order = await world.order()
    first = await world.submit(order)
    again = await world.submit(order)
    assert first.out_trade_no == again.out_trade_no
    assert first.display_content == again.display_content
    assert len(await attempts(world)) == 1


async def test_an_old_code_is_asked_for_again_under_the_same_number(world: World) -> None:
    order = await world.order()
    first = await world.submit(order)
    await world.rows("UPDATE pay_attempt SET update_time = update_time - interval '90 minutes'")
    again = await world.submit(order)
    assert first.out_trade_no == again.out_trade_no
    assert again.display_content


async def test_concurrent_submits_share_one_number(world: World) -> None:
    order = await world.order()
    results = await asyncio.gather(*(world.submit(order) for _ in range(6)))
    assert len({attempt.out_trade_no for attempt in results}) == 1
    assert len(await attempts(world)) == 1


async def test_another_channel_closes_the_earlier_attempt_there(world: World) -> None:
    order = await world.order()
    first = await world.submit(order, "wx_native")
    second = await world.submit(order, "alipay_qr")
    assert [(code, state) for code, state, _ in await attempts(world)] == [("wx_native", "CLOSED"), ("alipay_qr", "WAITING")]
    trade = await world.simulator.get(f"/simulator/trades/{first.out_trade_no}")
    assert trade["state"] == "CLOSED"
    await world.simulator.pay(second.out_trade_no)
    await world.until(order, "SUCCESS")


async def test_paid_but_not_notified_is_booked_by_the_next_submit(world: World) -> None:
    order = await world.order()
    first = await world.submit(order, "wx_native")
    await world.simulator.pay(first.out_trade_no, notify=False)
    with pytest.raises(PayCenterError) as caught:
        await world.submit(order, "alipay_qr")
    assert caught.value.reason is Reason.ORDER_PAID
    assert (await world.read(order)).channel_code == "wx_native"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"channel_code": "wx_pub"}, Reason.CHANNEL_NOT_FOUND),
        ({"order_number": "O" + "0" * 26}, Reason.ORDER_NOT_FOUND),
        ({"order_number": "nonsense"}, Reason.ORDER_NOT_FOUND),
        ({"display_mode": "form"}, Reason.INVALID_FIELD),
        ({"return_url": "ftp://x"}, Reason.INVALID_FIELD),
        ({"user_ip": "x"}, Reason.INVALID_FIELD),
        ({"extras": {"a" * 65: "1"}}, Reason.INVALID_FIELD),
        ({"extras": {str(index): "1" for index in range(17)}}, Reason.INVALID_FIELD),
    ],
)
async def test_refusals_have_their_reason(world: World, changes: dict[str, object], expected: Reason) -> None:
    order = await world.order()
    values: dict[str, object] = {
        "order_number": order.number, "channel_code": "wx_native", "extras": {}, "display_mode": "", "return_url": "",
        "user_ip": "", **changes,
    }  # fmt: skip
    with pytest.raises(PayCenterError) as caught:
        await world.services.submit.submit(world.caller, NewSubmit(**values))  # type: ignore[arg-type]
    assert caught.value.reason is expected
    assert await attempts(world) == []


async def test_disabled_channel_and_expired_order(world: World) -> None:
    order = await world.order()
    await world.services.channels.update(OPERATOR, world.channels["mock"], {"enabled": False}, "", None)
    with pytest.raises(PayCenterError) as caught:
        await world.submit(order, "mock")
    assert caught.value.reason is Reason.CHANNEL_DISABLED
    world.clock.advance(7201)
    with pytest.raises(PayCenterError) as caught:
        await world.submit(order, "wx_native")
    assert caught.value.reason is Reason.ORDER_EXPIRED


async def test_form_mode_of_alipay_pc(world: World) -> None:
    order = await world.order(subject='"><script>alert(1)</script>')
    new = NewSubmit(order.number, "alipay_pc", {}, "form", "https://shop.test/back", "")
    _, attempt = await world.services.submit.submit(world.caller, new)
    assert attempt.display_mode == "form"
    assert "<script>alert(1)" not in attempt.display_content


@pytest.mark.parametrize(
    ("behaviour", "state", "attempt_state"),
    [
        ("success", OrderState.SUCCESS, AttemptState.SUCCESS),
        ("timeout", OrderState.SUCCESS, AttemptState.SUCCESS),
        ("late", OrderState.WAITING, AttemptState.WAITING),
    ],
)
async def test_mock_behaviours(world: World, behaviour: str, state: OrderState, attempt_state: AttemptState) -> None:
    order = await world.order()
    attempt = await world.submit(order, "mock", behaviour=behaviour)
    assert attempt.state is attempt_state
    assert (await world.read(order)).state is state


async def test_mock_failure_is_refused_and_another_try_gets_a_new_number(world: World) -> None:
    order = await world.order()
    with pytest.raises(PayCenterError) as caught:
        await world.submit(order, "mock", behaviour="failure")
    assert caught.value.reason is Reason.CHANNEL_REFUSED
    assert caught.value.metadata["channel_error_code"] == "MOCK_FAILURE"
    await world.submit(order, "mock")
    found = await attempts(world)
    assert [state for _, state, _ in found] == ["CLOSED", "SUCCESS"]


async def test_channel_refusal_carries_the_channels_words(world: World) -> None:
    order = await world.order()
    # The channel knows no such merchant: its own code and words come through.
    view = world.services.channels
    family, config = world.configs["wx_native"]
    await view.update(OPERATOR, world.channels["wx_native"], {}, family, {**config, "appid": "wx0000000000000000"})
    with pytest.raises(PayCenterError) as caught:
        await world.submit(order)
    assert caught.value.reason is Reason.CHANNEL_REFUSED
    assert caught.value.metadata["channel_error_code"]
    assert [state for _, state, _ in await attempts(world)] == ["CLOSED"]


async def test_a_refused_repeat_of_a_code_that_was_shown_is_decided_by_the_channel(world: World) -> None:
    order = await world.order()
    attempt = await world.submit(order)
    await world.simulator.pay(attempt.out_trade_no, notify=False)
    await world.rows("UPDATE pay_attempt SET update_time = update_time - interval '90 minutes'")
    # Asked again, the channel says that the order is paid: that is booked, not refused.
    again = await world.submit(order)
    assert again.state is AttemptState.SUCCESS
    other = await world.order()
    shown = await world.submit(other)
    await world.rows("UPDATE pay_attempt SET update_time = update_time - interval '90 minutes' WHERE state = 'WAITING'")
    await world.simulator.post(f"/simulator/close/{shown.out_trade_no}")
    with pytest.raises(PayCenterError) as caught:
        await world.submit(other)
    assert caught.value.reason is Reason.CHANNEL_REFUSED
    assert await world.value("SELECT state FROM pay_attempt WHERE order_id = $1", other.id) == "CLOSED"


async def test_a_channels_own_limits_are_named_before_anything_is_sent(world: World) -> None:
    await world.add_channel("wx_pub")
    order = await world.order()
    with pytest.raises(PayCenterError) as caught:
        await world.submit(order, "wx_pub", openid="not an openid")
    assert [violation.field for violation in caught.value.violations] == ["channel_extras.openid"]
    assert await attempts(world) == []


async def test_encrypted_contents(world: World) -> None:
    keys = json.loads((world.keys_dir / "keys.json").read_text())
    family, config = world.configs["alipay_qr"]
    world.configs["alipay_qr"] = family, {**config, "encrypt_key": keys["alipay"]["aes_key"]}
    await world.services.channels.update(OPERATOR, world.channels["alipay_qr"], {}, *world.configs["alipay_qr"])
    order = await world.paid("alipay_qr")
    refund = await world.refund(order, 40)
    assert refund.state.value == "SUCCESS"


@pytest.mark.parametrize(("code", "days"), [("wx_native", 7), ("wx_pub", 7), ("alipay_qr", 15), ("alipay_lite", 15)])
async def test_an_order_that_outlives_what_its_channel_allows(world: World, code: str, days: int) -> None:
    extras = {"wx_pub": {"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"}, "alipay_lite": {"buyer_id": "2088123412341234"}}.get(code, {})
    if code not in world.channels:
        await world.add_channel(code)
    order = await world.order(expire_time=world.clock.now() + timedelta(days=30))
    before = world.clock.now().replace(microsecond=0)
    first = await world.submit(order, code, **extras)
    assert before <= first.expire_time - timedelta(days=days) <= world.clock.now()
    assert first.expire_time.microsecond == 0
    trade = await world.simulator.get(f"/simulator/trades/{first.out_trade_no}")
    assert datetime.fromisoformat(trade["expires"]) == first.expire_time
    again = await world.submit(order, code, **extras)
    assert again.out_trade_no == first.out_trade_no
    # The channels check signatures by real time, so the attempt is made old, not the clock new.
    await world.rows("UPDATE pay_attempt SET expire_time = $1", world.clock.now() - timedelta(seconds=1))
    second = await world.submit(order, code, **extras)
    assert second.out_trade_no != first.out_trade_no
    assert [state for _, state, _ in await attempts(world)][-1] == "WAITING"
    await world.simulator.pay(second.out_trade_no)
    paid = await world.until(order, "SUCCESS")
    assert paid.paid_amount == order.amount
    assert await world.cases() == []
