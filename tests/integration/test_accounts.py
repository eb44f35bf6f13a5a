"""Accounts: one per identity, shared by channels and apps, and never taken away while money is on its way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from paycenter.v1 import pay_account_service_pb2 as pb
from paycenter.v1 import pay_channel_service_pb2 as channel_pb
from paycenter_server.channels.mock import MockCodec
from paycenter_server.channels.registry import Registry
from paycenter_server.channels.specs import ChannelSpec, ConfigField
from paycenter_server.domain.apps import SurplusPolicy
from paycenter_server.domain.cases import Decision
from paycenter_server.domain.errors import PayCenterError, Reason, Violation
from paycenter_server.domain.ids import Prefix, encode
from paycenter_server.domain.states import OrderState
from paycenter_server.services.accounts import NewAccount
from paycenter_server.services.channels import NewChannel
from paycenter_server.storage import accounts as account_rows
from support.facts import configured, payment_of
from support.grpc_rig import Rig, fails, open_rig
from support.locks import transaction, waiting_for_lock
from support.merchants import another_merchant, intercepted
from support.system import CAUSE, OPERATOR, PayCenterSystem
from support.waiting import ended

WAY = ("appid", "api_version", "sign_type", "use_codepay", "mode", "behaviour")


@pytest.fixture
async def rig(system: PayCenterSystem) -> AsyncIterator[Rig]:
    async with open_rig(system) as opened:
        yield opened


def keys_of(system: PayCenterSystem, code: str, **changes: str) -> dict[str, str]:
    """The fields of a configuration that belong to the account."""
    return {name: value for name, value in {**system.configs[code][1], **changes}.items() if name not in WAY}


def message(family: str, fields: dict[str, str]) -> channel_pb.PayChannelConfig:
    given: dict[str, Any] = {family: fields}
    return channel_pb.PayChannelConfig(**given)


async def account_of(system: PayCenterSystem, code: str) -> str:
    return (await system.services.channels.get(OPERATOR, system.channels[code])).account.number


def raised(result: Any) -> Reason | None:
    return result.reason if isinstance(result, PayCenterError) else None


@pytest.mark.parametrize(("code", "family", "identity"), [("wx_native", "wechatpay", "mchid"), ("alipay_qr", "alipay", "app_id")])
async def test_create_read_change_list_delete(rig: Rig, code: str, family: str, identity: str) -> None:
    keys = keys_of(rig.system, code, **{identity: "2021900000000109"})
    created = await rig.op.accounts.CreatePayAccount(pb.CreatePayAccountRequest(remark="主", config=message(family, keys)))
    made = created.pay_account
    assert (made.family, made.identity, made.name, made.enabled, made.remark) == (
        family, "2021900000000109", "2021900000000109", True, "主",
    )  # fmt: skip
    secrets = set(made.configured_secrets)
    assert "private_key" in secrets
    for name, value in keys.items():
        assert getattr(getattr(made.config, family), name) == ("" if name in secrets else value), name
        assert name not in secrets or value not in str(created)
    got = await rig.op.accounts.GetPayAccount(pb.GetPayAccountRequest(id=made.id))
    assert got.pay_account == made
    changed = await rig.op.accounts.UpdatePayAccount(pb.UpdatePayAccountRequest(id=made.id, name="Shop", remark="", enabled=False))
    assert (changed.pay_account.name, changed.pay_account.remark, changed.pay_account.enabled) == ("Shop", "", False)
    assert changed.pay_account.config == made.config
    assert not changed.pay_account.HasField("earlier_keys_until")
    listed = await rig.op.accounts.ListPayAccounts(pb.ListPayAccountsRequest(family=family))
    assert [one.id for one in listed.pay_accounts] == [made.id, await account_of(rig.system, code)]
    everything = await rig.op.accounts.ListPayAccounts(pb.ListPayAccountsRequest(page_size=3))
    rest = await rig.op.accounts.ListPayAccounts(pb.ListPayAccountsRequest(page_size=3, page_token=everything.next_page_token))
    assert len({one.id for one in (*everything.pay_accounts, *rest.pay_accounts)}) == 4
    await rig.op.accounts.DeletePayAccount(pb.DeletePayAccountRequest(id=made.id))
    for call in (rig.op.accounts.GetPayAccount(pb.GetPayAccountRequest(id=made.id)),
                 rig.op.accounts.UpdatePayAccount(pb.UpdatePayAccountRequest(id=made.id, remark="x")),
                 rig.op.accounts.DeletePayAccount(pb.DeletePayAccountRequest(id=made.id))):  # fmt: skip
        async with fails("ACCOUNT_NOT_FOUND", grpc.StatusCode.NOT_FOUND):
            await call


async def test_apps_may_not_administer_accounts(rig: Rig) -> None:
    number = await account_of(rig.system, "mock")
    for call in (rig.shop.accounts.GetPayAccount(pb.GetPayAccountRequest(id=number)),
                 rig.shop.accounts.ListPayAccounts(pb.ListPayAccountsRequest()),
                 rig.shop.accounts.CreatePayAccount(pb.CreatePayAccountRequest(config=message("mock", {}))),
                 rig.shop.accounts.UpdatePayAccount(pb.UpdatePayAccountRequest(id=number, remark="x")),
                 rig.shop.accounts.DeletePayAccount(pb.DeletePayAccountRequest(id=number))):  # fmt: skip
        async with fails("PERMISSION_DENIED", grpc.StatusCode.PERMISSION_DENIED):
            await call


async def test_every_wrong_field_of_an_account_is_named(rig: Rig) -> None:
    wrong = {"mchid": "abc", "api_v3_key": "secret-1", "private_key": "secret-2", "appid": "wx1234567", "mch_key": "x"}
    async with fails("INVALID_FIELD", grpc.StatusCode.INVALID_ARGUMENT) as caught:
        await rig.op.accounts.CreatePayAccount(pb.CreatePayAccountRequest(config=message("wechatpay", wrong)))
    assert {item.field for item in caught[0].violations} == {f"config.{name}" for name in wrong}
    assert "secret-" not in str(caught[0].violations)
    for request, field in (
        (pb.CreatePayAccountRequest(), "family"),
        (pb.CreatePayAccountRequest(family="alipay", config=message("wechatpay", {"mchid": "1900000109"})), "family"),
        (pb.CreatePayAccountRequest(config=message("wechatpay", {"appid": "wx1234567"})), "config.appid"),
        (pb.CreatePayAccountRequest(name="x" * 65, config=message("mock", {})), "name"),
    ):
        async with fails("INVALID_FIELD") as caught:
            await rig.op.accounts.CreatePayAccount(request)
        assert field in [item.field for item in caught[0].violations]
    assert await rig.system.value("SELECT count(*) FROM pay_account") == 3


async def test_an_identity_is_one_account(rig: Rig) -> None:
    request = pb.CreatePayAccountRequest(config=message("wechatpay", keys_of(rig.system, "wx_native")))
    async with fails("ACCOUNT_EXISTS", grpc.StatusCode.ALREADY_EXISTS) as caught:
        await rig.op.accounts.CreatePayAccount(request)
    assert caught[0].metadata["account_id"] == await account_of(rig.system, "wx_native")


@pytest.mark.parametrize(("code", "identity"), [("wx_native", "mchid"), ("alipay_qr", "app_id")])
async def test_the_identity_of_an_account_never_changes(system: PayCenterSystem, code: str, identity: str) -> None:
    family, number = system.configs[code][0], await account_of(system, code)
    before = await system.services.accounts.get(OPERATOR, number)
    with pytest.raises(PayCenterError) as caught:
        await system.services.accounts.update(OPERATOR, number, {}, family, keys_of(system, code, **{identity: "2021900000000109"}))
    assert caught.value.reason is Reason.ACCOUNT_IDENTITY_FIXED
    config = {**system.configs[code][1], identity: "2021900000000109"}
    with pytest.raises(PayCenterError) as caught:
        await system.services.channels.update(OPERATOR, system.channels[code], {}, family, config, number)
    assert caught.value.reason is Reason.ACCOUNT_IDENTITY_FIXED
    assert (await system.services.accounts.get(OPERATOR, number)).account == before.account


async def test_two_apps_share_an_account_and_its_keys(system: PayCenterSystem) -> None:
    await system.add_app("books", codes=("wx_native", "alipay_qr"))
    assert await account_of(system, "books:wx_native") == await account_of(system, "wx_native")
    assert await system.value("SELECT count(*) FROM pay_account") == 3
    # The keys change for both.
    family, config = system.configs["wx_native"]
    await system.services.channels.update(OPERATOR, system.channels["wx_native"], {}, family, {**config, "api_v3_key": "k" * 32})
    channel = await system.services.channels.get(OPERATOR, system.channels["books:wx_native"])
    configured = await system.services.gateway.channels.all_of(channel.channel.id)
    assert [one.codec.merchant.api_v3_key for one in configured] == [b"k" * 32]  # type: ignore[attr-defined]


async def test_a_new_channel_changes_no_keys_of_an_account(system: PayCenterSystem) -> None:
    await system.add_app("books", codes=())
    family, config = system.configs["wx_native"]
    new = NewChannel("books", "wx_native", 0, "", family, {**config, "api_v3_key": "k" * 32}, enabled=True)
    with pytest.raises(PayCenterError) as caught:
        await system.services.channels.create(OPERATOR, new)
    assert [violation.field for violation in caught.value.violations] == ["config.api_v3_key"]
    assert await system.value("SELECT version FROM pay_account WHERE family = 'wechatpay'") == 1
    # What the account has not may be added. White space is no difference.
    more = {
        **config,
        "private_key": config["private_key"] + "\n",
        "merchant_certificate": system.configs["wx_bar"][1]["merchant_certificate"],
    }
    view = await system.services.channels.create(OPERATOR, NewChannel("books", "wx_native", 0, "", family, more, enabled=True))
    assert view.account.number == await account_of(system, "wx_native")
    assert await system.value("SELECT version FROM pay_account WHERE family = 'wechatpay'") == 2


async def test_a_channel_is_made_over_an_account_and_moves_to_another(rig: Rig) -> None:
    await rig.system.add_app("books", codes=())
    one = await account_of(rig.system, "wx_native")
    two = (
        await rig.op.accounts.CreatePayAccount(
            pb.CreatePayAccountRequest(config=message("wechatpay", keys_of(rig.system, "wx_native", mchid="1900000109")))
        )
    ).pay_account.id
    way = message("wechatpay", {"appid": "wx0000000000000002"})
    made = (
        await rig.op.channels.CreatePayChannel(
            channel_pb.CreatePayChannelRequest(app_key="books", code="wx_native", account_id=one, config=way)
        )
    ).pay_channel
    assert (made.account_id, made.config.wechatpay.appid) == (one, "wx0000000000000002")
    moved = (await rig.op.channels.UpdatePayChannel(channel_pb.UpdatePayChannelRequest(id=made.id, account_id=two))).pay_channel
    assert (moved.account_id, moved.config.wechatpay.mchid, moved.config.wechatpay.appid) == (
        two, "1900000109", "wx0000000000000002",
    )  # fmt: skip
    assert moved.order_callback_url == made.order_callback_url
    update = rig.op.channels.UpdatePayChannel
    async with fails("INVALID_FIELD") as caught:
        await update(channel_pb.UpdatePayChannelRequest(id=made.id, account_id=await account_of(rig.system, "alipay_qr")))
    assert [item.field for item in caught[0].violations] == ["account_id"]
    async with fails("ACCOUNT_NOT_FOUND"):
        await update(channel_pb.UpdatePayChannelRequest(id=made.id, account_id="M" + "0" * 26))
    back = (await update(channel_pb.UpdatePayChannelRequest(id=made.id, account_id=one))).pay_channel
    assert back.account_id == one
    assert await rig.system.value("SELECT count(*) FROM pay_binding b JOIN pay_channel c ON c.id = b.channel_id "
                                  "JOIN pay_app a ON a.id = c.app_id WHERE a.app_key = 'books'") == 2  # fmt: skip


class PluggedCodec(MockCodec):
    """A codec of another package."""

    code = "plugged"

    def __init__(self, config: Mapping[str, str]) -> None:
        super().__init__({})
        self.account = {"merchant": config["merchant"]}


async def test_a_package_that_names_no_identity_field_has_accounts_by_what_its_messages_contain(system: PayCenterSystem) -> None:
    context = system.services.context
    spec = ChannelSpec(
        code="plugged", family="plugged", title="Plugged", display_modes=("",), build=PluggedCodec,
        config_fields=(ConfigField("merchant"), ConfigField("key", secret=True)),
        check=lambda config: [Violation(name, "is required") for name in ("merchant", "key") if not config.get(name)],
    )  # fmt: skip
    context.registry = Registry([*context.registry.values(), spec])
    new = NewChannel("shop", "plugged", 0, "", "generic", {"merchant": "M1", "key": "k1"}, enabled=True)
    view = await system.services.channels.create(OPERATOR, new)
    number, one = view.channel.number, view.account
    assert (one.family, one.identity) == ("plugged", "M1")
    order = await system.order()
    await system.submit(order, "plugged", behaviour="never")
    update = system.services.channels.update
    assert (await update(OPERATOR, number, {}, "generic", {"merchant": "M1", "key": "k2"})).account.number == one.number
    with pytest.raises(PayCenterError) as caught:
        await update(OPERATOR, number, {}, "generic", {"merchant": "M2"})
    assert [violation.field for violation in caught.value.violations] == ["config.key"]
    moved = await update(OPERATOR, number, {}, "generic", {"merchant": "M2", "key": "k3"})
    assert (moved.account.identity, moved.account.number == one.number) == ("M2", False)
    (attempt,) = await system.services.orders.attempts(order)
    assert (await system.services.gateway.channels.bound(attempt.binding_id)).codec.account == {"merchant": "M1"}
    with pytest.raises(PayCenterError) as caught:
        await system.services.accounts.update(OPERATOR, one.number, {}, "generic", {"merchant": "M2"})
    assert caught.value.reason is Reason.ACCOUNT_IDENTITY_FIXED


async def test_a_change_of_an_account_must_fit_its_channels(system: PayCenterSystem) -> None:
    number = await account_of(system, "wx_native")
    keys = keys_of(system, "wx_native")
    without = {name: value for name, value in keys.items() if name not in ("public_key", "public_key_id")}
    with pytest.raises(PayCenterError) as caught:
        await system.services.accounts.update(OPERATOR, number, {}, "wechatpay", without)
    assert [violation.field for violation in caught.value.violations] == ["config.public_key"]
    view = await system.services.accounts.update(
        OPERATOR, number, {}, "wechatpay", {**without, "use_platform_certificates": "true", "private_key": "", "mchid": ""}
    )
    assert "public_key" not in view.config
    assert "private_key" in view.secrets
    assert view.earlier_keys_until is not None
    await system.paid("wx_native")


async def test_racing_creates_of_one_account(system: PayCenterSystem) -> None:
    """By inline configurations all get the same account; by CreatePayAccount one creates it."""
    for index in range(6):
        await system.add_app(f"books{index}", codes=())
    family, config = system.configs["wx_native"]
    config = {**config, "mchid": "1900000109"}
    new = [NewChannel(f"books{index}", "wx_native", 0, "", family, config, enabled=True) for index in range(6)]
    views = await asyncio.gather(*(system.services.channels.create(OPERATOR, one) for one in new))
    assert len({view.account.number for view in views}) == 1
    again = NewAccount("", "", "", "wechatpay", keys_of(system, "wx_native", mchid="1900000110"))
    results = await asyncio.gather(*(system.services.accounts.create(OPERATOR, again) for _ in range(6)), return_exceptions=True)
    assert [raised(result) for result in results].count(Reason.ACCOUNT_EXISTS) == 5
    assert await system.value("SELECT count(*) FROM pay_account WHERE family = 'wechatpay'") == 3


async def test_an_account_that_was_changed_meanwhile_is_not_overwritten(system: PayCenterSystem) -> None:
    number = await account_of(system, "mock")
    async with transaction(system) as held:
        await held.execute("SELECT 1 FROM pay_account WHERE family = 'mock' FOR UPDATE")
        calls = [
            asyncio.create_task(system.services.accounts.update(OPERATOR, number, {"remark": remark}, "", None))
            for remark in ("one", "other")
        ]
        await waiting_for_lock(system, calls)
    assert [raised(result) for result in await ended(calls)].count(Reason.ACCOUNT_CHANGED) == 1
    assert await system.value("SELECT version FROM pay_account WHERE family = 'mock'") == 2


async def test_keys_stay_complete_for_channels_that_had_the_account(system: PayCenterSystem, other_keys_dir: Path) -> None:
    """Their open attempts are settled, and their payments refunded, with the keys of the account."""
    number = await account_of(system, "alipay_qr")
    await system.submit(await system.order(), "alipay_qr")
    async with another_merchant(system, other_keys_dir) as other:
        for code in ("alipay_qr", "alipay_pc"):
            family, config = other.config(code)
            await system.services.channels.update(OPERATOR, system.channels[code], {}, family, config)
        with pytest.raises(PayCenterError) as caught:
            await system.services.accounts.update(
                OPERATOR, number, {}, "alipay", {"app_id": system.configs["alipay_qr"][1]["app_id"]}
            )
    assert "config.alipay_public_key" in {violation.field for violation in caught.value.violations}


@pytest.mark.parametrize("operation", ["disable", "delete"])
async def test_an_account_with_unsettled_money_stays(system: PayCenterSystem, operation: str) -> None:
    number = await account_of(system, "mock")

    async def take_away() -> Reason | None:
        try:
            if operation == "disable":
                await system.services.accounts.update(OPERATOR, number, {"enabled": False}, "", None)
            else:
                await system.services.accounts.delete(OPERATOR, number)
        except PayCenterError as error:
            told.update(error.metadata)
            return error.reason
        return None

    told: dict[str, str] = {}
    order = await system.order()
    await system.submit(order, "mock", behaviour="never")
    assert await take_away() is Reason.ACCOUNT_UNSETTLED
    assert (told["unsettled_attempts"], told["unsettled_refunds"]) == ("1", "0")
    await system.services.orders.close(system.caller, order.number)
    order = await system.paid("mock")
    await system.rows('UPDATE pay_attempt SET channel_extras = \'{"refund": "pending"}\'')
    refund = await system.refund(order, 40)
    assert await take_away() is Reason.ACCOUNT_UNSETTLED
    assert (told["unsettled_attempts"], told["unsettled_refunds"]) == ("0", "1")
    system.clock.advance(10)
    await system.decided(refund)
    await system.services.apps.update(OPERATOR, "shop", {"surplus_policy": SurplusPolicy.HOLD})
    order = await system.order()
    attempt = await system.submit(order, "mock", behaviour="never")
    await system.services.orders.close(system.caller, order.number)
    channel = await configured(system, "mock")
    await system.services.payments.book(channel, payment_of(channel, attempt), CAUSE)
    assert await take_away() is Reason.ACCOUNT_UNSETTLED, "a case holds money that may have to be refunded"
    assert told["open_cases"] == "1"
    case = await system.first_case(order)
    await system.services.case_decisions.decide(OPERATOR, encode(Prefix.CASE, case["id"]), Decision.CLOSE, "paid back in cash")
    assert await take_away() is (None if operation == "disable" else Reason.ACCOUNT_IN_USE)
    assert (await system.services.accounts.get(OPERATOR, number)).account.enabled is (operation == "delete")


async def test_a_disabled_account_takes_nothing_new(system: PayCenterSystem) -> None:
    paid, failed = await system.paid("mock"), await system.paid("mock")
    await system.rows('UPDATE pay_attempt SET channel_extras = \'{"refund": "failure"}\' WHERE order_id = $1', failed.id)
    refund = await system.refund(failed, 40, merchant_refund_no="R-failed")
    assert refund.state.value == "FAILURE"
    number = await account_of(system, "mock")
    await system.services.accounts.update(OPERATOR, number, {"enabled": False}, "", None)
    order = await system.order()
    for call in (
        system.submit(order, "mock"), system.refund(paid, 40), system.refund(failed, 40, merchant_refund_no="R-failed"),
    ):  # fmt: skip
        with pytest.raises(PayCenterError) as caught:
            await call
        assert caught.value.reason is Reason.ACCOUNT_DISABLED
    assert await system.value("SELECT count(*) FROM pay_attempt WHERE order_id = $1", order.id) == 0
    assert (await system.read(paid)).reserved_amount == 0
    await system.services.accounts.update(OPERATOR, number, {"enabled": True}, "", None)
    await system.submit(order, "mock")
    assert (await system.refund(paid, 40)).state.value == "SUCCESS"


async def test_a_late_payment_of_a_disabled_account_is_booked(system: PayCenterSystem) -> None:
    async with intercepted(system) as interceptor:
        order = await system.order()
        attempt = await system.submit(order)
        await system.simulator.pay(attempt.out_trade_no)
        callback = await interceptor.next()
    await system.rows("UPDATE pay_attempt SET next_check_time = NULL")
    await system.services.accounts.update(OPERATOR, await account_of(system, "wx_native"), {"enabled": False}, "", None)
    assert await callback.deliver(system, "wx_native") == 204
    assert (await system.read(order)).state is OrderState.SUCCESS


async def test_a_submit_waits_for_the_account_that_is_being_disabled(system: PayCenterSystem) -> None:
    order = await system.order()
    async with transaction(system) as held:
        await held.execute("UPDATE pay_account SET enabled = false WHERE family = 'mock'")
        calls = [asyncio.create_task(system.submit(order, "mock"))]
        await waiting_for_lock(system, calls)
    assert [raised(result) for result in await ended(calls)] == [Reason.ACCOUNT_DISABLED]
    assert await system.value("SELECT count(*) FROM pay_attempt") == 0


async def test_a_refund_waits_for_the_account_that_is_being_disabled(system: PayCenterSystem) -> None:
    order = await system.paid("mock")
    async with transaction(system) as held:
        await held.execute("UPDATE pay_account SET enabled = false WHERE family = 'mock'")
        calls = [asyncio.create_task(system.refund(order, 40))]
        await waiting_for_lock(system, calls)
    assert [raised(result) for result in await ended(calls)] == [Reason.ACCOUNT_DISABLED]
    assert (await system.read(order)).reserved_amount == 0


async def test_an_account_is_not_disabled_while_a_submit_is_being_stored(system: PayCenterSystem) -> None:
    """The attempt is not committed yet, so it is not counted; the account is not disabled before it is."""
    number = await account_of(system, "mock")
    attempt = await system.submit(await system.order(), "mock", behaviour="never")
    await system.rows("UPDATE pay_attempt SET next_check_time = NULL")
    async with transaction(system) as held:
        assert await account_rows.hold_enabled(held, attempt.account_id)
        calls = [asyncio.create_task(system.services.accounts.update(OPERATOR, number, {"enabled": False}, "", None))]
        await waiting_for_lock(system, calls)
        await held.execute("UPDATE pay_attempt SET next_check_time = now()")
    assert [raised(result) for result in await ended(calls)] == [Reason.ACCOUNT_UNSETTLED]


async def test_an_earlier_account_of_a_channel_stays(system: PayCenterSystem) -> None:
    """A channel that has attempts over an earlier account cannot be deleted, nor can that account."""
    await system.submit(await system.order(), "wx_native")
    number = await account_of(system, "wx_native")
    family, config = system.configs["wx_native"]
    moved = await system.services.channels.update(
        OPERATOR, system.channels["wx_native"], {}, family, {**config, "mchid": "1900000109"}
    )
    assert moved.account.number != number
    with pytest.raises(PayCenterError) as caught:
        await system.services.channels.delete(OPERATOR, system.channels["wx_native"])
    assert caught.value.reason is Reason.CHANNEL_HAS_ORDERS
    with pytest.raises(PayCenterError) as caught:
        await system.services.accounts.delete(OPERATOR, number)
    assert caught.value.reason is Reason.ACCOUNT_UNSETTLED
    await system.rows("UPDATE pay_attempt SET next_check_time = NULL")
    with pytest.raises(PayCenterError) as caught:
        await system.services.accounts.delete(OPERATOR, number)
    assert caught.value.reason is Reason.ACCOUNT_IN_USE
    assert await system.value("SELECT count(*) FROM pay_binding WHERE channel_id = $1", moved.channel.id) == 2
