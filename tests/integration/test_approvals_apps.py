"""The protection of an app: one operator alone can neither take it away nor go around it by another channel."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from integration.test_accounts import account_of, keys_of
from integration.test_approvals import needed, new, people, refused, state
from paycenter_server.domain.apps import NotificationSuccess, SurplusPolicy
from paycenter_server.domain.errors import Reason
from paycenter_server.domain.roles import Role
from paycenter_server.services.accounts import NewAccount
from paycenter_server.services.apps import NewApp
from paycenter_server.services.channels import NewChannel
from paycenter_server.services.paging import Pager
from support.cases import set_app
from support.locks import transaction, waiting_for_lock
from support.operators import person
from support.system import OPERATOR, PayCenterSystem


async def app_of(system: PayCenterSystem) -> Any:
    return (await system.services.apps.get(OPERATOR, "shop")).app


@pytest.mark.parametrize("name", ["refund_approval_limit", "case_decision_limit"])
async def test_a_limit_is_raised_or_removed_by_two(system: PayCenterSystem, name: str) -> None:
    apps, desk = system.services.apps, system.services.approval_desk
    anne, ben = await people(system, Role.DEVELOPER)
    before = (await app_of(system)).name
    await apps.update(anne.caller, "shop", {name: 500})
    await apps.update(anne.caller, "shop", {name: 400, "remark": "lower, and so more protection"})
    higher = await needed(apps.update(anne.caller, "shop", {name: 401, "name": "Shop 2"}))
    assert await needed(apps.update(anne.caller, "shop", {name: 401, "name": "Shop 2"})) == higher
    await needed(apps.update(ben.caller, "shop", {name: 0 if name == "refund_approval_limit" else None}))
    app = await app_of(system)
    assert (getattr(app, name), app.name) == (400, before)
    shown = (await desk.get(ben.caller, higher)).shown
    assert (shown["before"][name], shown["after"][name], shown["after"]["name"]) == (400, 401, "Shop 2")
    await refused(desk.approve(anne.caller, higher, ""), Reason.APPROVAL_OWN)
    finance = await person(system, "fay", Role.FINANCE)
    await refused(desk.approve(finance.caller, higher, ""), Reason.PERMISSION_DENIED)
    assert (await desk.approve(ben.caller, higher, "seen")).state == "APPROVED"
    app = await app_of(system)
    assert (getattr(app, name), app.name) == (401, "Shop 2")
    row = await system.value("SELECT after FROM pay_audit WHERE act LIKE '%UpdatePayApp' ORDER BY id DESC LIMIT 1")
    assert {**row, "approval": higher, "requested_by": "anne", name: 401} == row


async def test_a_removed_limit_limits_nothing(system: PayCenterSystem) -> None:
    apps, desk = system.services.apps, system.services.approval_desk
    anne, ben = await people(system, Role.ADMIN)
    await set_app(system, refund_approval_limit=60)
    order = await system.paid("mock")
    await needed(system.services.refunds.create(anne.caller, new(order, 60)))
    waiting = await needed(apps.update(anne.caller, "shop", {"refund_approval_limit": 0}))
    await desk.approve(ben.caller, waiting, "")
    assert (await app_of(system)).refund_approval_limit is None
    assert (await system.services.refunds.create(anne.caller, new(order, 60, "R2"))).amount == 60


async def test_a_limit_that_is_set_at_the_same_moment_is_not_removed(system: PayCenterSystem) -> None:
    """The update that removes it has read the app before."""
    apps = system.services.apps
    anne, _ = await people(system, Role.DEVELOPER)
    async with transaction(system) as other:
        await other.execute("UPDATE pay_app SET refund_approval_limit = 60 WHERE app_key = 'shop'")
        removal = asyncio.ensure_future(apps.update(anne.caller, "shop", {"refund_approval_limit": 0}))
        await waiting_for_lock(system, [removal])
    await needed(removal)
    assert (await app_of(system)).refund_approval_limit == 60


async def test_channels_of_an_app_that_asks_for_it_change_with_a_second_operator(system: PayCenterSystem) -> None:
    services, desk = system.services, system.services.approval_desk
    anne, ben = await people(system, Role.DEVELOPER)
    await set_app(system, channel_approval=True)
    channel = system.channels["wx_native"]
    family, config = system.configs["wx_native"]
    await services.channels.update(anne.caller, channel, {"remark": "x", "enabled": False}, "", None)
    await services.channels.update(anne.caller, channel, {"enabled": True}, family, config)
    moved = await needed(services.channels.update(anne.caller, channel, {}, family, {**config, "mchid": "1900000999"}))
    await needed(services.channels.update(anne.caller, channel, {}, family, {**config, "api_v3_key": "n" * 32}))
    assert (await services.channels.get(OPERATOR, channel)).account.identity == config["mchid"]
    await desk.approve(ben.caller, moved, "")
    assert (await services.channels.get(OPERATOR, channel)).account.identity == "1900000999"


async def test_a_new_channel_of_such_an_app_waits_with_its_secrets_sealed(system: PayCenterSystem) -> None:
    services, desk = system.services, system.services.approval_desk
    anne, ben = await people(system, Role.DEVELOPER)
    await set_app(system, channel_approval=True)
    family, config = system.configs["wx_lite"]
    config = {**config, "mchid": "1900000777"}
    wanted = NewChannel("shop", "wx_lite", 6000, "", family, config, enabled=True)
    number = await needed(services.channels.create(anne.caller, wanted))
    assert await needed(services.channels.create(anne.caller, wanted)) == number
    assert await system.value("SELECT count(*) FROM pay_account WHERE identity = '1900000777'") == 0
    stored = json.dumps(await system.value("SELECT request || shown FROM pay_approval"))
    assert config["api_v3_key"] not in stored
    assert "PRIVATE KEY" not in stored
    await refused(desk.approve(anne.caller, number, ""), Reason.APPROVAL_OWN)
    await desk.approve(ben.caller, number, "")
    (view,) = [
        one for one in (await services.channels.search(OPERATOR, "shop", Pager(100, ""))).items if one.channel.code == "wx_lite"
    ]
    assert (view.account.identity, view.channel.fee_rate_ppm) == ("1900000777", 6000)
    await refused(services.channels.create(ben.caller, wanted), Reason.CHANNEL_EXISTS)


async def test_the_protection_of_channels_is_ended_by_two(system: PayCenterSystem) -> None:
    apps, desk = system.services.apps, system.services.approval_desk
    anne, ben = await people(system, Role.DEVELOPER)
    await apps.update(anne.caller, "shop", {"channel_approval": True})
    await apps.update(anne.caller, "shop", {"channel_approval": True, "remark": "x"})
    waiting = await needed(apps.update(anne.caller, "shop", {"channel_approval": False}))
    assert (await app_of(system)).channel_approval
    await desk.approve(ben.caller, waiting, "")
    assert not (await app_of(system)).channel_approval


async def test_an_approval_carries_out_what_was_shown_and_nothing_else(system: PayCenterSystem) -> None:
    """The form of the console sends every field of the app. What was switched on after the request stays on."""
    apps, desk = system.services.apps, system.services.approval_desk
    anne, ben = await people(system, Role.DEVELOPER)
    await set_app(system, refund_approval_limit=60)
    form = {"refund_approval_limit": 500, "channel_approval": False, "case_decision_limit": None, "remark": ""}
    waiting = await needed(apps.update(anne.caller, "shop", form))
    assert (await desk.get(ben.caller, waiting)).shown["after"] == {"refund_approval_limit": 500}
    await apps.update(ben.caller, "shop", {"channel_approval": True, "case_decision_limit": 7, "remark": "new"})
    await desk.approve(ben.caller, waiting, "")
    app = await app_of(system)
    assert (app.refund_approval_limit, app.channel_approval, app.case_decision_limit, app.remark) == (500, True, 7, "new")


async def test_a_change_of_what_has_changed_since_the_request_is_not_carried_out(system: PayCenterSystem) -> None:
    """The limit was lowered, because money was lost, while a request to raise it waited."""
    apps, desk = system.services.apps, system.services.approval_desk
    anne, ben = await people(system, Role.DEVELOPER)
    await set_app(system, refund_approval_limit=60, case_policies={"LATE_PAYMENT": "HOLD"})
    waiting = await needed(
        apps.update(anne.caller, "shop", {"refund_approval_limit": 500, "case_policies": {}, "surplus_policy": "HOLD"})
    )
    await apps.update(ben.caller, "shop", {"refund_approval_limit": 1})
    error = await refused(desk.approve(ben.caller, waiting, ""), Reason.APP_CHANGED)
    assert "refund_approval_limit" in error.message
    assert ((await app_of(system)).refund_approval_limit, (await state(system, waiting)).state) == (1, "PENDING")
    # It is what was shown again.
    await system.rows("UPDATE pay_app SET refund_approval_limit = 60, remark = 'other' WHERE app_key = 'shop'")
    assert (await desk.approve(ben.caller, waiting, "")).state == "APPROVED"
    app = await app_of(system)
    assert (app.refund_approval_limit, app.case_policies, app.remark) == (500, {}, "other")


EXTRA: dict[str, str] = {"use_platform_certificates": "true"}


async def second_app(system: PayCenterSystem) -> None:
    """An app without protection."""
    url = "https://shop.example/hook"
    new = NewApp("other", "Other", "", url, url, SurplusPolicy.REFUND, NotificationSuccess.HTTP_2XX)
    await system.services.apps.create(OPERATOR, new)


@pytest.mark.parametrize("protection", ["account", "app"])
async def test_a_new_channel_does_not_bring_keys_to_a_protected_account(system: PayCenterSystem, protection: str) -> None:
    """A field that the account does not have yet, such as another gateway or certificates that verify callbacks."""
    services, desk = system.services, system.services.approval_desk
    anne, ben = await people(system, Role.DEVELOPER)
    await second_app(system)
    number = await account_of(system, "wx_native")
    if protection == "account":
        await services.accounts.update(OPERATOR, number, {"change_approval": True}, "", None)
    else:
        await set_app(system, channel_approval=True)
    family, config = system.configs["wx_lite"]
    way: dict[str, str] = {name: value for name, value in config.items() if name in ("appid", "api_version")}
    waiting = await needed(
        services.channels.create(anne.caller, NewChannel("other", "wx_lite", 0, "", family, {**way, **EXTRA}, True, number))
    )
    assert "use_platform_certificates" not in (await services.accounts.get(OPERATOR, number)).account.config
    await desk.approve(ben.caller, waiting, "")
    assert "use_platform_certificates" in (await services.accounts.get(OPERATOR, number)).account.config


@pytest.mark.parametrize("way", ["account", "channel"])
async def test_keys_of_the_channels_of_such_an_app_change_with_a_second_operator(system: PayCenterSystem, way: str) -> None:
    """Also by the account itself, and by a channel of another app that has the same account."""
    services, desk = system.services, system.services.approval_desk
    anne, ben = await people(system, Role.DEVELOPER)
    number = await account_of(system, "wx_native")
    await second_app(system)
    family, config = system.configs["wx_native"]
    other = await services.channels.create(OPERATOR, NewChannel("other", "wx_native", 0, "", family, config, True))
    await set_app(system, channel_approval=True)
    await services.accounts.update(anne.caller, number, {"name": "Main"}, "", None)
    if way == "account":
        waiting = await needed(services.accounts.update(anne.caller, number, {}, family, keys_of(system, "wx_native", **EXTRA)))
    else:
        waiting = await needed(services.channels.update(anne.caller, other.channel.number, {}, family, {**config, **EXTRA}))
    assert "use_platform_certificates" not in (await services.accounts.get(OPERATOR, number)).account.config
    await desk.approve(ben.caller, waiting, "")
    assert "use_platform_certificates" in (await services.accounts.get(OPERATOR, number)).account.config


async def test_keys_do_not_change_while_an_app_begins_to_ask_for_a_second_operator(system: PayCenterSystem) -> None:
    accounts = system.services.accounts
    anne, _ = await people(system, Role.DEVELOPER)
    number = await account_of(system, "wx_native")
    async with transaction(system) as other:
        await other.execute("UPDATE pay_app SET channel_approval = true WHERE app_key = 'shop'")
        change = asyncio.ensure_future(accounts.update(anne.caller, number, {}, "wechatpay", keys_of(system, "wx_native", **EXTRA)))
        await waiting_for_lock(system, [change])
    await needed(change)
    assert (await accounts.get(OPERATOR, number)).account.version == 1


@pytest.mark.parametrize("how", ["identity", "number", "move"])
async def test_an_approval_gives_a_channel_the_account_that_was_shown(system: PayCenterSystem, how: str) -> None:
    """Meanwhile who requested it prepares an account, or changes the keys of the one that was shown: no channel has it yet."""
    services, desk = system.services, system.services.approval_desk
    anne, ben = await people(system, Role.DEVELOPER)
    await set_app(system, channel_approval=True)
    keys = keys_of(system, "wx_native", mchid="1900000777")
    family, config = system.configs["wx_native"]
    config, account = {**config, "mchid": "1900000777"}, ""
    if how != "identity":
        account = (await services.accounts.create(anne.caller, NewAccount("", "", "", family, keys))).account.number
    if how == "move":
        change = services.channels.update(anne.caller, system.channels["wx_native"], {}, family, config)
    else:
        config = {**config, **{name: value for name, value in system.configs["wx_lite"][1].items() if name == "appid"}}
        change = services.channels.create(anne.caller, NewChannel("shop", "wx_lite", 0, "", family, config, True, account))
    waiting = await needed(change)
    if how == "identity":
        await services.accounts.create(anne.caller, NewAccount("", "", "", family, {**keys, **EXTRA}))
    else:
        await services.accounts.update(anne.caller, account, {}, family, {**keys, **EXTRA})
    await refused(desk.approve(ben.caller, waiting, ""), Reason.ACCOUNT_CHANGED)
    assert (
        await system.value(
            "SELECT count(*) FROM pay_binding b JOIN pay_account a ON a.id = account_id WHERE identity = $1", "1900000777"
        )
        == 0
    )
