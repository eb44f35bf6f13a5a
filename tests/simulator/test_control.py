"""The control API, the pages, the keys, and the data after a restart."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner
from cryptography import x509
from paycenter_server.simulator.cli import command
from paycenter_server.simulator.keys import SimulatorKeys, generate_keys, load_keys

from .merchant import AlipayClient, SimulatorSystem, WechatClient, private_key, public_key

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.asyncio
async def test_trades_log_reset_health(system: SimulatorSystem) -> None:
    client, alipay = WechatClient(system), AlipayClient(system)
    assert (await system.get("/healthz")).body == b"ok"
    await client.create("order0001")
    await client.call("GET", "/v3/certificates", signature="AAAA")
    await alipay.precreate("order1")
    trades = (await system.get("/simulator/trades")).json
    assert [trade["out_trade_no"] for trade in trades] == ["order1", "order0001"]
    assert trades[1]["cashier_url"] == system.base + "/cashier/order0001?protocol=wechatpay_v3"
    log = (await system.get("/simulator/log")).json
    assert [(entry["api"], entry["verdict"]) for entry in log][:2] == [
        ("alipay.trade.precreate", "valid"),
        ("wx.certificates", "refused: SIGN_ERROR 错误的签名,验签失败"),
    ]
    assert (await system.get("/simulator/log?out_trade_no=order0001")).json[0]["status"] == 200
    assert (await system.get("/simulator/keys")).json["wechatpay"]["mchid"] == client.ids["mchid"]
    assert "apiv3_key" not in (await system.get("/simulator/keys")).json["wechatpay"]
    await system.post("/simulator/reset")
    assert (await system.get("/simulator/trades")).json == []
    assert (await client.query("order0001")).status == 404


@pytest.mark.asyncio
async def test_error_messages_of_the_control_api(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    wrongs: list[object] = [{"amount": -1}, {"times": "two"}, {"nonsense": 1}, [], {"payer": 1}, {"notify": "no"}]
    for wrong in wrongs:
        assert (await system.post("/simulator/pay/order0001", wrong)).status == 400
    assert (await system.post("/simulator/refund/order0001")).status == 409
    assert (await system.post("/simulator/close/order0001")).json["wire_state"] == "CLOSED"
    assert (await system.post("/simulator/pay/order0001")).json["trade"]["state"] == "CLOSED"
    assert (await system.post("/simulator/finish/order0001")).status == 409


@pytest.mark.asyncio
async def test_the_same_number_at_both_channels(system: SimulatorSystem) -> None:
    await WechatClient(system).create("order_1")
    await AlipayClient(system).precreate("order_1")
    assert (await system.post("/simulator/pay/order_1?protocol=wechatpay_v3")).json["protocol"] == "wechatpay_v3"
    assert (await system.get("/simulator/trades/order_1")).json["paid"] is False


@pytest.mark.asyncio
@pytest.mark.parametrize("button", ["pay", "pay-twice", "bad-signature", "late", "delay"])
async def test_buttons(system: SimulatorSystem, button: str) -> None:
    client = WechatClient(system)
    await client.create("order0001")
    page = (await system.get("/cashier/order0001")).body.decode()
    assert f'action="/cashier/order0001/{button}?protocol=wechatpay_v3"' in page
    assert "¥ 1.00" in page
    assert not re.search(r'(src|href)="(?!/)', page), "no external content"
    await system.form("/cashier/order0001/fail")
    await system.form(f"/cashier/order0001/{button}", seconds="0")
    trade = (await system.get("/simulator/trades/order0001")).json
    assert trade["paid"] is True
    await system.notifications(2 if button == "pay-twice" else 1)
    assert bool(client.verified(system.received[0].headers, system.received[0].body)) is (button != "bad-signature")
    refused = await system.form("/cashier/order0001/pay")
    assert "problem=" in refused.headers["Location"]
    assert (await system.get(refused.headers["Location"])).body.count(b"paid already")
    await system.form("/cashier/order0001/refund")
    await system.form("/cashier/order0001/resend")
    assert (await client.query("order0001")).json["trade_state"] == "REFUND"
    assert (await system.form("/cashier/order0001/nonsense")).status == 404


@pytest.mark.asyncio
async def test_pages(system: SimulatorSystem) -> None:
    client = WechatClient(system)
    assert "No trades yet" in (await system.get("/")).body.decode()
    await client.create("order0001", description="<script>x</script>")
    await system.post("/simulator/pay/order0001")
    await system.notifications(1)
    for path in ("/", "/trades/order0001", "/cashier/order0001"):
        page = await system.get(path)
        assert page.status == 200
        assert b"<script>" not in page.body
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert b"TRANSACTION.SUCCESS" in (await system.get("/trades/order0001")).body
    assert b"<svg" in (await system.get("/qr/order0001.svg")).body
    assert (await system.get("/trades/nothing")).status == 404
    for name in ("simulator.css", "tabler.min.css", "dark-console.css", "icon.svg"):
        assert (await system.get(f"/static/{name}")).status == 200
    assert b"data-bs-theme=dark]" not in (await system.get("/static/dark-tabler.min.css")).body
    for name in ("console.js", "dark-simulator.css", "..%2fbase.html", "VENDORED.md"):
        assert (await system.get(f"/static/{name}")).status == 404
    assert (await system.get("/cashier?code=nothing")).status == 404
    await system.form("/faults", rules='[{"api": "*", "fault": "slow"}]')
    assert len((await system.get("/simulator/faults")).json["rules"]) == 1
    assert "problem" in (await system.form("/faults", rules="x")).headers["Location"]
    await system.form("/faults", clear="1")
    assert (await system.get("/simulator/faults")).json["rules"] == []
    await system.form("/clock", advance_seconds="60")
    assert round((await system.get("/simulator/clock")).json["offset_seconds"]) == 60
    await system.form("/clock", reset="1")


@pytest.mark.asyncio
async def test_restart_keeps_all_data(system: SimulatorSystem) -> None:
    client, alipay = WechatClient(system), AlipayClient(system)
    await client.create("order0001")
    await alipay.precreate("order1")
    system.answers[:] = [(500, b"")]
    await system.post("/simulator/pay/order0001")
    await system.notifications(1)
    await system.fault("wx.refund", "refund_pending", seconds=1000)
    await client.refund("order0001", "refund1", 40)
    await system.restart()
    assert (await client.query("order0001")).json["trade_state"] == "REFUND"
    assert (await client.refund_query("refund1")).json["status"] == "PROCESSING"
    assert (await client.create("order0001")).json["code"] == "ORDERPAID"
    assert (await alipay.precreate("order1"))["code"] == "10000"
    await system.advance(15)
    await system.notifications(2)
    await system.advance(1000)
    assert client.opened((await system.notifications(3))[2])["refund_status"] == "SUCCESS"
    await system.restart()
    assert (await system.get("/simulator/clock")).json["offset_seconds"] == pytest.approx(1015)


@pytest.mark.asyncio
async def test_sigkill_keeps_paid_trades(system: SimulatorSystem, tmp_path: Path) -> None:
    data = tmp_path / "killed.sqlite3"
    arguments = [sys.executable, "-m", "paycenter_server.simulator", "--port", "0"]
    arguments += ["--keys", str(system.keys.directory), "--data", str(data)]
    process, address = await start(arguments)
    own = system.server
    try:
        client = WechatClient(system)
        paid = []
        system.server = Address(address)  # type: ignore[assignment]
        for index in range(20):
            number = f"order{index:04d}"
            await client.create(number)
            assert (await system.post(f"/simulator/pay/{number}")).status == 200
            paid.append(number)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process, address = await start(arguments)
        system.server = Address(address)  # type: ignore[assignment]
        for number in paid:
            trade = (await system.get(f"/simulator/trades/{number}")).json
            assert trade["paid"]
            assert len(trade["notifications"]) == 1
    finally:
        system.server = own
        process.terminate()
        assert process.wait(5) == 0


class Address:
    """A replacement for TestServer."""

    def __init__(self, address: str) -> None:
        self.address = address

    def make_url(self, path: str) -> str:
        return self.address + path


async def start(arguments: list[str]) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    line = await asyncio.to_thread(process.stdout.readline)
    address = line.split()[-1]
    async with aiohttp.ClientSession() as session, session.get(address + "/healthz") as answer:
        assert answer.status == 200
    return process, address


def test_keys_are_generated_once(tmp_path: Path) -> None:
    first = generate_keys(tmp_path / "keys")
    before = {file: file.read_bytes() for file in (tmp_path / "keys").rglob("*") if file.is_file()}
    again = generate_keys(tmp_path / "keys")
    assert again.settings == first.settings == load_keys(tmp_path / "keys").settings
    assert before == {file: file.read_bytes() for file in (tmp_path / "keys").rglob("*") if file.is_file()}
    for file in before:
        private = b"PRIVATE KEY" in before[file] or file.name == "keys.json"
        assert stat.S_IMODE(file.stat().st_mode) == (0o600 if private else 0o644), file
    (tmp_path / "keys/wechatpay/pub_key.pem").unlink()
    generate_keys(tmp_path / "keys")
    assert before[tmp_path / "keys/wechatpay/pub_key.pem"] == (tmp_path / "keys/wechatpay/pub_key.pem").read_bytes()


def test_keys_match(keys: SimulatorKeys) -> None:
    pairs = (
        ("wechatpay", "apiclient_key.pem", "apiclient_cert.pem"),
        ("wechatpay", "platform_key.pem", "platform_cert.pem"),
        ("wechatpay", "pub_key_private.pem", "pub_key.pem"),
        ("alipay", "app_private_key.pem", "app_public_key.pem"),
        ("alipay", "app_private_key_pkcs1.pem", "appCertPublicKey.crt"),
        ("alipay", "alipay_private_key.pem", "alipay_public_key.pem"),
        ("alipay", "alipay_private_key.pem", "alipayCertPublicKey_RSA2.crt"),
    )
    for channel, private, public in pairs:
        assert private_key(keys.file(channel, private)).public_key() == public_key(keys.file(channel, public))
    assert b"BEGIN RSA PRIVATE KEY" in keys.file("alipay", "app_private_key_pkcs1.pem").read_bytes()
    assert len(keys.wechatpay["apiv3_key"]) == 32
    assert keys.wechatpay["public_key_id"].startswith("PUB_KEY_ID_")
    for file in [*keys.directory.rglob("*cert.pem"), *keys.directory.rglob("*.crt")]:
        if file.name == "tls_cert.pem":  # the self-signed certificate of the TLS listener; it exists only after TLS was used
            continue
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        assert len(f"{certificate.serial_number:x}") == 40
        assert re.fullmatch(r"CN=[^,]+,OU=[^,]+,O=[^,]+,C=CN", certificate.issuer.rfc4514_string())


def test_command(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--keys", str(tmp_path / "k"), "--keys-only"])
    assert result.exit_code == 0
    assert (tmp_path / "k/keys.json").exists()
    options = CliRunner().invoke(command, ["--help"]).output
    assert "--faults" in options
    assert "--tls-port" in options
    (tmp_path / "f.json").write_text("[{}]", encoding="utf-8")
    wrong = CliRunner().invoke(command, ["--keys", str(tmp_path / "k"), "--port", "0", "--faults", str(tmp_path / "f.json")])
    assert wrong.exit_code == 1
    assert "api is required" in wrong.output


def test_package_import_loads_no_dependencies() -> None:
    code = "import sys, paycenter_server.simulator; print('aiohttp' in sys.modules, 'cryptography' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "False"]


def run(folder: Path, *arguments: str) -> str:
    """The error message of the command."""
    result = CliRunner().invoke(command, ["--keys", str(folder / "k"), "--port", "0", *arguments])
    assert result.exit_code in (1, 2) and isinstance(result.exception, SystemExit), result.output
    assert "Traceback" not in result.output
    return result.output


def test_unusable_arguments_have_an_error_message(tmp_path: Path) -> None:
    generate_keys(tmp_path / "k")
    (tmp_path / "d.sqlite3").write_bytes(b"this is not a database, however long it may be" * 100)
    assert "d.sqlite3 cannot be used as --data" in run(tmp_path, "--data", str(tmp_path / "d.sqlite3"))
    with sqlite3.connect(tmp_path / "other.sqlite3") as database:
        database.execute("CREATE TABLE document (kind TEXT, key TEXT, body TEXT, PRIMARY KEY (kind, key))")
        database.execute("INSERT INTO document VALUES ('trade', 'x', '{}')")
    assert "other.sqlite3 has content that this version cannot read" in run(tmp_path, "--data", str(tmp_path / "other.sqlite3"))
    (tmp_path / "f.json").write_text("[" * 3000, encoding="utf-8")
    assert "f.json: nested" in run(tmp_path, "--faults", str(tmp_path / "f.json"))
    assert "--refund-notify-url" in run(tmp_path, "--refund-notify-url", "http://shop.example/")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"cannot listen on 127.0.0.1:{port}" in run(tmp_path, "--tls-port", port)
        assert f"cannot listen on 127.0.0.1:{port}" in run(tmp_path, "--port", port)
    (tmp_path / "file").write_bytes(b"")
    assert "cannot be used" in run(tmp_path, "--keys", str(tmp_path / "file/k"))
    for broken in ("{", "[1]", '{"wechatpay": 5}', '{"wechatpay": {"mchid": 5}}', "[" * 3000):
        (tmp_path / "k/keys.json").write_text(broken, encoding="utf-8")
        assert "keys.json" in run(tmp_path)
    (tmp_path / "k/keys.json").unlink()
    (tmp_path / "k/alipay/app_private_key.pem").write_text("nothing", encoding="utf-8")
    assert "cannot be used" in run(tmp_path)


def test_organisations_in_certificates(keys: SimulatorKeys) -> None:
    organisations = {
        name: x509.load_pem_x509_certificate(keys.file(channel, name).read_bytes()).subject.rfc4514_string().split(",")[2]
        for channel, name in (
            ("alipay", "appCertPublicKey.crt"),
            ("alipay", "alipayCertPublicKey_RSA2.crt"),
            ("alipay", "alipayCertPublicKey_RSA2_next.crt"),
            ("wechatpay", "apiclient_cert.pem"),
        )
    }
    assert list(organisations.values()) == [
        "O=Simulated Merchant",
        "O=Alipay simulator",
        "O=Alipay simulator",
        "O=Simulated Merchant",
    ]
