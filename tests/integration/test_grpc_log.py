"""The request id in errors and log lines, and the lines for administration and failed logins."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import structlog
from paycenter import PayCenterError
from paycenter.v1 import pay_account_service_pb2 as account_pb
from paycenter.v1 import pay_app_service_pb2 as app_pb
from paycenter.v1 import pay_channel_service_pb2 as channel_pb
from paycenter.v1 import pay_credential_service_pb2 as credential_pb
from paycenter.v1 import pay_notification_service_pb2 as notifications_pb
from paycenter.v1 import pay_order_service_pb2 as order_pb
from paycenter.v1.pay_order_service_pb2_grpc import PayOrderServiceStub
from paycenter_server.channels.protocol import CallbackRequest
from paycenter_server.domain.callers import Caller
from paycenter_server.services import callbacks as callbacks_module
from paycenter_server.services import credentials_errors
from paycenter_server.services import identity as identity_module
from paycenter_server.services.audit import Act, Refusals
from paycenter_server.services.identity import LOGGED_A_SECOND
from paycenter_server.services.limits import MOST_LATE_UNKNOWN, UNKNOWN
from paycenter_server.telemetry import Sampled, add_request
from support.grpc_rig import Rig, fails, key_of, open_rig, refused
from support.system import PayCenterSystem
from support.waiting import eventually


@pytest.fixture
async def rig(system: PayCenterSystem) -> AsyncIterator[Rig]:
    async with open_rig(system) as opened:
        yield opened


MOCK = channel_pb.PayChannelConfig(mock=channel_pb.MockConfig())


class LogLines:
    """A processor that keeps every line, as the renderer gets it."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []

    def __call__(self, logger: Any, name: str, event: Any) -> Any:
        self.kept.append({**event, "level": name})
        raise structlog.DropEvent

    def named(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.kept if line["event"] == event]


@pytest.fixture
def lines() -> Any:
    kept = LogLines()
    before = structlog.get_config()
    structlog.configure(processors=[add_request, kept])
    yield kept
    structlog.configure(**before)


async def test_the_request_id_is_in_every_error_and_line(rig: Rig, lines: LogLines) -> None:
    authorization = ("authorization", rig.system.secrets["shop:authorization"])
    async with rig.bare() as channel:
        stub = PayOrderServiceStub(channel)

        async def error_with(*metadata: tuple[str, str], sent: Any = None) -> str:
            call = stub.GetPayOrder(sent or order_pb.GetPayOrderRequest(id="O"), metadata=metadata)
            return str((await refused(call)).info.metadata["request_id"])

        assert await error_with(authorization, ("x-request-id", "order-42/a")) == "order-42/a"
        assert await error_with(("x-request-id", "login")) == "login"
        made = [await error_with(authorization) for _ in range(2)]
        for unusable in ("", "x" * 65, "with space"):
            made.append(await error_with(authorization, ("x-request-id", unusable)))
        assert len(set(made)) == 5
        assert all(len(request_id) == 32 for request_id in made)
        order = await rig.order()
        await rig.system.simulator.fault("wx.native", "error_before_commit", times=-1)
        lines.kept.clear()
        request = order_pb.SubmitPayOrderRequest(id=order.id, channel_code="wx_native")
        error = await refused(stub.SubmitPayOrder(request, metadata=(authorization, ("x-request-id", "submit-1"))))
    assert error.info.metadata["request_id"] == "submit-1"
    # Also what the use case and the channel log.
    assert {line["event"] for line in lines.kept} >= {"channel_answered", "call_failed"}
    assert {line["request_id"] for line in lines.kept} == {"submit-1"}
    assert all(line["peer"].startswith("ipv4:127.0.0.1:") for line in lines.kept)


async def test_every_kind_of_error_has_a_request_id(rig: Rig) -> None:
    order = await rig.order()
    for call in (
        rig.shop.get_order(id="O"), rig.order(amount=0), rig.shop.submit_order(order, "nothing"), rig.op.create_order(
            merchant_order_id="x", subject="x", amount=1, user_ip="::1"), rig.shop.apps.ListPayApps(app_pb.ListPayAppsRequest()),
        rig.client("nobody", "wrong").list_channel_codes(),
    ):  # fmt: skip
        with pytest.raises(PayCenterError) as caught:
            await call
        assert caught.value.metadata["request_id"], repr(caught.value)


async def test_every_administrative_act_is_logged(rig: Rig, lines: LogLines) -> None:
    op, key_id = rig.op, await rig.system.value("SELECT key_id FROM pay_credential WHERE app_id IS NULL")
    shown: list[str] = []
    app = await op.apps.CreatePayApp(
        app_pb.CreatePayAppRequest(
            app_key="new", name="New", order_notification_url="http://m.test/o", refund_notification_url="http://m.test/r"
        )
    )
    shown += [app.key_secret, app.notification_secret]
    await op.apps.UpdatePayApp(app_pb.UpdatePayAppRequest(app_key="new", remark="r"))
    await op.apps.GetPayApp(app_pb.GetPayAppRequest(app_key="new"))
    await op.apps.ListPayApps(app_pb.ListPayAppsRequest())
    shown.append(
        (await op.apps.RotateNotificationSecret(app_pb.RotateNotificationSecretRequest(app_key="new"))).notification_secret
    )
    made = await op.credentials.CreateAppCredential(credential_pb.CreateAppCredentialRequest(app_key="new", name="second"))
    shown.append(made.key_secret)
    second = made.credential.key_id
    await op.credentials.DisableAppCredential(credential_pb.DisableAppCredentialRequest(app_key="new", key_id=second))
    family, values = rig.system.configs["wx_native"]
    assert family == "wechatpay"
    config = channel_pb.PayChannelConfig(generic=channel_pb.GenericConfig(fields={"x": values["private_key"]}))
    async with fails("INVALID_FIELD"):
        await op.channels.CreatePayChannel(channel_pb.CreatePayChannelRequest(app_key="new", code="wx_native", config=config))
    shown.append(values["private_key"])
    created = await op.channels.CreatePayChannel(channel_pb.CreatePayChannelRequest(app_key="new", code="mock", config=MOCK))
    channel, account = created.pay_channel.id, created.pay_channel.account_id
    await op.channels.UpdatePayChannel(channel_pb.UpdatePayChannelRequest(id=channel, enabled=True))
    await op.channels.DeletePayChannel(channel_pb.DeletePayChannelRequest(id=channel))
    await op.accounts.UpdatePayAccount(account_pb.UpdatePayAccountRequest(id=account, remark="r"))
    async with fails("ACCOUNT_IN_USE"):
        await op.accounts.DeletePayAccount(account_pb.DeletePayAccountRequest(id=account))
    async with fails("NOTIFICATION_NOT_FOUND"):
        await op.notifications.ResendPayNotification(notifications_pb.ResendPayNotificationRequest(id="N1"))
    await op.apps.DeletePayApp(app_pb.DeletePayAppRequest(app_key="new"))
    written = lines.named("administration")
    assert all(line["level"] == "info" and line["key_id"] == key_id and line["request_id"] for line in written)
    assert all(line["peer"].startswith("ipv4:127.0.0.1:") for line in written)
    new = {"app_key": "new"}
    assert [(line["method"].partition("/")[2], line["object"], line["outcome"]) for line in written] == [
        ("CreatePayApp", new, "OK"),
        ("UpdatePayApp", new, "OK"),
        ("GetPayApp", new, "OK"),
        ("ListPayApps", {}, "OK"),
        ("RotateNotificationSecret", new, "OK"),
        ("CreateAppCredential", {**new, "key_id": second}, "OK"),
        ("DisableAppCredential", {**new, "key_id": second}, "OK"),
        ("CreatePayChannel", {**new, "code": "wx_native"}, "INVALID_FIELD"),
        ("CreatePayChannel", {**new, "code": "mock", "id": channel, "account_id": account}, "OK"),
        ("UpdatePayChannel", {**new, "code": "mock", "id": channel, "account_id": account}, "OK"),
        ("DeletePayChannel", {"id": channel}, "OK"),
        ("UpdatePayAccount", {"id": account}, "OK"),
        ("DeletePayAccount", {"id": account}, "ACCOUNT_IN_USE"),
        ("ResendPayNotification", {"id": "N1"}, "NOTIFICATION_NOT_FOUND"),
        ("DeletePayApp", new, "OK"),
    ]
    assert not [secret for secret in shown if secret in str(lines.kept)]
    # An app that tries is logged too; what apps do every day is not.
    lines.kept.clear()
    await rig.shop.list_channel_codes()
    await rig.order()
    assert lines.named("administration") == []
    async with fails("PERMISSION_DENIED"):
        await rig.shop.apps.DeletePayApp(app_pb.DeletePayAppRequest(app_key="shop"))
    (line,) = lines.named("administration")
    assert (line["key_id"], line["outcome"]) == (key_of(rig.system)[0], "PERMISSION_DENIED")


async def test_every_failed_login_is_logged_without_the_secret(rig: Rig, lines: LogLines) -> None:
    key_id, secret = key_of(rig.system)
    await rig.system.services.credentials.create(rig.system.caller.__class__("test", None, ""), "shop", "old")
    old = await rig.system.value("SELECT key_id FROM pay_credential WHERE name = 'old'")
    await rig.system.rows("UPDATE pay_credential SET enabled = false WHERE name = 'old'")

    def basic(text: str) -> str:
        return "Basic " + base64.b64encode(text.encode()).decode()

    wanted = [
        (None, "", "no credentials"),
        (basic(f"{key_id}:x{secret}"), key_id, "wrong secret"),
        (basic(f"nobody:{secret}"), "nobody", "unknown key id"),
        (basic(f"{old}:{secret}"), old, "disabled"),
        (basic(f"{'k' * 100}:{secret}"), "k" * 64, "no key id"),
        (f"Bearer {secret}", "", "scheme Bearer"),
        (f"{key_id}:{secret}", "", "no scheme"),
        (f"{secret} x", "", "no scheme"),
        (f"Basic {secret}:", "", "not base64 of key_id:secret"),
    ]
    async with rig.bare() as channel:
        for number, (authorization, _, _) in enumerate(wanted):
            metadata = [("x-request-id", f"r{number}")] + ([("authorization", authorization)] if authorization else [])
            error = await refused(
                PayOrderServiceStub(channel).GetPayOrder(order_pb.GetPayOrderRequest(id="O"), metadata=tuple(metadata))
            )
            assert error.code is grpc.StatusCode.UNAUTHENTICATED
    written = lines.named("login_failed")
    assert [(line["key_id"], line["why"], line["request_id"]) for line in written] == [
        (key, why, f"r{number}") for number, (_, key, why) in enumerate(wanted)
    ]
    assert all(line["level"] == "info" and line["peer"].startswith("ipv4:127.0.0.1:") for line in written)
    assert secret not in str(lines.kept)


async def test_calls_without_a_credential_that_are_many_are_answered_late_and_counted(rig: Rig, lines: LogLines) -> None:
    """Otherwise a stranger could use up the server's time, and fill the disk."""
    admission = rig.server.admission
    async with rig.bare() as channel:
        get: Any = channel.unary_unary("/paycenter.v1.PayOrderService/GetPayOrder")  # type: ignore[call-arg]
        assert await get(b"", timeout=5).code() is grpc.StatusCode.UNAUTHENTICATED
        assert (len(lines.named("call_failed")), len(lines.named("calls_refused"))) == (1, 0)
        admission._refusals_of(UNKNOWN).left = -1000  # a second has passed for as many more
        late = asyncio.ensure_future(get(b"", timeout=5).code())
        await eventually(lambda: admission._late == 1)
        assert await late is grpc.StatusCode.UNAUTHENTICATED
        assert (len(lines.named("call_failed")), len(lines.named("calls_refused"))) == (1, 1)
        admission._late_unknown += MOST_LATE_UNKNOWN  # so many wait
        admission._refusals_of(UNKNOWN).left = -1000
        assert await get(b"", timeout=5).code() is grpc.StatusCode.UNAUTHENTICATED
        assert len(lines.named("call_failed")) == 1, "it is not late, but one of many"


async def test_refused_credentials_that_are_many_are_counted_in_the_log(lines: LogLines, monkeypatch: pytest.MonkeyPatch) -> None:
    logged = Sampled("login_failures_not_logged", LOGGED_A_SECOND, 1)
    monkeypatch.setattr(identity_module, "_logged", logged)
    for _ in range(LOGGED_A_SECOND + 3):
        identity_module._log_failure("op_1", "wrong secret")
    assert len(lines.named("login_failed")) == LOGGED_A_SECOND
    logged._begun -= 1
    identity_module._log_failure("op_1", "wrong secret")
    assert len(lines.named("login_failed")) == LOGGED_A_SECOND + 1
    assert [line["number"] for line in lines.named("login_failures_not_logged")] == [3]


async def test_refused_attempts_that_are_many_are_counted_in_the_log(system: PayCenterSystem, lines: LogLines) -> None:
    refusals, error = Refusals(system.services.context.database, per_minute=2), credentials_errors.credentials_invalid()
    for _ in range(5):
        await refusals.record(Caller("op_1", None, ""), Act("authenticate", "op_1"), error)
    assert len(lines.named("refused")) == 2
    refusals._recorded._begun -= 60
    await refusals.record(Caller("op_1", None, ""), Act("authenticate", "op_1"), error)
    assert [line["number"] for line in lines.named("refusals_not_recorded")] == [3]
    assert len(lines.named("refused")) == 3


async def test_refused_callbacks_that_are_many_are_counted_in_the_log(
    system: PayCenterSystem, lines: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = Sampled("callback_refusals_not_logged", 2, 60)
    monkeypatch.setattr(callbacks_module, "_logged", logged)
    for _ in range(5):
        await system.services.callbacks.receive(system.channels["wx_native"], CallbackRequest({}, b"{}", ""))
    assert len(lines.named("callback_refused")) == 2
    logged._begun -= 60
    await system.services.callbacks.receive(system.channels["wx_native"], CallbackRequest({}, b"{}", ""))
    assert [line["number"] for line in lines.named("callback_refusals_not_logged")] == [3]


async def test_a_callback_has_a_request_id_in_its_lines(system: PayCenterSystem, lines: LogLines) -> None:
    url = f"{system.sidecar}/callback/order/{system.channels['wx_native']}"
    for headers in ({"x-request-id": "proxy-7"}, {}):
        async with system.session.post(url, data=b"{}", headers=headers) as response:
            assert response.status == 500
    first, second = lines.named("callback_refused")
    assert (first["request_id"], first["peer"]) == ("proxy-7", "127.0.0.1")
    assert len(second["request_id"]) == 32
