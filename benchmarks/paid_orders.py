"""Orders with an open attempt at WeChat Pay, and the callbacks about their payments, for the subject `callback`."""

from __future__ import annotations

import base64
import json
import re
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from fixtures import App, settings_of
from paycenter_server.bootstrap import open_services
from paycenter_server.channels.crypto import RSAPrivateKey, aes_gcm_decrypt, aes_gcm_encrypt, rsa_sign, rsa_verify
from paycenter_server.channels.wechatpay.signature import answer_message
from paycenter_server.cli.seed import channel_configs
from paycenter_server.domain.attempts import PayAttempt, new_attempt
from paycenter_server.domain.callers import Caller
from paycenter_server.domain.events import Cause
from paycenter_server.domain.orders import PayOrder, new_order
from paycenter_server.services.channels import NewChannel
from paycenter_server.services.channels_configured import ConfiguredChannel
from paycenter_server.simulator.keys import SimulatorKeys, generate_keys
from paycenter_server.storage import payments_direct
from paycenter_server.storage.attempts import ATTEMPTS
from paycenter_server.storage.database import prepare
from paycenter_server.storage.orders import ORDERS
from processes import Processes

AMOUNT = 1990


@dataclass(frozen=True)
class WechatChannel:
    """A channel of the app at WeChat Pay, with the keys of both sides."""

    configured: ConfiguredChannel
    app: Any
    keys: SimulatorKeys


async def make_channel(made: Processes, app: App, folder: Path, url: str) -> WechatChannel:
    """A channel with generated keys. `url`: of the simulator."""
    keys = generate_keys(folder)
    family, config = channel_configs(keys, url)["wx_native"]
    operator = Caller("benchmark", None, "")
    async with open_services(settings_of(made)) as services:
        new = NewChannel("shop", "wx_native", 6000, "", family, config, enabled=True)
        view = await services.channels.create(operator, new)
        configured = await services.gateway.channels.bound(view.channel.binding_id)
        return WechatChannel(configured, await services.identity.app_of(Caller(app.key_id, app.id, "shop"), ""), keys)


async def make_attempts(made: Processes, channel: WechatChannel, first: int, count: int) -> list[PayAttempt]:
    """Orders with an attempt each. The ids of both have the numbers from `first` on."""
    now, bound = datetime.now(UTC), channel.configured.binding
    until = now + timedelta(hours=2)
    orders: list[PayOrder] = []
    attempts: list[PayAttempt] = []
    for number in range(first, first + count):
        key = key_of(number)
        order = new_order(
            key, now, channel.app, merchant_order_id=f"c{number}", subject="Tea", body="Green tea, 100 g", amount=AMOUNT,
            currency="CNY", expire_time=until, user_ip="203.0.113.7", user_id="user-1", return_url="",
        )  # fmt: skip
        orders.append(order)
        attempts.append(
            new_attempt(
                key, now, order, channel_id=bound.channel_id, account_id=bound.account_id, binding_id=bound.id,
                channel_code="wx_native", wanted_mode="", channel_extras={}, return_url="", user_ip="203.0.113.7",
                expire_time=until, next_check_time=until, fee_rate_ppm=6000,
            )
        )  # fmt: skip
    connection = await asyncpg.connect(made.urls.database_url)
    await prepare(connection)
    try:
        await connection.executemany(ORDERS.insert, [ORDERS.values(order) for order in orders])
        await connection.executemany(ATTEMPTS.insert, [ATTEMPTS.values(attempt) for attempt in attempts])
    finally:
        await connection.close()
    return attempts


def key_of(number: int) -> UUID:
    """The id of an order and its attempt, which pgbench computes too."""
    return UUID(f"00000000-0000-7000-8000-{number:012d}")


async def unpaid(made: Processes, first: int, count: int) -> int:
    """How many of these orders are not paid, or have not one notification."""
    connection = await asyncpg.connect(made.urls.database_url)
    try:
        return int(
            await connection.fetchval(
                """SELECT count(*) FROM unnest($1::uuid[]) k WHERE NOT EXISTS (SELECT 1 FROM pay_order p WHERE p.id = k
                     AND p.state = 'SUCCESS' AND p.paid_amount = $2 AND p.version = 1)
                     OR (SELECT count(*) FROM pay_notify_task t WHERE t.data_id = k) <> 1""",
                [key_of(number) for number in range(first, first + count)], AMOUNT,
            )
        )  # fmt: skip
    finally:
        await connection.close()


def callback(channel: WechatChannel, out_trade_no: str) -> tuple[dict[str, str], bytes]:
    """Headers and body of the callback about the payment of an attempt, as WeChat Pay sends it."""
    facts, now = channel.configured.codec.account, datetime.now(UTC)
    paid = {
        "mchid": facts["mchid"], "appid": facts["appid"], "out_trade_no": out_trade_no,
        "transaction_id": f"4200{secrets.randbelow(10**24):024d}", "trade_type": "NATIVE", "trade_state": "SUCCESS",
        "trade_state_desc": "支付成功", "bank_type": "OTHERS", "attach": "", "success_time": now.isoformat(timespec="seconds"),
        "payer": {"openid": f"o{secrets.token_hex(13)}"},
        "amount": {"total": AMOUNT, "payer_total": AMOUNT, "currency": "CNY", "payer_currency": "CNY"},
    }  # fmt: skip
    nonce, key = secrets.token_hex(6), channel.keys.wechatpay["apiv3_key"].encode()
    sealed = aes_gcm_encrypt(key, nonce.encode(), json.dumps(paid, ensure_ascii=False).encode(), b"transaction")
    resource = {
        "original_type": "transaction", "algorithm": "AEAD_AES_256_GCM", "ciphertext": base64.b64encode(sealed).decode(),
        "associated_data": "transaction", "nonce": nonce,
    }  # fmt: skip
    envelope = {
        "id": secrets.token_hex(16), "create_time": now.isoformat(timespec="seconds"), "resource_type": "encrypt-resource",
        "event_type": "TRANSACTION.SUCCESS", "summary": "支付成功", "resource": resource,
    }  # fmt: skip
    body = json.dumps(envelope, ensure_ascii=False, separators=(",", ":")).encode()
    timestamp, nonce = str(int(time.time())), secrets.token_hex(16)
    return {
        "Content-Type": "application/json", "Accept": "*/*", "User-Agent": "Mozilla/4.0", "Wechatpay-Nonce": nonce,
        "Wechatpay-Timestamp": timestamp, "Wechatpay-Serial": channel.keys.wechatpay["public_key_id"],
        "Wechatpay-Signature-Type": "WECHATPAY2-SHA256-RSA2048",
        "Wechatpay-Signature": rsa_sign(_signer(channel), answer_message(timestamp, nonce, body)),
    }, body  # fmt: skip


def _signer(channel: WechatChannel) -> RSAPrivateKey:
    return channel.keys.public_key_private


def http_request(channel: WechatChannel, headers: dict[str, str], body: bytes) -> bytes:
    """The bytes of the request to the sidecar."""
    lines = [
        f"POST /callback/order/{channel.configured.channel.number} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode() + body


def proof_microseconds(channel: WechatChannel, headers: dict[str, str], body: bytes) -> float:
    """The processor time of what a callback needs in any case: one RSA verification, one decryption, one JSON text."""
    public, key = _signer(channel).public_key(), channel.keys.wechatpay["apiv3_key"].encode()
    message = answer_message(headers["Wechatpay-Timestamp"], headers["Wechatpay-Nonce"], body)
    resource = json.loads(body)["resource"]
    sealed = base64.b64decode(resource["ciphertext"])
    count, started = 3000, time.process_time()
    for _ in range(count):
        assert rsa_verify(public, message, headers["Wechatpay-Signature"])
        aes_gcm_decrypt(key, resource["nonce"].encode(), sealed, b"transaction")
        json.loads(body)
    return (time.process_time() - started) / count * 1e6


def settle_script(channel: WechatChannel, booking: payments_direct.DirectBooking, clients: int) -> str:
    """A script for pgbench: the statement that books callbacks, with one payment, the next one of the client each time."""
    from paycenter_server.storage.events import cause_values

    cause: Cause = booking.cause
    kind, actor, evidence = cause_values(cause)
    key = "('00000000-0000-7000-8000-' || lpad(:number::text, 12, '0'))::uuid"
    values: list[Any] = [
        key, booking.account_id, booking.binding_id, booking.amount, booking.currency, booking.channel_order_no,
        booking.channel_user_id, booking.success_time, booking.fee_rate_ppm, "uuidv7()", booking.event, booking.payload, booking.at,
        kind, actor, json.dumps(evidence),
    ]  # fmt: skip
    texts = [
        value if value in (key, "uuidv7()") else str(value) if isinstance(value, int) else _quoted(str(value)) for value in values
    ]
    statement = re.sub(r"\$(\d+)::", lambda found: f"ARRAY[{texts[int(found.group(1)) - 1]}]::", payments_direct._BOOK)
    lines = [line for line in statement.splitlines() if not line.strip().startswith("--")]
    counted = f"\\set at :at + 1\n\\set number :first + :at * {clients} + :client_id\n"
    return f"{counted}{' '.join(' '.join(lines).split())};\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "''").replace(":", "\\072").replace(payments_direct.GAP, "\\x01")
    return f"E'{escaped}'"
