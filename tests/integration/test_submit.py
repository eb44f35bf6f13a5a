from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta

import pytest
from paycenter_server.domain.attempts import MOST_ATTEMPTS
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.states import AttemptState, OrderState
from paycenter_server.services.attempts_submission import NewSubmission
from support.locks import transaction, waiting_for_lock
from support.system import OPERATOR, PayCenterSystem
from support.waiting import ended


async def attempts(system: PayCenterSystem) -> list[tuple[str, str, str]]:
    rows = await system.rows("SELECT channel_code, state, id::text AS out FROM pay_attempt ORDER BY pay_attempt.id")
    return [(row["channel_code"], row["state"], row["out"]) for row in rows]


async def test_submit_again_shows_the_same_code(system: PayCenterSystem) -> None:
    order = await system.order()
    first = await system.submit(order)
    again = await system.submit(order)
    assert first.out_trade_no == again.out_trade_no
    assert first.display_content == again.display_content
    assert len(await attempts(system)) == 1


async def test_an_old_code_is_requested_again_under_the_same_number(system: PayCenterSystem) -> None:
    order = await system.order()
    first = await system.submit(order)
    await system.rows("UPDATE pay_attempt SET update_time = update_time - interval '90 minutes'")
    again = await system.submit(order)
    assert first.out_trade_no == again.out_trade_no
    assert again.display_content


async def test_concurrent_submits_share_one_number(system: PayCenterSystem) -> None:
    order = await system.order()
    results = await asyncio.gather(*(system.submit(order) for _ in range(6)))
    assert len({attempt.out_trade_no for attempt in results}) == 1
    assert len(await attempts(system)) == 1


async def test_another_channel_closes_the_earlier_attempt_there(system: PayCenterSystem) -> None:
    order = await system.order()
    first = await system.submit(order, "wx_native")
    second = await system.submit(order, "alipay_qr")
    assert [(code, state) for code, state, _ in await attempts(system)] == [("wx_native", "CLOSED"), ("alipay_qr", "WAITING")]
    trade = await system.simulator.get(f"/simulator/trades/{first.out_trade_no}")
    assert trade["state"] == "CLOSED"
    await system.simulator.pay(second.out_trade_no)
    await system.until(order, "SUCCESS")


async def test_paid_without_a_callback_is_booked_by_the_next_submit(system: PayCenterSystem) -> None:
    order = await system.order()
    first = await system.submit(order, "wx_native")
    await system.simulator.pay(first.out_trade_no, notify=False)
    with pytest.raises(PayCenterError) as caught:
        await system.submit(order, "alipay_qr")
    assert caught.value.reason is Reason.ORDER_PAID
    assert (await system.read(order)).channel_code == "wx_native"


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
async def test_refusals_have_their_reason(system: PayCenterSystem, changes: dict[str, object], expected: Reason) -> None:
    order = await system.order()
    values: dict[str, object] = {
        "order_number": order.number, "channel_code": "wx_native", "extras": {}, "display_mode": "", "return_url": "",
        "user_ip": "", **changes,
    }  # fmt: skip
    with pytest.raises(PayCenterError) as caught:
        await system.services.submission.submit(system.caller, NewSubmission(**values))  # type: ignore[arg-type]
    assert caught.value.reason is expected
    assert await attempts(system) == []


async def test_disabled_channel_and_expired_order(system: PayCenterSystem) -> None:
    order = await system.order()
    await system.services.channels.update(OPERATOR, system.channels["mock"], {"enabled": False}, "", None)
    with pytest.raises(PayCenterError) as caught:
        await system.submit(order, "mock")
    assert caught.value.reason is Reason.CHANNEL_DISABLED
    system.clock.advance(7201)
    with pytest.raises(PayCenterError) as caught:
        await system.submit(order, "wx_native")
    assert caught.value.reason is Reason.ORDER_EXPIRED


async def test_form_mode_of_alipay_pc(system: PayCenterSystem) -> None:
    order = await system.order(subject='"><script>alert(1)</script>')
    new = NewSubmission(order.number, "alipay_pc", {}, "form", "https://shop.test/back", "")
    _, attempt = await system.services.submission.submit(system.caller, new)
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
async def test_mock_behaviours(system: PayCenterSystem, behaviour: str, state: OrderState, attempt_state: AttemptState) -> None:
    order = await system.order()
    attempt = await system.submit(order, "mock", behaviour=behaviour)
    assert attempt.state is attempt_state
    assert (await system.read(order)).state is state


async def test_mock_failure_is_refused_and_another_try_gets_a_new_number(system: PayCenterSystem) -> None:
    order = await system.order()
    with pytest.raises(PayCenterError) as caught:
        await system.submit(order, "mock", behaviour="failure")
    assert caught.value.reason is Reason.CHANNEL_REFUSED
    assert caught.value.metadata["channel_error_code"] == "MOCK_FAILURE"
    await system.submit(order, "mock")
    found = await attempts(system)
    assert [state for _, state, _ in found] == ["CLOSED", "SUCCESS"]


async def test_a_refusal_has_the_channels_code_and_message(system: PayCenterSystem) -> None:
    order = await system.order()
    # The channel knows no such merchant: the error has its code and message.
    view = system.services.channels
    family, config = system.configs["wx_native"]
    await view.update(OPERATOR, system.channels["wx_native"], {}, family, {**config, "appid": "wx0000000000000000"})
    with pytest.raises(PayCenterError) as caught:
        await system.submit(order)
    assert caught.value.reason is Reason.CHANNEL_REFUSED
    assert caught.value.metadata["channel_error_code"]
    assert [state for _, state, _ in await attempts(system)] == ["CLOSED"]


async def test_a_refused_repeat_of_a_code_that_was_shown_is_decided_by_the_channel(system: PayCenterSystem) -> None:
    order = await system.order()
    attempt = await system.submit(order)
    await system.simulator.pay(attempt.out_trade_no, notify=False)
    await system.rows("UPDATE pay_attempt SET update_time = update_time - interval '90 minutes'")
    # The repeated query finds the order paid: it is booked and not refused.
    again = await system.submit(order)
    assert again.state is AttemptState.SUCCESS
    other = await system.order()
    shown = await system.submit(other)
    await system.rows("UPDATE pay_attempt SET update_time = update_time - interval '90 minutes' WHERE state = 'WAITING'")
    await system.simulator.post(f"/simulator/close/{shown.out_trade_no}")
    with pytest.raises(PayCenterError) as caught:
        await system.submit(other)
    assert caught.value.reason is Reason.CHANNEL_REFUSED
    assert await system.value("SELECT state FROM pay_attempt WHERE order_id = $1", other.id) == "CLOSED"


async def test_a_channels_own_limits_are_named_before_anything_is_sent(system: PayCenterSystem) -> None:
    await system.add_channel("wx_pub")
    order = await system.order()
    with pytest.raises(PayCenterError) as caught:
        await system.submit(order, "wx_pub", openid="not an openid")
    assert [violation.field for violation in caught.value.violations] == ["channel_extras.openid"]
    assert await attempts(system) == []


async def test_encrypted_contents(system: PayCenterSystem) -> None:
    keys = json.loads((system.keys_dir / "keys.json").read_text())
    family, config = system.configs["alipay_qr"]
    system.configs["alipay_qr"] = family, {**config, "encrypt_key": keys["alipay"]["aes_key"]}
    await system.services.channels.update(OPERATOR, system.channels["alipay_qr"], {}, *system.configs["alipay_qr"])
    order = await system.paid("alipay_qr")
    refund = await system.refund(order, 40)
    assert refund.state.value == "SUCCESS"


@pytest.mark.parametrize(("code", "days"), [("wx_native", 7), ("wx_pub", 7), ("alipay_qr", 15), ("alipay_lite", 15)])
async def test_an_order_that_outlives_what_its_channel_allows(system: PayCenterSystem, code: str, days: int) -> None:
    extras = {"wx_pub": {"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"}, "alipay_lite": {"buyer_id": "2088123412341234"}}.get(code, {})
    if code not in system.channels:
        await system.add_channel(code)
    order = await system.order(expire_time=system.clock.now() + timedelta(days=30))
    before = system.clock.now().replace(microsecond=0)
    first = await system.submit(order, code, **extras)
    assert before <= first.expire_time - timedelta(days=days) <= system.clock.now()
    assert first.expire_time.microsecond == 0
    trade = await system.simulator.get(f"/simulator/trades/{first.out_trade_no}")
    assert datetime.fromisoformat(trade["expires"]) == first.expire_time
    again = await system.submit(order, code, **extras)
    assert again.out_trade_no == first.out_trade_no
    # The channels check signatures by real time, so the attempt is made old, not the clock new.
    await system.rows("UPDATE pay_attempt SET expire_time = $1", system.clock.now() - timedelta(seconds=1))
    second = await system.submit(order, code, **extras)
    assert second.out_trade_no != first.out_trade_no
    assert [state for _, state, _ in await attempts(system)][-1] == "WAITING"
    await system.simulator.pay(second.out_trade_no)
    paid = await system.until(order, "SUCCESS")
    assert paid.paid_amount == order.amount
    assert await system.cases() == []


async def test_a_channel_that_cannot_be_reached_decides_at_once(system: PayCenterSystem) -> None:
    """Connection refused: nothing was sent, so no attempt is open, and another channel can be offered at once."""
    number = system.channels["wx_native"]
    family, config = system.configs["wx_native"]
    await system.services.channels.update(OPERATOR, number, {}, family, {**config, "gateway_url": "http://127.0.0.1:1"})
    order = await system.order()
    with pytest.raises(PayCenterError, match="connection refused") as caught:
        await system.submit(order, "wx_native")
    assert caught.value.reason is Reason.CHANNEL_UNREACHABLE
    assert caught.value.retry_after
    (row,) = await system.rows("SELECT * FROM pay_attempt")
    assert (row["state"], row["channel_error_code"], row["next_check_time"]) == ("CLOSED", "NOT_SENT", None)
    assert row["channel_error_message"] == "not sent: connection refused by 127.0.0.1"
    await system.submit(order, "alipay_qr")
    assert [(code, state) for code, state, _ in await attempts(system)] == [("wx_native", "CLOSED"), ("alipay_qr", "WAITING")]


async def test_a_repeat_that_was_not_sent_keeps_what_was_shown(system: PayCenterSystem) -> None:
    order = await system.order()
    shown = await system.submit(order)
    await system.rows("UPDATE pay_attempt SET update_time = update_time - interval '90 minutes'")
    family, config = system.configs["wx_native"]
    update = system.services.channels.update
    await update(OPERATOR, system.channels["wx_native"], {}, family, {**config, "gateway_url": "http://127.0.0.1:1"})
    with pytest.raises(PayCenterError) as caught:
        await system.submit(order)
    assert caught.value.reason is Reason.CHANNEL_UNREACHABLE
    await update(OPERATOR, system.channels["wx_native"], {}, family, config)
    await system.simulator.pay(shown.out_trade_no)
    assert (await system.until(order, "SUCCESS")).paid_amount == 100


async def test_a_changed_channel_is_used_at_once_by_the_process_that_changed_it(system: PayCenterSystem) -> None:
    assert (await system.submit(await system.order())).display_content
    await system.services.channels.update(OPERATOR, system.channels["wx_native"], {"fee_rate_ppm": 38_000}, "", None)
    order = await system.paid()
    assert (order.channel_fee_rate_ppm, order.channel_fee_amount) == (38_000, 4)


async def test_an_expired_order_is_order_expired_before_and_after_its_close(system: PayCenterSystem) -> None:
    order = await system.order(expire_time=system.clock.now() + timedelta(minutes=5))
    system.clock.advance(301)
    for _ in range(2):
        with pytest.raises(PayCenterError) as caught:
            await system.submit(order)
        assert caught.value.reason is Reason.ORDER_EXPIRED
        await system.services.jobs.expire_orders()
    assert (await system.read(order)).state is OrderState.CLOSED


async def test_an_order_without_expire_time_lives_for_half_an_hour(system: PayCenterSystem) -> None:
    order = await system.order(expire_time=None)
    assert timedelta(minutes=29, seconds=58) < order.expire_time - system.clock.now() <= timedelta(minutes=30)


async def test_a_repeat_of_what_was_not_shown_yet_is_not_closed_when_it_was_not_sent(system: PayCenterSystem) -> None:
    """The answer to the first send was lost, so it may be open at the channel; that the second was not sent changes nothing."""
    order = await system.order()
    await system.simulator.fault("wx.native", "error_after_commit")
    await system.simulator.fault("wx.query", "reset_before_commit")
    with pytest.raises(PayCenterError) as caught:
        await system.submit(order)
    assert caught.value.reason is Reason.CHANNEL_UNCLEAR
    family, config = system.configs["wx_native"]
    unreachable = {**config, "gateway_url": "http://127.0.0.1:1"}
    await system.services.channels.update(OPERATOR, system.channels["wx_native"], {}, family, unreachable)
    with pytest.raises(PayCenterError) as caught:
        await system.submit(order)
    assert caught.value.reason is Reason.CHANNEL_UNREACHABLE
    assert [state for _, state, _ in await attempts(system)] == ["UNKNOWN"]


async def with_attempts(system: PayCenterSystem, order: PayOrder, total: int) -> None:
    """Give an order with at least one attempt closed copies of it, up to this number of attempts."""
    columns = [row["name"] for row in await system.rows(
        "SELECT column_name AS name FROM information_schema.columns WHERE table_name = 'pay_attempt'"
    )]  # fmt: skip
    other = {"id": "gen_random_uuid()", "state": "'CLOSED'", "next_check_time": "NULL::timestamptz"}
    await system.rows(
        f"""INSERT INTO pay_attempt ({", ".join(columns)})
            SELECT {", ".join(other.get(name, name) for name in columns)}
            FROM (SELECT *, count(*) OVER () AS count FROM pay_attempt WHERE order_id = $1 LIMIT 1) a
            CROSS JOIN LATERAL generate_series(1, $2 - a.count) n""",
        order.id, total,
    )  # fmt: skip


async def count(system: PayCenterSystem, order: PayOrder) -> int:
    number = await system.value("SELECT count(*) FROM pay_attempt WHERE order_id = $1", order.id)
    assert isinstance(number, int)
    return number


async def test_an_order_has_at_most_so_many_attempts(system: PayCenterSystem) -> None:
    """A submit beyond it is refused before the open attempt is closed, so that the payer can still pay."""
    order = await system.order()
    await system.submit(order, "wx_native")
    await with_attempts(system, order, MOST_ATTEMPTS - 1)
    last = await system.submit(order, "wx_native", return_url="https://shop.test/2")
    assert await count(system, order) == MOST_ATTEMPTS
    with pytest.raises(PayCenterError) as caught:
        await system.submit(order, "wx_native", return_url="https://shop.test/3")
    assert caught.value.reason is Reason.TOO_MANY_ATTEMPTS
    assert caught.value.metadata == {"pay_order_id": order.number}
    assert caught.value.retry_after is None
    assert "close it, and create a new one" in caught.value.message
    assert await count(system, order) == MOST_ATTEMPTS
    assert await system.value("SELECT state FROM pay_attempt WHERE id = $1", last.id) == "WAITING"
    await system.simulator.pay(last.out_trade_no)
    await system.until(order, "SUCCESS")


async def test_at_the_limit_the_same_submit_uses_its_attempt_again(system: PayCenterSystem) -> None:
    order = await system.order()
    first = await system.submit(order, "wx_native")
    await with_attempts(system, order, MOST_ATTEMPTS)
    assert (await system.submit(order, "wx_native")).out_trade_no == first.out_trade_no
    await system.rows("UPDATE pay_attempt SET update_time = update_time - interval '90 minutes'")
    again = await system.submit(order, "wx_native")  # its code is requested again
    assert again.out_trade_no == first.out_trade_no
    assert again.display_content
    assert await count(system, order) == MOST_ATTEMPTS


async def test_an_order_that_has_got_its_last_attempt_meanwhile_gets_no_other_one(system: PayCenterSystem) -> None:
    """The submit has read the order with one attempt less, and waits for its lock."""
    order = await system.order()
    first = await system.submit(order, "wx_native")
    await system.rows("UPDATE pay_attempt SET state = 'CLOSED', next_check_time = NULL WHERE id = $1", first.id)
    await with_attempts(system, order, MOST_ATTEMPTS - 1)
    async with transaction(system) as other:
        await other.execute("UPDATE pay_order SET submit_version = submit_version + 1 WHERE id = $1", order.id)
        submit = asyncio.create_task(system.submit(order, "wx_native"))
        await waiting_for_lock(system, [submit])
        await with_attempts(system, order, MOST_ATTEMPTS)
    (refused,) = await ended([submit])
    assert isinstance(refused, PayCenterError)
    assert refused.reason is Reason.TOO_MANY_ATTEMPTS
    assert await count(system, order) == MOST_ATTEMPTS
