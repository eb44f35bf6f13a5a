"""Callbacks by account: at the address of another channel, with earlier keys, and of numbers that are not known here."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from paycenter_server.bootstrap import open_services
from paycenter_server.channels.protocol import Payment, QueryStatus, RefundFacts, RefundOutcome, RefundStatus
from paycenter_server.domain.orders import PayOrder
from paycenter_server.domain.states import OrderState, RefundState
from paycenter_server.services.accounts_keys import OVERLAP
from paycenter_server.services.attempts_submission import NewSubmission
from paycenter_server.services.channels import NewChannel
from paycenter_server.services.payments import Booked, FactsMismatchError
from support.facts import configured
from support.merchants import Caught, Interceptor, Merchant, another_merchant, intercepted, merchant_of
from support.system import CAUSE, OPERATOR, PayCenterSystem
from support.waiting import eventually

WAYS = [("wx_native", "v3"), ("wx_native", "v2"), ("alipay_qr", "")]
# The field with which callbacks are verified or decrypted.
KEYS = dict(zip(WAYS, ("api_v3_key", "mch_key", "alipay_public_key"), strict=True))


@pytest.fixture
async def other(system: PayCenterSystem, other_keys_dir: Path) -> AsyncIterator[Merchant]:
    async with another_merchant(system, other_keys_dir) as merchant:
        yield merchant


@pytest.fixture
async def interceptor(system: PayCenterSystem) -> AsyncIterator[Interceptor]:
    async with intercepted(system) as opened:
        yield opened


async def use(system: PayCenterSystem, code: str, version: str) -> None:
    family, config = merchant_of(system.keys_dir, system.simulator).config(code, version)
    await system.services.channels.update(OPERATOR, system.channels[code], {}, family, config)


async def sibling(system: PayCenterSystem, code: str, family: str, config: dict[str, str]) -> str:
    """A channel of another app with this configuration. Returns its number."""
    await system.add_app("books", codes=())
    new = NewChannel("books", code, 0, "", family, config, enabled=True)
    return (await system.services.channels.create(OPERATOR, new)).channel.number


async def paid(system: PayCenterSystem, interceptor: Interceptor, code: str) -> tuple[PayOrder, Caught]:
    """An order that is paid at the channel, and the callback about it, which has not arrived yet."""
    order = await system.order()
    attempt = await system.submit(order, code)
    await system.simulator.pay(attempt.out_trade_no)
    return order, await interceptor.next()


async def state(system: PayCenterSystem, order: PayOrder) -> OrderState:
    return (await system.read(order)).state


@pytest.mark.parametrize(("code", "version"), WAYS)
async def test_a_callback_at_the_address_of_a_sibling_is_booked_to_its_owner(
    system: PayCenterSystem, interceptor: Interceptor, code: str, version: str
) -> None:
    """The other channel is that of another app over the same account."""
    await use(system, code, version)
    family, config = merchant_of(system.keys_dir, system.simulator).config(code, version)
    address = await sibling(system, code, family, config)
    order, callback = await paid(system, interceptor, code)
    assert await callback.deliver(system, address) in (200, 204)
    after = await system.read(order)
    assert (after.state, after.channel_id) == (OrderState.SUCCESS, order_channel(system, code))
    assert after.channel_fee_rate_ppm == 6000  # that of the owner
    assert await callback.deliver(system, code) in (200, 204)
    assert await system.cases() == []


def order_channel(system: PayCenterSystem, code: str) -> object:
    from paycenter_server.domain.ids import Prefix, decode

    return decode(Prefix.CHANNEL, system.channels[code])


async def test_a_callback_is_booked_although_the_sibling_has_another_appid(
    system: PayCenterSystem, interceptor: Interceptor
) -> None:
    """Both the payment and the refund, which names no appid."""
    family, config = system.configs["wx_native"]
    address = await sibling(system, "wx_native", family, {**config, "appid": "wx0000000000000002"})
    order, callback = await paid(system, interceptor, "wx_native")
    assert await callback.deliver(system, address) == 204
    assert await state(system, order) is OrderState.SUCCESS
    interceptor.caught.clear()
    refund = await system.refund(await system.read(order), 40)
    callback = await interceptor.next()
    assert await system.value("SELECT state FROM pay_refund") == "WAITING"
    assert await callback.deliver(system, address, "refund") == 204
    assert (await system.services.refunds.load(system.caller, refund.number)).state is RefundState.SUCCESS
    assert await system.cases() == []


def keep_for_long(system: PayCenterSystem) -> None:
    """What this process has read of channels is not read again after a second."""
    rows = system.services.gateway.channels._rows
    rows._by_code._seconds = rows._bindings._seconds = 60.0


async def test_a_callback_of_an_account_that_another_process_gave_the_channel_is_booked(
    system: PayCenterSystem, other: Merchant
) -> None:
    """This process keeps which accounts the channel has, and looks again before it refuses a message."""
    keep_for_long(system)
    channel = (await configured(system, "wx_native")).channel
    assert len(await system.services.gateway.channels.all_of(channel.id)) == 1
    async with open_services(system.settings, clock=system.clock, wake_up=system.wake_up) as process:
        await process.channels.update(OPERATOR, channel.number, {}, *other.config("wx_native", "v3"))
        order = await system.order()
        _, attempt = await process.submission.submit(system.caller, NewSubmission(order.number, "wx_native", {}, "", "", ""))
    assert len(await system.services.gateway.channels.all_of(channel.id)) == 1
    await other.simulator.pay(attempt.out_trade_no)
    await system.until(order, "SUCCESS")
    assert len(await system.services.gateway.channels.all_of(channel.id)) == 2


async def test_a_change_of_a_channel_is_seen_at_once_by_the_process_that_makes_it(system: PayCenterSystem, other: Merchant) -> None:
    keep_for_long(system)
    channels, channel = system.services.gateway.channels, (await configured(system, "wx_native")).channel
    assert (len(await channels.all_of(channel.id)), await channels.of_code(channel.app_id, "wx_native")) == (1, channel)
    await system.services.channels.update(OPERATOR, channel.number, {"enabled": False}, *other.config("wx_native", "v3"))
    found = await channels.of_code(channel.app_id, "wx_native")
    assert found is not None
    assert (len(await channels.all_of(channel.id)), found.enabled) == (2, False)
    await system.services.channels.delete(OPERATOR, channel.number)
    assert await channels.of_code(channel.app_id, "wx_native") is None


@pytest.mark.parametrize(("code", "version"), WAYS)
async def test_a_callback_at_an_address_of_another_account_is_refused_without_a_case(
    system: PayCenterSystem, other: Merchant, interceptor: Interceptor, code: str, version: str
) -> None:
    await use(system, code, version)
    address = await sibling(system, code, *other.config(code, version))
    order, callback = await paid(system, interceptor, code)
    assert await callback.deliver(system, address) >= 400
    assert await state(system, order) is OrderState.WAITING
    assert await system.cases() == []
    assert await callback.deliver(system, code) in (200, 204)
    assert await state(system, order) is OrderState.SUCCESS


async def test_a_message_of_another_merchant_with_the_same_key_is_refused_without_a_case(
    system: PayCenterSystem, interceptor: Interceptor
) -> None:
    """Alipay's certificate may be the same for several applications, so the keys alone do not name the account."""
    family, config = system.configs["alipay_qr"]
    address = await sibling(system, "alipay_qr", family, {**config, "app_id": "2021000000000001"})
    order, callback = await paid(system, interceptor, "alipay_qr")
    await system.rows("UPDATE pay_attempt SET id = gen_random_uuid()")  # its number is not known here
    assert await callback.deliver(system, address) >= 400
    assert await system.cases() == []
    assert await state(system, order) is OrderState.WAITING


@pytest.mark.parametrize("code", ["wx_native", "alipay_qr"])
async def test_an_unknown_number_is_one_case_of_its_account(system: PayCenterSystem, interceptor: Interceptor, code: str) -> None:
    """It is reported at both channels of the account."""
    address = await sibling(system, code, *system.configs[code])
    _, callback = await paid(system, interceptor, code)
    await system.rows("UPDATE pay_attempt SET id = gen_random_uuid()")
    for where in (address, code, address):
        assert await callback.deliver(system, where) in (200, 204)
    (case,) = await system.cases()
    view = await system.services.channels.get(OPERATOR, system.channels[code])
    assert (case["kind"], case["detail"]["account_id"]) == ("UNKNOWN_ORDER", view.account.number)


@pytest.mark.parametrize(("code", "version"), WAYS)
async def test_a_callback_with_the_keys_before_a_rotation_is_booked(
    system: PayCenterSystem, other: Merchant, interceptor: Interceptor, code: str, version: str
) -> None:
    await use(system, code, version)
    order, callback = await paid(system, interceptor, code)
    await rotate(system, other, code, version)
    assert await callback.deliver(system, code) in (200, 204)
    assert await state(system, order) is OrderState.SUCCESS


@pytest.mark.parametrize(("code", "version"), WAYS)
async def test_earlier_keys_can_be_ended_at_once(
    system: PayCenterSystem, other: Merchant, interceptor: Interceptor, code: str, version: str
) -> None:
    await use(system, code, version)
    order, callback = await paid(system, interceptor, code)
    number = await rotate(system, other, code, version)
    view = await system.services.accounts.update(OPERATOR, number, {}, "", None, 0)
    assert view.earlier_keys_until is None
    assert await callback.deliver(system, code) >= 400
    assert await state(system, order) is OrderState.WAITING


async def test_earlier_keys_end_with_the_overlap(system: PayCenterSystem, other: Merchant, interceptor: Interceptor) -> None:
    early = await paid(system, interceptor, "alipay_qr")
    late = await paid(system, interceptor, "alipay_qr")
    await rotate(system, other, "alipay_qr", "")
    system.clock.advance(71 * 3600)
    assert await early[1].deliver(system, "alipay_qr") == 200
    system.clock.advance(2 * 3600)
    assert await late[1].deliver(system, "alipay_qr") >= 400
    assert await state(system, late[0]) is OrderState.WAITING


@pytest.mark.parametrize(("code", "field"), [("wx_native", "public_key"), ("alipay_qr", "alipay_public_key")])
async def test_answers_with_the_key_before_a_change_are_read(
    system: PayCenterSystem, other: Merchant, code: str, field: str
) -> None:
    """The operator stores the channel's new key before the channel signs with it."""
    order = await system.order()
    attempt = await system.submit(order, code)
    family, config = system.configs[code]
    changed = {**config, field: other.config(code)[1][field]}
    view = await system.services.channels.update(OPERATOR, system.channels[code], {}, family, changed)
    assert (await system.services.attempts.query(attempt)).status in (QueryStatus.WAITING, QueryStatus.NOT_FOUND)
    assert (await system.submit(await system.order(), code)).display_content
    await system.services.accounts.update(OPERATOR, view.account.number, {}, "", None, 0)
    assert (await system.services.attempts.query(attempt)).status is QueryStatus.UNKNOWN


async def rotate(system: PayCenterSystem, other: Merchant, code: str, version: str) -> str:
    """Change the key that verifies callbacks, by an inline configuration of the channel. Returns the number of the account."""
    name = KEYS[code, version]
    family, config = merchant_of(system.keys_dir, system.simulator).config(code, version)
    changed = {**config, name: other.config(code, version)[1][name]}
    before = await system.services.channels.get(OPERATOR, system.channels[code])
    after = await system.services.channels.update(OPERATOR, system.channels[code], {}, family, changed)
    assert after.account.number == before.account.number
    return after.account.number


async def test_a_callback_for_the_appid_of_the_attempt_is_booked_after_the_appid_has_changed(
    system: PayCenterSystem, interceptor: Interceptor
) -> None:
    order, callback = await paid(system, interceptor, "wx_native")
    family, config = system.configs["wx_native"]
    await system.services.channels.update(
        OPERATOR, system.channels["wx_native"], {}, family, {**config, "appid": "wx0000000000000003"}
    )
    assert await callback.deliver(system, "wx_native") == 204
    assert await state(system, order) is OrderState.SUCCESS
    assert await system.cases() == []


async def test_a_payment_of_an_account_under_the_number_of_another_is_a_case(
    system: PayCenterSystem, other: Merchant, interceptor: Interceptor
) -> None:
    """The money is real, and it is at the account that signed. The attempt with this number is at another account."""
    order, callback = await paid(system, interceptor, "wx_native")
    family, config = other.config("wx_native")
    await system.services.channels.update(OPERATOR, system.channels["wx_native"], {}, family, config)
    await system.rows(
        "UPDATE pay_attempt a SET account_id = b.account_id, binding_id = b.id FROM pay_channel c JOIN pay_binding b "
        "ON b.id = c.binding_id WHERE c.id = a.channel_id"
    )
    assert await callback.deliver(system, "wx_native") == 204
    assert await state(system, order) is OrderState.WAITING
    (case,) = await system.cases()
    assert (case["kind"], case["state"], case["attempt_id"]) == ("UNKNOWN_ORDER", "OPEN", None)


async def test_a_refund_of_an_account_under_the_number_of_another_names_no_attempt(system: PayCenterSystem) -> None:
    order = await system.paid("mock")
    channel = await configured(system, "alipay_qr")
    attempt = (await system.services.orders.attempts(order))[0]
    facts = RefundFacts("R-ELSEWHERE", attempt.out_trade_no, 40, dict(channel.codec.account))
    outcome = RefundOutcome(RefundStatus.SUCCESS, facts)
    await system.services.refund_settlement.receive_callback(channel, outcome, CAUSE)
    (case,) = await system.cases()
    assert (case["kind"], case["attempt_id"], case["order_id"]) == ("REFUND_ELSEWHERE", None, None)


async def test_a_refund_of_another_merchant_with_the_same_keys_is_refused_without_a_case(
    system: PayCenterSystem, interceptor: Interceptor
) -> None:
    family, config = system.configs["wx_native"]
    address = await sibling(system, "wx_native", family, {**config, "mchid": "1900000109"})
    order, callback = await paid(system, interceptor, "wx_native")
    assert await callback.deliver(system, "wx_native") == 204
    interceptor.caught.clear()
    await system.refund(await system.read(order), 40)
    callback = await interceptor.next()
    assert await callback.deliver(system, address, "refund") >= 400
    assert await system.cases() == []
    assert await callback.deliver(system, "wx_native", "refund") == 204
    assert (await system.read(order)).refunded_amount == 40


async def test_an_unknown_number_of_another_merchant_is_no_case(system: PayCenterSystem) -> None:
    channel = await configured(system, "alipay_qr")
    for account in ({}, {**channel.codec.account, "app_id": "2021000000000001"}):
        with pytest.raises(FactsMismatchError):
            await system.services.payments.book(channel, Payment("NOT-OURS", "4200", 100, "CNY", account), CAUSE)
    assert await system.cases() == []
    # Another application of the merchant, or another seller: the money is on the account.
    payment = Payment("NOT-OURS", "4200", 100, "CNY", {**channel.codec.account, "seller_id": "2088000000000000"})
    assert await system.services.payments.book(channel, payment, CAUSE) is Booked.SURPLUS


@pytest.mark.parametrize(
    ("code", "field", "value"), [("alipay_qr", "app_id", "2021000000000077"), ("wx_native", "mchid", "1900000109")]
)
async def test_an_earlier_account_with_the_same_platform_key_is_found(
    system: PayCenterSystem, interceptor: Interceptor, code: str, field: str, value: str
) -> None:
    order, callback = await paid(system, interceptor, code)
    family, config = system.configs[code]
    await system.services.channels.update(OPERATOR, system.channels[code], {}, family, {**config, field: value})
    assert await callback.deliver(system, code) in (200, 204)
    assert await state(system, order) is OrderState.SUCCESS
    assert await system.cases() == []


async def test_callbacks_are_booked_although_the_keys_of_an_earlier_account_are_lost(
    system: PayCenterSystem, other: Merchant, interceptor: Interceptor
) -> None:
    before = await system.services.channels.get(OPERATOR, system.channels["wx_native"])
    family, config = other.config("wx_native")
    await system.services.channels.update(OPERATOR, system.channels["wx_native"], {}, family, config)
    await system.rows(
        "UPDATE pay_account SET version = version + 1, config = jsonb_set(config, '{private_key,sealed}', '\"v1.lost.AAAA\"') "
        "WHERE id = $1", before.account.id,
    )  # fmt: skip
    system.services.gateway.channels.forget_account(before.account.id)
    order = await system.order()
    attempt = await system.submit(order, "wx_native")
    await other.simulator.pay(attempt.out_trade_no)
    callback = await interceptor.next()
    assert await callback.deliver(system, "wx_native") == 204
    assert await state(system, order) is OrderState.SUCCESS


async def test_the_seller_id_before_a_change_is_accepted_while_the_earlier_keys_are_valid(
    system: PayCenterSystem, interceptor: Interceptor
) -> None:
    first, callback = await paid(system, interceptor, "alipay_qr")
    second, late = await paid(system, interceptor, "alipay_qr")
    number = (await system.services.channels.get(OPERATOR, system.channels["alipay_qr"])).account.number
    both = {**system.configs["alipay_pc"][1], **system.configs["alipay_qr"][1], "seller_id": "2088000000000001"}
    keys = {name: text for name, text in both.items() if name != "mode"}
    await system.services.accounts.update(OPERATOR, number, {}, "alipay", keys)
    assert await callback.deliver(system, "alipay_qr") == 200
    assert await state(system, first) is OrderState.SUCCESS
    channel, now = await configured(system, "alipay_qr"), system.clock.now()
    facts = {**channel.codec.account, "seller_id": system.configs["alipay_qr"][1]["seller_id"]}
    assert [channel.differing_fact(facts, now + after) for after in (timedelta(hours=71), OVERLAP)] == ["", "seller_id"]
    await system.services.accounts.update(OPERATOR, number, {}, "", None, 0)
    assert await late.deliver(system, "alipay_qr") >= 400, "the earlier keys have ended"
    assert await state(system, second) is OrderState.WAITING


async def test_an_account_that_changes_while_it_is_read_is_read_again(system: PayCenterSystem) -> None:
    """The keys are parsed in a thread, after the rows were read."""
    channels, signers = system.services.gateway.channels, system.services.context.signers
    known = await configured(system, "wx_native")
    account, binding = known.account.id, known.binding.id
    await system.rows("UPDATE pay_account SET version = version + 1 WHERE id = $1", account)
    channels.forget_account(account)
    go_on, begun = threading.Event(), threading.Semaphore(0)

    def hold() -> None:
        begun.release()
        go_on.wait(30)

    for _ in range(2):
        signers.submit(hold)
    await eventually(lambda: begun._value == 2)
    reading = asyncio.ensure_future(channels.bound(binding))
    await eventually(lambda: signers._work_queue.qsize() == 1)
    await system.rows("UPDATE pay_account SET enabled = false, version = version + 1 WHERE id = $1", account)
    channels.forget_account(account)
    go_on.set()
    assert (await reading).account.enabled
    assert not (await channels.bound(binding)).account.enabled
