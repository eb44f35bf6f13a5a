"""PayChannelService over the wire: configuration, secrets, guards."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from paycenter import PayCenterError
from paycenter.v1 import pay_channel_service_pb2 as pb
from paycenter_server.bootstrap import open_services
from paycenter_server.channels.crypto import CryptoError
from paycenter_server.settings import Settings
from support.grpc_rig import Rig, fails, open_rig
from support.system import PayCenterSystem

PROTO = Path(__file__).resolve().parents[2] / "protos" / "paycenter" / "v1" / "pay_channel_service.proto"


@pytest.fixture
async def rig(system: PayCenterSystem) -> AsyncIterator[Rig]:
    async with open_rig(system) as opened:
        yield opened


def promised_secrets(code: str) -> set[str]:
    """The fields that the proto marks as secret."""
    message = {"wx_native": "WechatPayConfig", "mock": "MockConfig"}.get(code, "AlipayConfig")
    block = PROTO.read_text().split(f"message {message} {{")[1].split("\n}")[0]
    return set(re.findall(r"// Secret\.[^\n]*(?:\n  //[^\n]*)*\n  string (\w+) =", block))


def config(family: str, **fields: Any) -> pb.PayChannelConfig:
    given: dict[str, Any] = {family: fields}
    return pb.PayChannelConfig(**given)


async def books(rig: Rig) -> None:
    await rig.system.add_app("books", codes=())


def request(code: str, given: pb.PayChannelConfig, **more: Any) -> pb.CreatePayChannelRequest:
    return pb.CreatePayChannelRequest(app_key="books", code=code, fee_rate_ppm=6000, config=given, **more)


async def make(rig: Rig, code: str, **more: Any) -> pb.PayChannel:
    family, fields = rig.system.configs[code]
    made: pb.PayChannel = (await rig.op.channels.CreatePayChannel(request(code, config(family, **fields), **more))).pay_channel
    return made


@pytest.mark.parametrize("code", ["wx_native", "alipay_qr", "alipay_pc", "mock"])
async def test_create_read_change_list_delete(rig: Rig, code: str) -> None:
    await books(rig)
    family, fields = rig.system.configs[code]
    made = await make(rig, code, remark="主", disabled=True)
    assert (made.app_key, made.code, made.enabled, made.fee_rate_ppm, made.remark) == ("books", code, False, 6000, "主")
    assert made.config.WhichOneof("family") == family
    secrets = promised_secrets(code) & set(fields)
    assert ("private_key" in secrets) is (code != "mock")
    assert list(made.configured_secrets) == sorted(secrets)
    shown = getattr(made.config, family)
    for name, value in fields.items():
        assert getattr(shown, name) == ("" if name in secrets else value), name
    assert made.order_callback_url == f"{rig.system.settings.order_callback_url}/{made.id}"
    assert made.refund_callback_url == f"{rig.system.settings.refund_callback_url}/{made.id}"

    changed = await rig.op.channels.UpdatePayChannel(
        pb.UpdatePayChannelRequest(id=made.id, enabled=True, fee_rate_ppm=0, remark="")
    )
    assert (changed.pay_channel.enabled, changed.pay_channel.fee_rate_ppm, changed.pay_channel.remark) == (True, 0, "")
    assert changed.pay_channel.config == made.config
    got = await rig.op.channels.GetPayChannel(pb.GetPayChannelRequest(id=made.id))
    assert got.pay_channel == changed.pay_channel
    listed = await rig.op.channels.ListPayChannels(pb.ListPayChannelsRequest(app_key="books"))
    assert list(listed.pay_channels) == [got.pay_channel]
    everything = await rig.op.channels.ListPayChannels(pb.ListPayChannelsRequest(page_size=3))
    rest = await rig.op.channels.ListPayChannels(pb.ListPayChannelsRequest(page_size=3, page_token=everything.next_page_token))
    assert len({item.id for item in (*everything.pay_channels, *rest.pay_channels)}) == 5
    codes = await rig.op.channels.ListEnabledChannelCodes(pb.ListEnabledChannelCodesRequest(app_key="books"))
    assert list(codes.codes) == [code]
    raw = await rig.system.value("SELECT string_agg(config::text, '') FROM (SELECT config FROM pay_account UNION ALL "
                                "SELECT config FROM pay_binding) AS stored")  # fmt: skip
    for name in secrets:
        assert json.dumps(fields[name])[1:-1] not in raw
        for answer in (made, changed, got, listed, everything):
            assert fields[name] not in str(answer)

    await rig.op.channels.DeletePayChannel(pb.DeletePayChannelRequest(id=made.id))
    for call in (rig.op.channels.GetPayChannel(pb.GetPayChannelRequest(id=made.id)),
                 rig.op.channels.UpdatePayChannel(pb.UpdatePayChannelRequest(id=made.id, remark="x")),
                 rig.op.channels.DeletePayChannel(pb.DeletePayChannelRequest(id=made.id))):  # fmt: skip
        async with fails("CHANNEL_NOT_FOUND", grpc.StatusCode.NOT_FOUND):
            await call


@pytest.mark.parametrize(
    ("code", "given", "wrong"),
    [
        (
            "wx_native",
            config("wechatpay", appid="!", mchid="abc", api_version="v9", private_key="secret-1", merchant_serial_no="xyz",
                   api_v3_key="secret-2", public_key_id="no", public_key="nor this", gateway_url="http://evil.test"),
            {"appid", "mchid", "api_version", "private_key", "merchant_serial_no", "api_v3_key", "public_key_id", "public_key",
             "gateway_url"},
        ),
        (
            "alipay_qr",
            config("alipay", app_id="x", seller_id="y", mode="key", private_key="secret-1", alipay_public_key="z",
                   gateway_url="ftp:"),
            {"app_id", "seller_id", "private_key", "alipay_public_key", "gateway_url"},
        ),
        (
            "alipay_pc",
            config("alipay", app_id="x", mode="certificate", private_key="secret-1", app_cert="a", alipay_cert="b", root_cert="c"),
            {"app_id", "private_key", "app_cert", "alipay_cert", "root_cert"},
        ),
        ("mock", config("mock", behaviour="explode"), {"behaviour"}),
    ],
)  # fmt: skip
async def test_every_wrong_field_of_a_configuration_is_named(
    rig: Rig, code: str, given: pb.PayChannelConfig, wrong: set[str]
) -> None:
    await books(rig)
    async with fails("INVALID_FIELD", grpc.StatusCode.INVALID_ARGUMENT) as caught:
        await rig.op.channels.CreatePayChannel(request(code, given))
    assert {item.field for item in caught[0].violations} == {f"config.{name}" for name in wrong}
    assert "secret-" not in f"{caught[0]} {caught[0].violations}"
    assert await rig.system.value("SELECT count(*) FROM pay_channel") == 4


@pytest.mark.parametrize("code", ["wx_native", "alipay_qr", "mock"])
async def test_what_the_proto_calls_secret_is_sealed(rig: Rig, code: str) -> None:
    assert rig.system.services.context.registry[code].secret_fields == promised_secrets(code)


async def test_the_family_must_be_the_code_s(rig: Rig) -> None:
    await books(rig)
    for code, given, field in (
        ("wx_native", config("alipay", app_id="1"), "config"),
        ("mock", pb.PayChannelConfig(), "config"),
        ("mock", config("generic", fields={"behaviour": "success"}), "config"),
        ("paypal", config("mock"), "code"),
        ("", config("mock"), "code"),
    ):
        async with fails("INVALID_FIELD") as caught:
            await rig.op.channels.CreatePayChannel(request(code, given))
        assert [item.field for item in caught[0].violations] == [field]
    for rate in (-1, 1_000_001, 2**31 - 1):
        async with fails("INVALID_FIELD") as caught:
            await rig.op.channels.CreatePayChannel(
                pb.CreatePayChannelRequest(app_key="books", code="mock", config=config("mock"), fee_rate_ppm=rate)
            )
        assert [item.field for item in caught[0].violations] == ["fee_rate_ppm"]


async def test_an_update_keeps_the_secrets_that_it_leaves_empty(rig: Rig) -> None:
    made = (await rig.op.channels.GetPayChannel(pb.GetPayChannelRequest(id=rig.system.channels["wx_native"]))).pay_channel
    _, fields = rig.system.configs["wx_native"]
    shown = pb.PayChannelConfig()
    shown.CopyFrom(made.config)
    shown.wechatpay.appid = "wx0000000000000001"
    after = (await rig.op.channels.UpdatePayChannel(pb.UpdatePayChannelRequest(id=made.id, config=shown))).pay_channel
    assert after.config.wechatpay.appid == "wx0000000000000001"
    assert (after.configured_secrets, after.account_id) == (made.configured_secrets, made.account_id)
    shown.wechatpay.api_v3_key = "k" * 32
    await rig.op.channels.UpdatePayChannel(pb.UpdatePayChannelRequest(id=made.id, config=shown))
    (row,) = await rig.system.rows("SELECT * FROM pay_account WHERE family = 'wechatpay'")
    opened = rig.system.services.context.box.open
    assert opened(row["config"]["api_v3_key"]["sealed"], f"pay_account:{row['id']}:api_v3_key") == "k" * 32
    kept = opened(row["config"]["private_key"]["sealed"], f"pay_account:{row['id']}:private_key")
    assert kept == fields["private_key"]
    shown.wechatpay.api_v3_key = "too short"
    async with fails("INVALID_FIELD") as caught:
        await rig.op.channels.UpdatePayChannel(pb.UpdatePayChannelRequest(id=made.id, config=shown))
    assert [item.field for item in caught[0].violations] == ["config.api_v3_key"]
    # The secrets of one merchant are never used for another: they are missing.
    shown.wechatpay.api_v3_key = ""
    shown.wechatpay.mchid = "1900000109"
    async with fails("INVALID_FIELD") as caught:
        await rig.op.channels.UpdatePayChannel(pb.UpdatePayChannelRequest(id=made.id, config=shown))
    assert {item.field for item in caught[0].violations} >= {"config.api_v3_key", "config.private_key"}
    assert await rig.system.value("SELECT count(*) FROM pay_account WHERE family = 'wechatpay'") == 1


async def test_a_sealed_secret_is_tied_to_its_row_and_field(rig: Rig) -> None:
    rows = await rig.system.rows("SELECT * FROM pay_account WHERE family IN ('wechatpay', 'alipay') ORDER BY family")
    box = rig.system.services.context.box
    alipay, wechat = rows
    sealed = wechat["config"]["private_key"]["sealed"]
    assert box.open(sealed, f"pay_account:{wechat['id']}:private_key").startswith("-----BEGIN")
    for place in (f"pay_account:{alipay['id']}:private_key", f"pay_account:{wechat['id']}:api_v3_key", ""):
        with pytest.raises(CryptoError):
            box.open(sealed, place)
    version, key_id, body = sealed.split(":")
    with pytest.raises(CryptoError):
        box.open(f"{version}:{key_id}:{body[:-8]}AAAAAAA=", f"pay_account:{wechat['id']}:private_key")
    # After a move to another row in the database it cannot be opened.
    await rig.system.rows(
        "UPDATE pay_account SET config = jsonb_set(config, '{private_key,sealed}', to_jsonb($1::text)), version = version + 1 "
        "WHERE id = $2", sealed, alipay["id"],
    )  # fmt: skip
    order = await rig.order()
    async with fails("INTERNAL"):
        await rig.shop.submit_order(order, "alipay_qr")


async def test_one_channel_per_app_and_code(rig: Rig) -> None:
    await books(rig)
    await make(rig, "mock")
    async with fails("CHANNEL_EXISTS", grpc.StatusCode.ALREADY_EXISTS) as caught:
        await make(rig, "mock")
    assert caught[0].metadata["channel_code"] == "mock"


async def test_a_channel_with_attempts_cannot_be_deleted(rig: Rig) -> None:
    order = await rig.order()
    await rig.shop.submit_order(order, "mock")
    async with fails("CHANNEL_HAS_ORDERS", grpc.StatusCode.FAILED_PRECONDITION):
        await rig.op.channels.DeletePayChannel(pb.DeletePayChannelRequest(id=rig.system.channels["mock"]))


async def test_a_disabled_channel_takes_nothing_new(rig: Rig) -> None:
    await rig.op.channels.UpdatePayChannel(pb.UpdatePayChannelRequest(id=rig.system.channels["mock"], enabled=False))
    order = await rig.order()
    async with fails("CHANNEL_DISABLED", grpc.StatusCode.FAILED_PRECONDITION) as caught:
        await rig.shop.submit_order(order, "mock")
    assert caught[0].metadata["channel_code"] == "mock"
    assert await rig.shop.list_channel_codes() == ["alipay_pc", "alipay_qr", "wx_native"]
    async with fails("CHANNEL_NOT_FOUND"):
        await rig.shop.submit_order(order, "alipay_bar")


async def test_two_operators_do_not_overwrite_each_other(rig: Rig) -> None:
    calls = [
        rig.op.channels.UpdatePayChannel(pb.UpdatePayChannelRequest(id=rig.system.channels["mock"], remark=f"r{index}"))
        for index in range(8)
    ]
    results = await asyncio.gather(*(_outcome(call) for call in calls))
    assert set(results) <= {"done", "CHANNEL_CHANGED"}
    assert "done" in results
    version = await rig.system.value("SELECT version FROM pay_channel WHERE code = 'mock'")
    assert version == 1 + results.count("done")


async def _outcome(call: Any) -> str:
    try:
        await call
    except PayCenterError as error:
        return str(error.reason)
    return "done"


async def test_mock_is_refused_in_production(system: PayCenterSystem) -> None:
    settings = Settings(
        mode="production", database_url=system.database_url, redis_url=system.settings.redis_url,
        master_key_file=system.settings.master_key_file, order_callback_url="https://pay.test/callback/order",
        refund_callback_url="https://pay.test/callback/refund",
    )  # fmt: skip
    await system.add_app("books", codes=())
    async with open_services(settings) as services, open_rig(replace(system, services=services)) as rig:
        async with fails("CHANNEL_NOT_ALLOWED", grpc.StatusCode.FAILED_PRECONDITION):
            await rig.op.channels.CreatePayChannel(request("mock", config("mock")))
        # A channel from development, in a database that is used in production.
        order = await rig.order()
        async with fails("CHANNEL_NOT_ALLOWED"):
            await rig.shop.submit_order(order, "mock")
        family, fields = system.configs["wx_native"]
        # The simulator's address is refused in production, so this is another account.
        fields = {**fields, "gateway_url": "", "mchid": "1900000109"}
        made = await rig.op.channels.CreatePayChannel(request("wx_native", config(family, **fields)))
        assert made.pay_channel.order_callback_url == f"https://pay.test/callback/order/{made.pay_channel.id}"
        for refused in ("https://10.0.0.8", "http://127.0.0.1:8900", "https://user:hunter2@pay.test"):
            async with fails("INVALID_FIELD") as caught:
                wrong = config(family, **{**fields, "gateway_url": refused})
                await rig.op.channels.UpdatePayChannel(pb.UpdatePayChannelRequest(id=made.pay_channel.id, config=wrong))
            assert [item.field for item in caught[0].violations] == ["config.gateway_url"]
            assert "hunter2" not in f"{caught[0]} {caught[0].violations}"


@pytest.mark.parametrize("url", ["http://pay.test/notify", "pay.test/notify", "https://pay.test/n?x=1", "ftp://pay.test/n"])
def test_production_needs_https_where_channels_call_back(url: str, master_key_file: Path) -> None:
    with pytest.raises(ValueError, match=r"https|absolute"):
        Settings(mode="production", database_url="postgresql://x/y", master_key_file=master_key_file,
                 order_callback_url=url, refund_callback_url="https://pay.test/r")  # fmt: skip


async def test_a_password_in_a_stored_gateway_is_not_shown(rig: Rig) -> None:
    await rig.system.rows(
        """UPDATE pay_account SET config = jsonb_set(config, '{gateway_url}', '"https://user:hunter2@pay.test/x"'),
           version = version + 1 WHERE family = 'alipay'"""
    )
    shown = await rig.op.channels.GetPayChannel(pb.GetPayChannelRequest(id=rig.system.channels["alipay_qr"]))
    assert shown.pay_channel.config.alipay.gateway_url == "https://pay.test/x"
