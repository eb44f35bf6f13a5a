"""The faults of the reference system that apply here, by the numbers of its analysis (§7.1). Not here: S6 (wallets)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.states import OrderState
from paycenter_server.workers.notification_sender import AddressGuard
from standardwebhooks import Webhook, WebhookVerificationError
from support.facts import configured
from support.system import OPERATOR, PayCenterSystem
from support.waiting import eventually


async def test_S1_alipay_values_are_read_from_what_was_verified(system: PayCenterSystem) -> None:
    victim = await system.order(amount=999_900)
    target = await system.submit(victim, "alipay_qr")
    cheap = await system.order(amount=1)
    paid = await system.submit(cheap, "alipay_pc")
    async with system.session.get(paid.display_content):
        pass
    await system.simulator.pay(paid.out_trade_no)
    await system.until(cheap, "SUCCESS")
    # The signed parameters of the return_url are visible to every buyer: replayed in the query, with another body.
    log = await system.simulator.get(f"/simulator/log?out_trade_no={paid.out_trade_no}")
    forms = [entry for entry in log if "trade_status=TRADE_SUCCESS" in str(entry)]
    signed = next(body for body in _bodies(forms) if "sign=" in body)
    forged = urlencode({"trade_status": "TRADE_SUCCESS", "out_trade_no": target.out_trade_no, "total_amount": "9999.00"})
    for body, kind in ((forged, "text/plain"), (forged, "application/x-www-form-urlencoded")):
        url = f"{system.sidecar}/callback/order/{system.channels['alipay_qr']}?{signed}"
        async with system.session.post(url, data=body.encode(), headers={"content-type": kind}) as response:
            assert response.status >= 400
    changed = dict(parse_qsl(signed, keep_blank_values=True)) | {"out_trade_no": target.out_trade_no}
    status, _ = await system.call_back("alipay_qr", urlencode(changed).encode(), {})
    assert status >= 400
    assert (await system.read(victim)).state is OrderState.WAITING


def _bodies(entries: object) -> Iterator[str]:
    if isinstance(entries, dict):
        for value in entries.values():
            yield from _bodies(value)
    elif isinstance(entries, list):
        for value in entries:
            yield from _bodies(value)
    elif isinstance(entries, str) and "trade_status=" in entries:
        yield entries


async def first_answer(system: PayCenterSystem, number: str) -> bool:
    """Whether the first notification of a trade was acknowledged."""

    async def sent() -> list[Any]:
        notifications = (await system.simulator.get(f"/simulator/trades/{number}"))["notifications"]
        return [send for notification in notifications for send in notification["attempts"] if "accepted" in send]

    return bool((await eventually(sent))[0]["accepted"])


async def test_S2_the_account_of_a_message_is_compared(system: PayCenterSystem) -> None:
    # The same keys, another application: its genuine callback must not settle our order.
    order = await system.order()
    attempt = await system.submit(order, "alipay_qr")
    family, config = system.configs["alipay_qr"]
    await system.services.channels.update(
        OPERATOR, system.channels["alipay_qr"], {}, family, {**config, "seller_id": "2088000000000000"}
    )
    number = (await system.services.channels.get(OPERATOR, system.channels["alipay_qr"])).account.number
    await system.services.accounts.update(OPERATOR, number, {}, "", None, 0)  # the keys before the change are not valid either
    system.services.gateway.channels._known.clear()
    await system.simulator.pay(attempt.out_trade_no)
    assert not await first_answer(system, attempt.out_trade_no)
    assert (await system.read(order)).state is OrderState.WAITING


@pytest.mark.parametrize("code", ["wx_native", "alipay_qr"])
@pytest.mark.parametrize("amount", [1, 99, 101])
async def test_S2_the_amount_of_a_message_is_compared(system: PayCenterSystem, code: str, amount: int) -> None:
    order = await system.order(amount=100)
    attempt = await system.submit(order, code)
    await system.simulator.pay(attempt.out_trade_no, amount=amount)
    case = await system.first_case(order)
    assert (case["kind"], case["amount"]) == ("WRONG_AMOUNT", amount)
    after = await system.read(order)
    assert (after.state, after.paid_amount) == (OrderState.WAITING, 0)


async def test_S3_a_failure_is_never_answered_with_2xx(system: PayCenterSystem) -> None:
    for code in ("wx_native", "alipay_qr", "mock"):
        for body in (b"", b"{}", b"a=b&sign=c", b"\xff\x00", b"<xml/>"):
            status, _ = await system.call_back(code, body, {})
            assert status >= 400, (code, body)
    status, _ = await system.call_back("C" + "0" * 26, b"{}", {})
    assert status == 404


@pytest.mark.parametrize("code", ["wx_native", "alipay_qr"])
async def test_S3_what_does_not_match_is_never_answered_with_2xx(system: PayCenterSystem, code: str) -> None:
    """Genuine, but of another account."""
    attempt = await system.submit(await system.order(), code)
    channel = await configured(system, code)
    channel.codec.account = {**channel.codec.account, sorted(channel.codec.account)[0]: "another"}
    await system.simulator.pay(attempt.out_trade_no)
    assert not await first_answer(system, attempt.out_trade_no)


@pytest.mark.parametrize("code", ["wx_native", "alipay_qr"])
async def test_S3_what_cannot_be_stored_is_never_answered_with_2xx(system: PayCenterSystem, code: str) -> None:
    attempt = await system.submit(await system.order(), code)
    await system.rows("ALTER TABLE pay_notify_task ADD CONSTRAINT broken CHECK (false) NOT VALID")
    try:
        await system.simulator.pay(attempt.out_trade_no)
        assert not await first_answer(system, attempt.out_trade_no)
    finally:
        await system.rows("ALTER TABLE pay_notify_task DROP CONSTRAINT broken")


async def test_S4_notifications_are_signed_and_state_the_event(system: PayCenterSystem) -> None:
    order = await system.paid("mock", amount=12_345)
    (post,) = await system.deliver()
    Webhook(system.secrets["shop"]).verify(post.body, post.headers)
    other = await system.add_app("other", codes=())
    assert other.app_key == "other"
    for secret, body in ((system.secrets["other"], post.body), (system.secrets["shop"], post.body.replace(b"12345", b"12346"))):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, post.headers)
    data = post.json["data"]
    assert (post.json["type"], data["app_key"], data["pay_order_id"]) == ("pay_order.success", "shop", order.number)
    assert (data["merchant_order_id"], data["state"]) == (order.merchant_order_id, "SUCCESS")
    assert (data["amount"], data["paid_amount"], data["currency"]) == (12_345, 12_345, "CNY")


async def test_S4_a_secret_that_was_replaced_signs_for_a_day_only(system: PayCenterSystem) -> None:
    await system.services.apps.rotate_notification_secret(OPERATOR, "shop")
    system.clock.advance(86_401)
    await system.paid("mock")
    (post,) = await system.deliver()
    assert len(post.headers["webhook-signature"].split(" ")) == 1
    with pytest.raises(WebhookVerificationError):
        Webhook(system.secrets["shop"]).verify(post.body, post.headers)


async def test_S5_a_notification_names_its_app_and_order(system: PayCenterSystem) -> None:
    other = await system.add_app("other", codes=("mock",))
    mine = await system.paid("mock", merchant_order_id="1")
    theirs = await system.services.orders.create(other, system.new_order(merchant_order_id="1"))
    assert mine.id != theirs.id
    data = (await system.deliver())[0].json["data"]
    assert (data["app_key"], data["pay_order_id"]) == ("shop", mine.number)


async def test_S7_secrets_are_write_only(system: PayCenterSystem) -> None:
    view = await system.services.channels.get(OPERATOR, system.channels["wx_native"])
    assert set(view.secrets) == {"private_key", "api_v3_key", "mch_key"}
    assert not set(view.secrets) & set(view.config)
    assert system.configs["wx_native"][1]["api_v3_key"] not in repr(view)


async def test_S8_only_the_owner_may_submit(system: PayCenterSystem) -> None:
    order = await system.order()
    stranger = await system.add_app("other", codes=("mock",))
    from paycenter_server.services.attempts_submission import NewSubmission

    with pytest.raises(PayCenterError) as caught:
        await system.services.submission.submit(stranger, NewSubmission(order.number, "mock", {}, "", "", ""))
    assert caught.value.reason is Reason.ORDER_NOT_FOUND


async def test_S9_mock_is_refused_in_production(system: PayCenterSystem) -> None:
    order = await system.order()
    production = type(system.services.context.options)(
        **{name: getattr(system.services.context.options, name) for name in system.services.context.options.__slots__}
        | {"production": True}
    )
    system.services.context.options = production
    with pytest.raises(PayCenterError) as caught:
        await system.submit(order, "mock")
    assert caught.value.reason is Reason.CHANNEL_NOT_ALLOWED
    assert await system.value("SELECT count(*) FROM pay_attempt") == 0
    # Nor can it be configured there.
    await system.services.channels.delete(OPERATOR, system.channels["mock"])
    with pytest.raises(PayCenterError) as caught:
        await system.add_channel("mock")
    assert caught.value.reason is Reason.CHANNEL_NOT_ALLOWED
    assert await system.value("SELECT count(*) FROM pay_channel WHERE code = 'mock'") == 0


async def test_S10_private_receivers_are_refused_unless_allowed(system: PayCenterSystem) -> None:
    guard = AddressGuard([])
    for address in ("127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:127.0.0.1", "0.0.0.0", "fd00::1", "224.0.0.1"):
        assert not guard.permits(address), address
    assert guard.permits("203.0.114.9")
    with pytest.raises(PayCenterError) as caught:
        await system.services.apps.update(OPERATOR, "shop", {"order_notification_url": "file:///etc/passwd"})
    assert caught.value.reason is Reason.INVALID_FIELD
