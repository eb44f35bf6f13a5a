"""PayAppService over the wire: apps, guards, credentials, notification secrets."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from paycenter import NotificationError, NotificationVerifier, PayCenterError
from paycenter.v1 import pay_app_service_pb2 as pb
from paycenter.v1 import pay_credential_service_pb2 as credential_pb
from standardwebhooks import Webhook
from support.grpc_rig import Rig, fails, open_rig
from support.system import PayCenterSystem
from support.waiting import eventually

URLS = {"order_notification_url": "https://shop.test/order", "refund_notification_url": "https://shop.test/refund"}


@pytest.fixture
async def rig(system: PayCenterSystem) -> AsyncIterator[Rig]:
    async with open_rig(system) as opened:
        yield opened


def create(app_key: str, **more: str) -> pb.CreatePayAppRequest:
    given: dict[str, Any] = {"name": app_key.title(), **URLS, **more}
    return pb.CreatePayAppRequest(app_key=app_key, **given)


async def test_an_address_that_will_be_blocked_is_named_beforehand(rig: Rig) -> None:
    """127.0.0.0/8 is allowed for the tests' receivers."""
    wanted = "blocked: private address, allow its network in PAYCENTER_NOTIFICATION_ALLOWED_NETWORKS"
    local = {"order_notification_url": "http://127.0.0.1:9/o", "refund_notification_url": "http://10.0.0.7/r"}
    made = await rig.op.apps.CreatePayApp(create("local", **local))
    assert list(made.warnings) == [f"refund_notification_url: {wanted} (10.0.0.7)"]
    changed = await rig.op.apps.UpdatePayApp(pb.UpdatePayAppRequest(app_key="local", order_notification_url="http://[fc00::1]/o"))
    assert list(changed.warnings) == [f"order_notification_url: {wanted} (fc00::1)"]
    assert not (await rig.op.apps.UpdatePayApp(pb.UpdatePayAppRequest(app_key="local", name="x"))).warnings


async def test_create_read_change_list_delete(rig: Rig) -> None:
    made = await rig.op.apps.CreatePayApp(create("books", remark="纸"))
    app = made.pay_app
    assert (app.app_key, app.name, app.enabled, app.remark) == ("books", "Books", True, "纸")
    assert app.surplus_policy == pb.SURPLUS_POLICY_REFUND
    assert app.notification_success == pb.NOTIFICATION_SUCCESS_HTTP_2XX
    assert made.notification_secret.startswith("whsec_")
    assert app.create_time.seconds > 0

    changed = await rig.op.apps.UpdatePayApp(
        pb.UpdatePayAppRequest(
            app_key="books", name="书店", enabled=False, remark="", surplus_policy=pb.SURPLUS_POLICY_HOLD,
            notification_success=pb.NOTIFICATION_SUCCESS_CODE_ZERO, order_notification_url="https://books.test/o",
        )
    )  # fmt: skip
    app = changed.pay_app
    assert (app.name, app.enabled, app.remark, app.order_notification_url) == ("书店", False, "", "https://books.test/o")
    assert (app.surplus_policy, app.notification_success) == (pb.SURPLUS_POLICY_HOLD, pb.NOTIFICATION_SUCCESS_CODE_ZERO)
    assert app.refund_notification_url == URLS["refund_notification_url"]
    again = await rig.op.apps.GetPayApp(pb.GetPayAppRequest(app_key="books"))
    assert again.pay_app == app
    unchanged = await rig.op.apps.UpdatePayApp(pb.UpdatePayAppRequest(app_key="books"))
    assert unchanged.pay_app == app

    everyone = await rig.op.apps.ListPayApps(pb.ListPayAppsRequest())
    assert [item.app_key for item in everyone.pay_apps] == ["books", "shop"]
    assert list(everyone.pay_apps[1].channel_codes) == ["alipay_pc", "alipay_qr", "mock", "wx_native"]
    off = await rig.op.apps.ListPayApps(pb.ListPayAppsRequest(enabled=False))
    assert [item.app_key for item in off.pay_apps] == ["books"]
    named = await rig.op.apps.ListPayApps(pb.ListPayAppsRequest(name="书"))
    assert [item.app_key for item in named.pay_apps] == ["books"]
    none = await rig.op.apps.ListPayApps(pb.ListPayAppsRequest(name="%"))
    assert not none.pay_apps
    first = await rig.op.apps.ListPayApps(pb.ListPayAppsRequest(page_size=1))
    second = await rig.op.apps.ListPayApps(pb.ListPayAppsRequest(page_size=1, page_token=first.next_page_token))
    assert [item.app_key for item in (*first.pay_apps, *second.pay_apps)] == ["books", "shop"]
    assert second.next_page_token == ""
    async with fails("PAGE_TOKEN_INVALID", grpc.StatusCode.INVALID_ARGUMENT):
        await rig.op.apps.ListPayApps(pb.ListPayAppsRequest(page_size=1, page_token=first.next_page_token, name="b"))

    await rig.op.apps.DeletePayApp(pb.DeletePayAppRequest(app_key="books"))
    for call in (rig.op.apps.GetPayApp(pb.GetPayAppRequest(app_key="books")),
                 rig.op.apps.DeletePayApp(pb.DeletePayAppRequest(app_key="books")),
                 rig.op.apps.UpdatePayApp(pb.UpdatePayAppRequest(app_key="books", name="x"))):  # fmt: skip
        async with fails("APP_NOT_FOUND", grpc.StatusCode.NOT_FOUND):
            await call
    assert await rig.system.value("SELECT count(*) FROM pay_credential WHERE app_id IS NOT NULL") == 1


async def test_an_app_key_is_taken_once(rig: Rig) -> None:
    async with fails("APP_EXISTS", grpc.StatusCode.ALREADY_EXISTS) as caught:
        await rig.op.apps.CreatePayApp(create("shop"))
    assert caught[0].metadata["app_key"] == "shop"
    assert await rig.system.value("SELECT count(*) FROM pay_app") == 1


async def test_every_wrong_field_is_named(rig: Rig) -> None:
    async with fails("INVALID_FIELD", grpc.StatusCode.INVALID_ARGUMENT) as caught:
        await rig.op.apps.CreatePayApp(
            create("No Such", name="", remark="x" * 256, order_notification_url="ftp://a", refund_notification_url="http://u:p@a/")
        )
    assert {item.field for item in caught[0].violations} == {
        "app_key",
        "name",
        "remark",
        "order_notification_url",
        "refund_notification_url",
    }
    async with fails("INVALID_FIELD") as caught:
        await rig.op.apps.UpdatePayApp(pb.UpdatePayAppRequest(app_key="shop", name="", order_notification_url=""))
    assert {item.field for item in caught[0].violations} == {"name", "order_notification_url"}


async def test_an_app_with_orders_or_refunds_cannot_be_deleted(rig: Rig) -> None:
    system = rig.system
    order = await system.paid("mock")
    async with fails("APP_HAS_ORDERS", grpc.StatusCode.FAILED_PRECONDITION):
        await rig.op.apps.DeletePayApp(pb.DeletePayAppRequest(app_key="shop"))
    await system.refund(order, 10)
    async with fails("APP_HAS_REFUNDS", grpc.StatusCode.FAILED_PRECONDITION):
        await rig.op.apps.DeletePayApp(pb.DeletePayAppRequest(app_key="shop"))
    assert (await rig.op.apps.GetPayApp(pb.GetPayAppRequest(app_key="shop"))).pay_app.app_key == "shop"
    assert await system.value("SELECT count(*) FROM pay_channel") == 4


async def test_secrets_are_shown_once_and_kept_as_hashes_or_sealed(rig: Rig) -> None:
    made = await rig.op.apps.CreatePayApp(create("books"))
    further = await rig.op.credentials.CreateAppCredential(credential_pb.CreateAppCredentialRequest(app_key="books", name="blue"))
    listed = await rig.op.credentials.ListAppCredentials(credential_pb.ListAppCredentialsRequest(app_key="books"))
    assert [item.key_id for item in listed.credentials] == [made.key_id, further.credential.key_id]
    assert [item.name for item in listed.credentials] == ["first", "blue"]
    assert all(item.enabled for item in listed.credentials)
    stored = {row["key_id"]: row["secret_hash"] for row in await rig.system.rows("SELECT * FROM pay_credential")}
    for key_id, secret in ((made.key_id, made.key_secret), (further.credential.key_id, further.key_secret)):
        assert stored[key_id] == hashlib.sha256(secret.encode()).digest()
    rotated = await rig.op.apps.RotateNotificationSecret(pb.RotateNotificationSecretRequest(app_key="books"))
    rows = [*await rig.system.rows("SELECT * FROM pay_app"), *await rig.system.rows("SELECT * FROM pay_credential")]
    dump = "".join(str(dict(row)) for row in rows)
    secrets = (made.key_secret, further.key_secret, made.notification_secret, rotated.notification_secret)
    for secret in secrets:
        assert secret.removeprefix("whsec_") not in dump
    shown = [
        await rig.op.apps.GetPayApp(pb.GetPayAppRequest(app_key="books")), listed,
        await rig.op.apps.ListPayApps(pb.ListPayAppsRequest()),
        await rig.op.apps.UpdatePayApp(pb.UpdatePayAppRequest(app_key="books", remark="r")),
    ]  # fmt: skip
    for answer in shown:
        assert not any(secret.removeprefix("whsec_") in str(answer) for secret in secrets)


async def test_several_credentials_work_and_one_is_disabled_within_five_seconds(rig: Rig) -> None:
    first = await rig.op.credentials.CreateAppCredential(credential_pb.CreateAppCredentialRequest(app_key="shop", name="blue"))
    second = await rig.op.credentials.CreateAppCredential(credential_pb.CreateAppCredentialRequest(app_key="shop", name="green"))
    async with (
        rig.client(first.credential.key_id, first.key_secret) as blue,
        rig.client(second.credential.key_id, second.key_secret) as green,
        rig.client(second.credential.key_id, first.key_secret) as crossed,
    ):
        assert {(await rig.order(client)).app_key for client in (blue, green, rig.shop)} == {"shop"}
        async with fails("CREDENTIALS_INVALID", grpc.StatusCode.UNAUTHENTICATED):
            await rig.order(crossed)
        request = credential_pb.DisableAppCredentialRequest(app_key="shop", key_id=first.credential.key_id)
        disabled = await rig.op.credentials.DisableAppCredential(request)
        assert not disabled.credential.enabled
        since = asyncio.get_running_loop().time()

        async def refused() -> bool:
            try:
                await rig.order(blue)
            except PayCenterError as error:
                return error.reason == "CREDENTIALS_INVALID"
            return False

        await eventually(refused, 6)
        assert asyncio.get_running_loop().time() - since < 5.3
        assert (await rig.order(green)).app_key == "shop"
        again = await rig.op.credentials.DisableAppCredential(request)
        assert not again.credential.enabled
    listed = await rig.op.credentials.ListAppCredentials(credential_pb.ListAppCredentialsRequest(app_key="shop"))
    assert [item.enabled for item in listed.credentials] == [True, False, True]


async def test_a_credential_is_disabled_only_through_its_own_app(rig: Rig) -> None:
    made = await rig.op.apps.CreatePayApp(create("books"))
    for key_id in (made.key_id, "app_0000", "", "\U0001f600"):
        async with fails("CREDENTIAL_NOT_FOUND", grpc.StatusCode.NOT_FOUND):
            await rig.op.credentials.DisableAppCredential(credential_pb.DisableAppCredentialRequest(app_key="shop", key_id=key_id))
    async with fails("INVALID_FIELD"):
        await rig.op.credentials.CreateAppCredential(credential_pb.CreateAppCredentialRequest(app_key="shop", name="x" * 65))
    async with fails("APP_NOT_FOUND"):
        await rig.op.credentials.CreateAppCredential(credential_pb.CreateAppCredentialRequest(app_key="nobody", name="x"))


async def test_both_notification_secrets_sign_for_a_day(rig: Rig) -> None:
    system = rig.system
    old = Webhook(system.secrets["shop"])
    rotated = (await rig.op.apps.RotateNotificationSecret(pb.RotateNotificationSecretRequest(app_key="shop"))).notification_secret
    new = Webhook(rotated)
    await system.paid("mock")
    (post,) = await system.deliver()
    assert len(post.headers["webhook-signature"].split(" ")) == 2
    old.verify(post.body, post.headers)
    new.verify(post.body, post.headers)
    # A receiver that reads only the first signature must use the new secret.
    first_only = {**post.headers, "webhook-signature": post.headers["webhook-signature"].split(" ")[0]}
    new.verify(post.body, first_only)

    system.clock.advance(86_401)
    await system.paid("mock")
    (post,) = await system.deliver()
    assert len(post.headers["webhook-signature"].split(" ")) == 1
    now = system.clock.now()
    NotificationVerifier(rotated).verify(post.headers, post.body, now=now)
    with pytest.raises(NotificationError, match="no signature matches"):
        NotificationVerifier(system.secrets["shop"]).verify(post.headers, post.body, now=now)
