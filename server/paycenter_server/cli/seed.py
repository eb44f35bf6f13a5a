"""The development data: a demo app with channels at the simulator, and an operator. Idempotent; writes `dev.json`."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import click

from paycenter_server.bootstrap import Services, open_services
from paycenter_server.cli.running import fail, settings_or_exit
from paycenter_server.domain.apps import NotificationSuccess, SurplusPolicy
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.services.apps import NewApp
from paycenter_server.services.channels import NewChannel
from paycenter_server.services.credentials import give_operator_password
from paycenter_server.services.identity import Caller
from paycenter_server.settings import Settings
from paycenter_server.storage import operators as operator_rows

APP_KEY = "demo"
_OPERATOR = "dev"
_FEE_RATE_PPM = 6000


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), required=True, help="Where dev.json and the simulator's keys are.")
@click.option("--simulator-url", required=True, help="Where the simulator listens.")
@click.option("--shop-url", required=True, help="Where the demo shop listens.")
def seed(data_dir: Path, simulator_url: str, shop_url: str) -> None:
    """Migrate, and create what is missing of the development data."""
    from paycenter_server.simulator.keys import generate_keys
    from paycenter_server.storage.migrate import ensure

    settings = settings_or_exit()
    if settings.production:
        fail("`paycenter seed` is for development and is refused in production mode.")
    ensure(settings.database_url)
    keys = generate_keys(data_dir / "simulator-keys")
    configs = channel_configs(keys, simulator_url)
    kept = _read(data_dir / "dev.json")
    made = asyncio.run(_seed(settings, kept, configs, shop_url))
    grpc, callback = settings.grpc_address, settings.callback_address
    made["addresses"] = {
        "grpc": grpc, "callback": f"http://{callback}", "simulator": simulator_url, "shop": shop_url,
        "connect": f"http://{settings.connect_address}",
    }  # fmt: skip
    _write(data_dir / "dev.json", made)


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def _write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all, and private."""
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def channel_configs(keys: Any, simulator_url: str) -> dict[str, tuple[str, dict[str, str]]]:
    """Family and configuration of each demo channel, from the simulator's keys."""
    wechat = {
        "appid": keys.wechatpay["appid"],
        "mchid": keys.wechatpay["mchid"],
        "private_key": keys.text("wechatpay", "apiclient_key.pem"),
        "merchant_serial_no": keys.wechatpay["merchant_serial"],
        "api_v3_key": keys.wechatpay["apiv3_key"],
        "public_key_id": keys.wechatpay["public_key_id"],
        "public_key": keys.text("wechatpay", "pub_key.pem"),
        "gateway_url": simulator_url,
        "mch_key": keys.wechatpay["apiv2_key"],
    }
    alipay = {
        "app_id": keys.alipay["app_id"],
        "seller_id": keys.alipay["seller_id"],
        "mode": "key",
        "private_key": keys.text("alipay", "app_private_key.pem"),
        "alipay_public_key": keys.text("alipay", "alipay_public_key.pem"),
        "gateway_url": f"{simulator_url}/gateway.do",
    }
    certificates = {
        **{name: value for name, value in alipay.items() if name != "alipay_public_key"},
        "mode": "certificate",
        "app_cert": keys.text("alipay", "appCertPublicKey.crt"),
        "alipay_cert": keys.text("alipay", "alipayCertPublicKey_RSA2.crt"),
        "root_cert": keys.text("alipay", "alipayRootCert.crt"),
    }
    return {
        **dict.fromkeys(("wx_native", "wx_pub", "wx_lite", "wx_app", "wx_wap"), ("wechatpay", wechat)),
        "wx_bar": ("wechatpay", wechat_v2_config(keys, simulator_url)),
        **dict.fromkeys(("alipay_qr", "alipay_wap", "alipay_app", "alipay_lite", "alipay_bar"), ("alipay", alipay)),
        "alipay_pc": ("alipay", certificates),
        "mock": ("mock", {}),
    }


def wechat_v2_config(keys: Any, simulator_url: str) -> dict[str, str]:
    """The simulator's merchant as v2 knows it; bar codes go this way."""
    return {
        "appid": keys.wechatpay["appid"],
        "mchid": keys.wechatpay["mchid"],
        "api_version": "v2",
        "mch_key": keys.wechatpay["apiv2_key"],
        "private_key": keys.text("wechatpay", "apiclient_key.pem"),
        "merchant_certificate": keys.text("wechatpay", "apiclient_cert.pem"),
        "gateway_url": simulator_url,
    }


async def _seed(
    settings: Settings, kept: dict[str, Any], configs: dict[str, tuple[str, dict[str, str]]], shop_url: str
) -> dict[str, Any]:
    operator = Caller("seed", None, "")
    async with open_services(settings) as services:
        made: dict[str, Any] = {name: kept[name] for name in ("app", "operator") if name in kept}
        urls: Any = {
            "order_notification_url": f"{shop_url}/notifications/order",
            "refund_notification_url": f"{shop_url}/notifications/refund",
        }
        try:
            await services.apps.get(operator, APP_KEY)
            await services.apps.update(operator, APP_KEY, urls)
        except PayCenterError as error:
            if error.reason is not Reason.APP_NOT_FOUND:
                raise
            new = NewApp(APP_KEY, "Demo shop", "made by paycenter dev", **urls, surplus_policy=SurplusPolicy.REFUND,
                         notification_success=NotificationSuccess.HTTP_2XX)  # fmt: skip
            created = await services.apps.create(operator, new)
            made["app"] = {
                "app_key": APP_KEY,
                "key_id": created.key_id,
                "key_secret": created.key_secret,
                "notification_secret": created.notification_secret,
            }
        known = {
            credential.key_id for credential in await services.credentials.list_of_app(operator, APP_KEY) if credential.enabled
        }
        if "app" not in made or made["app"]["key_id"] not in known:
            # An interrupted start did not write dev.json, or it is of another database. Secrets are shown once: make new ones.
            credential, key_secret = await services.credentials.create(operator, APP_KEY, "seed")
            notification_secret = await services.apps.rotate_notification_secret(operator, APP_KEY)
            made["app"] = {
                "app_key": APP_KEY, "key_id": credential.key_id, "key_secret": key_secret,
                "notification_secret": notification_secret,
            }  # fmt: skip
        known = {one.credential.key_id for one in await services.credentials.list_operators(operator) if one.credential.enabled}
        if "operator" not in made or made["operator"]["key_id"] not in known:
            key_id, key_secret = await services.credentials.create_operator(_OPERATOR)
            made["operator"] = {"key_id": key_id, "key_secret": key_secret}
        made["console"] = await console_operator(services, str(kept.get("console", {}).get("password", "")))
        made["channels"] = await _seed_channels(services, operator, configs)
        return made


async def console_operator(services: Services, kept: str) -> dict[str, str]:
    """The console's operator, with its one-time password until that is changed. `kept`: the one that was given before."""
    database = services.context.database
    async with database.connection() as connection:
        found = await operator_rows.get_operator_by_name(connection, _OPERATOR)
    if found is not None and found.password_hash is not None:
        if not found.must_change_password:
            return {"name": _OPERATOR}
        if await services.passwords.matches(kept, found.password_hash):
            return {"name": _OPERATOR, "password": kept}
    return {"name": _OPERATOR, "password": await give_operator_password(database, services.context.now(), _OPERATOR)}


async def _seed_channels(services: Services, operator: Caller, configs: dict[str, tuple[str, dict[str, str]]]) -> dict[str, str]:
    from paycenter_server.services.paging import Pager

    page = await services.channels.search(operator, APP_KEY, Pager(200, ""))
    known = {view.channel.code: view.channel.number for view in page.items}
    for code, (family, config) in configs.items():
        if code in known:
            await services.channels.update(operator, known[code], {}, family, config)
        else:
            new = NewChannel(
                APP_KEY, code, 0 if code == "mock" else _FEE_RATE_PPM, "at the simulator", family, config, enabled=True
            )
            known[code] = (await services.channels.create(operator, new)).channel.number
    return {code: known[code] for code in configs}
