"""Apps, accounts and channels: forms, secrets that are shown once, tests, moves, and what must be confirmed."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import FormData
from paycenter_server.services.paging import Pager
from support.console_rig import Browser, Page, _page
from support.system import OPERATOR, PayCenterSystem

APP = {
    "app_key": "mall", "name": "商城", "order_notification_url": "https://mall.test/o",
    "refund_notification_url": "https://mall.test/r", "surplus_policy": "HOLD", "notification_success": "CODE_ZERO", "remark": "",
}  # fmt: skip


def secrets_in(page: Page) -> list[str]:
    """The texts of a page that are shown once."""
    found, next_is = [], False
    for tag, values in page.elements:
        next_is = values.get("class") == "secret"
        if next_is:
            found.append(tag)
    return found


async def test_an_app_is_created_and_its_secrets_are_shown_once(console: Browser) -> None:
    wrong = (await console.post("/apps/new", **{**APP, "app_key": "Not Good", "order_notification_url": "nonsense"})).check()
    assert wrong.status == 400
    assert "must be 1 to 64 characters of a-z, 0-9, _ and -" in wrong.text
    assert "must be an absolute http or https URL" in wrong.text
    assert wrong.value("name") == "商城"
    page = (await console.post("/apps/new", **APP)).check()
    assert page.url.startswith("/apps/mall?done=created&shown=")
    assert len(secrets_in(page)) == 3
    assert "whsec_" in page.text
    assert "whsec_" not in (await console.get(page.url)).text
    assert (await console.post("/apps/new", **APP)).status == 409
    app = (await console.system.services.apps.get(OPERATOR, "mall")).app
    assert (app.name, app.surplus_policy, app.notification_success) == ("商城", "HOLD", "CODE_ZERO")


async def test_secrets_are_shown_to_the_session_that_made_them(console: Browser) -> None:
    page = await console.post("/apps/shop/credentials", credential_name="second")
    assert len(secrets_in(page)) == 2
    made = await console.post_raw("/apps/shop/credentials", {"Accept": "text/html"}, csrf=console.csrf, credential_name="third")
    shown = made.url
    await console.login()
    assert not secrets_in(await console.get(shown))


async def test_the_settings_of_an_app(console: Browser) -> None:
    done = await console.post("/apps/shop/edit", **{**APP, "name": "New", "enabled": "on"})
    assert done.url == "/apps/shop?done=saved" or "notification_url" in done.text
    app = (await console.system.services.apps.get(OPERATOR, "shop")).app
    assert (app.name, app.enabled, app.order_notification_url) == ("New", True, "https://mall.test/o")
    await console.post("/apps/shop/edit", **APP)
    assert not (await console.system.services.apps.get(OPERATOR, "shop")).app.enabled
    refused = (await console.post("/apps/shop/edit", **{**APP, "name": ""})).check()
    assert (refused.status, "must not be empty" in refused.text) == (400, True)


async def test_policies_of_single_kinds_and_limits(console: Browser) -> None:
    fields = {
        "name": "Shop", "surplus_policy": "HOLD", "case_policies.LATE_PAYMENT": "ACCEPT", "case_policies.WRONG_AMOUNT": "REFUND",
        "case_policies.DUPLICATE_PAYMENT": "", "case_decision_limit": "50", "refund_approval_limit": "20.00",
    }  # fmt: skip
    page = (await console.post("/apps/shop/edit", **fields)).check()
    assert page.url == "/apps/shop?done=saved"
    assert page.value("refund_approval_limit") == "20.00"
    app = (await console.system.services.apps.get(OPERATOR, "shop")).app
    assert app.case_policies == {"LATE_PAYMENT": "ACCEPT", "WRONG_AMOUNT": "REFUND"}
    assert (app.case_decision_limit, app.refund_approval_limit) == (5000, 2000)
    wrong = (await console.post("/apps/shop/edit", **{**fields, "case_policies.WRONG_AMOUNT": "ACCEPT"})).check()
    assert wrong.status == 400
    assert "makes no sense for this kind" in wrong.text
    # A form without these fields leaves them.
    limits = {"case_decision_limit": "50", "refund_approval_limit": "20"}
    await console.post("/apps/shop/edit", name="Shop", channel_approval="on", **limits)
    app = (await console.system.services.apps.get(OPERATOR, "shop")).app
    assert app.case_policies == {"LATE_PAYMENT": "ACCEPT", "WRONG_AMOUNT": "REFUND"}
    assert (app.case_decision_limit, app.refund_approval_limit, app.channel_approval) == (5000, 2000, True)
    waits = await console.post("/apps/shop/edit", name="Shop", case_decision_limit="", refund_approval_limit="")
    assert "needs a second operator" in waits.text
    assert "An act waits for a second operator" in (await console.get("/apps/shop")).check().text
    row = (await console.get("/approvals")).check()
    assert "Less protection of an app" in row.text
    assert 'href="/apps/shop"' in row.html


async def test_rotate_disable_and_delete(console: Browser) -> None:
    system = console.system
    page = await console.post("/apps/shop/secret")
    assert len(secrets_in(page)) == 1
    (first,) = await system.services.credentials.list_of_app(OPERATOR, "shop")
    path = "/apps/shop/credentials/disable"
    assert (await console.post(path, key_id=first.key_id, confirm="no")).status == 400
    assert (await console.post(path, key_id=first.key_id, confirm=first.key_id)).url == "/apps/shop?done=disabled"
    assert not (await system.services.credentials.list_of_app(OPERATOR, "shop"))[0].enabled
    await system.add_app("empty", codes=())
    assert (await console.post("/apps/empty/delete", confirm="shop")).status == 400
    assert (await console.post("/apps/empty/delete", confirm="empty")).url == "/apps?done=deleted"
    await system.order()
    assert (await console.post("/apps/shop/delete", confirm="shop")).status == 409


async def test_the_matrix_opens_each_channel(console: Browser) -> None:
    page = (await console.get("/apps")).check()
    assert "/apps/shop/channels/wx_native" in page.links("/apps/shop/channels/")
    opened = await console.get("/apps/shop/channels/wx_native")
    assert opened.url == f"/channels/{console.system.channels['wx_native']}"
    assert "Connect" in (await console.get("/apps/shop/channels/wx_pub")).text
    assert (await console.get("/apps/shop/channels/nothing")).status == 404
    assert (await console.get("/apps/none/channels/wx_pub")).status == 404


async def connect(console: Browser, path: str, config: dict[str, str], **more: str) -> Page:
    """Send the form as a browser does: PEM texts as files."""
    form = FormData({"csrf": console.csrf, "enabled": "on", "fee_rate": "0.6", **more})
    for name, value in config.items():
        if "BEGIN" in value:
            form.add_field(name, "")
            form.add_field(f"{name}_file", value.encode(), filename=f"{name}.pem")
        else:
            form.add_field(name, value)
    async with console.client.post(path, data=form) as response:
        return await _page(response)


@pytest.mark.parametrize("code", ["wx_pub", "wx_bar", "alipay_wap", "alipay_pc"])
async def test_a_channel_is_connected_by_uploading_its_keys(console: Browser, code: str) -> None:
    system = console.system
    await system.add_app("new", codes=())
    _, config = system.configs[code]
    made = (
        await connect(console, f"/apps/new/channels/{code}", {"api_version": "v3", **config} if "wx" in code else config)
    ).check()
    assert made.url.endswith("?done=created"), made.text
    number = made.url.split("/")[2].split("?")[0]
    view = await system.services.channels.get(OPERATOR, number)
    assert (view.channel.code, view.channel.fee_rate_ppm, view.channel.enabled) == (code, 6000, True)
    for secret in (config.get("private_key", ""), config.get("api_v3_key", ""), config.get("mch_key", "")):
        assert not secret or secret.strip().splitlines()[-2 if "BEGIN" in secret else 0] not in made.html
    assert f"/callback/order/{number}" in made.text
    tested = (await console.post(f"/channels/{number}/test")).check()
    assert "The test passed." in tested.text


async def test_every_field_is_checked_at_once_and_secrets_need_not_be_typed_again(console: Browser) -> None:
    system = console.system
    await system.add_app("new", codes=())
    _, config = system.configs["alipay_qr"]
    wrong = (await connect(console, "/apps/new/channels/alipay_qr", {**config, "app_id": "x", "seller_id": "y"})).check()
    assert wrong.status == 400
    for text in ("must be the application id, digits only", "must be the seller's user id"):
        assert text in wrong.text
    assert config["private_key"].splitlines()[1] not in wrong.html
    kept = wrong.value("kept")
    again = await connect(console, "/apps/new/channels/alipay_qr", {**config, "private_key": ""}, kept=kept)
    assert again.url.endswith("?done=created"), again.text


async def test_a_channel_over_an_account_that_exists(console: Browser) -> None:
    system = console.system
    await system.add_app("new", codes=())
    page = await system.services.accounts.search(OPERATOR, "wechatpay", Pager(1, ""))
    account = page.items[0].account
    appid = system.configs["wx_native"][1]["appid"]
    made = await connect(
        console, "/apps/new/channels/wx_app", {"appid": appid, "api_version": "v3"}, account_id=account.number, fee_rate="1"
    )
    assert made.url.endswith("?done=created"), made.text
    assert "new: WeChat Pay App" in (await console.get(f"/accounts/{account.number}")).text


async def test_a_channel_is_changed_and_deleted(console: Browser) -> None:
    system = console.system
    number = system.channels["wx_native"]
    path = f"/channels/{number}"
    fields: dict[str, Any] = {
        "appid": "wx1234567890abcdef",
        "api_version": "v3",
        "fee_rate": "1.25",
        "remark": "r",
        "sign_type": "",
    }
    assert (await console.post(f"{path}/edit", **fields)).url == f"{path}?done=saved"
    view = await system.services.channels.get(OPERATOR, number)
    assert (view.channel.enabled, view.channel.fee_rate_ppm, view.config["appid"]) == (False, 12_500, "wx1234567890abcdef")
    refused = (await console.post(f"{path}/edit", **{**fields, "appid": "!", "fee_rate": "0.1"})).check()
    assert (refused.status, "must be the application id" in refused.text) == (400, True)
    assert (await console.post(f"{path}/edit", **{**fields, "fee_rate": "x"})).status == 400
    assert (await console.post(f"{path}/delete", confirm="no")).status == 400
    assert (await console.post(f"{path}/delete", confirm="wx_native")).url == "/apps/shop?done=deleted"
    failed = (await console.post(f"/channels/{system.channels['alipay_qr']}/test")).check()
    assert "The test passed." in failed.text


async def test_accounts_keys_and_moves(console: Browser) -> None:
    system = console.system
    first = (await system.services.accounts.search(OPERATOR, "wechatpay", Pager(1, ""))).items[0].account
    path = f"/accounts/{first.number}"
    page = (await console.get(path)).check()
    assert "set, not shown" in page.text
    config = system.configs["wx_native"][1]
    assert config["api_v3_key"] not in page.html
    refused = (await console.post(f"{path}/keys", api_v3_key="short", overlap_hours="1")).check()
    assert (refused.status, "must be the APIv3 key" in refused.text) == (400, True)
    done = await console.post(f"{path}/keys", api_v3_key="k" * 32, overlap_hours="1")
    assert done.url == f"{path}?done=saved", done.text
    assert "earlier_keys" in (await console.get("/")).text
    assert (await console.post(f"{path}/edit", name="Main", remark="", enabled="on")).url == f"{path}?done=saved"
    # Another account of the family, to which the channel moves.
    made = await console.post(
        "/accounts/new", family="wechatpay", name="Second", mchid="1900000109", private_key=config["private_key"],
        merchant_serial_no=config["merchant_serial_no"], api_v3_key=config["api_v3_key"], public_key_id=config["public_key_id"],
        public_key=config["public_key"],
    )  # fmt: skip
    assert made.url.endswith("?done=created"), made.text
    second = made.url.split("/")[2].split("?")[0]
    channel = system.channels["wx_native"]
    assert (await console.post(f"/channels/{channel}/account", account_id=second)).url == f"/channels/{channel}?done=saved"
    assert "Second" in (await console.get(f"/channels/{channel}")).text
    assert (await console.post(f"/accounts/{second}/delete", confirm="no")).status == 400
    assert (await console.post(f"/accounts/{second}/delete", confirm="1900000109")).status == 409
    assert (await console.post("/accounts/new", family="wechatpay", mchid="1")).status == 400
    assert (await console.post("/accounts/new", family="nothing")).status == 404


async def test_a_test_that_fails_says_why(console: Browser, other_keys_dir: Any) -> None:
    from paycenter_server.cli.seed import channel_configs
    from paycenter_server.simulator.keys import load_keys

    system: PayCenterSystem = console.system
    wrong = channel_configs(load_keys(other_keys_dir), system.simulator.base)["alipay_qr"][1]
    account = (await system.services.accounts.search(OPERATOR, "alipay", Pager(1, ""))).items[0].account
    done = await console.post(f"/accounts/{account.number}/keys", private_key=wrong["private_key"], overlap_hours="0")
    assert done.url.endswith("done=saved") or done.status == 400
    page = (await console.post(f"/channels/{system.channels['alipay_qr']}/test")).check()
    if done.status != 400:
        assert "The test failed." in page.text
