"""WeChat Pay v2 over mutual TLS: the merchant's certificate is sent, and its key is not written to disk."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer
from paycenter_server.channels.protocol import Call, ClientCertificate, RefundRequest, RequestContext
from paycenter_server.channels.registry import installed
from paycenter_server.channels.transport import AiohttpTransport, TransportUnclearError
from paycenter_server.cli.seed import wechat_v2_config
from paycenter_server.simulator.app import create_app
from paycenter_server.simulator.keys import load_keys, server_context
from paycenter_server.simulator.settings import SimulatorConfig


async def test_refunds_go_over_mutual_tls(keys_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = load_keys(keys_dir)
    server = TestServer(create_app(SimulatorConfig(keys_dir=keys_dir)), scheme="https")
    await server.start_server(ssl=server_context(keys))
    monkeypatch.setenv("SSL_CERT_FILE", str(keys.file("wechatpay", "tls_cert.pem")))
    config = wechat_v2_config(keys, f"https://127.0.0.1:{server.port}")
    codec = installed()["wx_native"].build(config)
    now = datetime.now(UTC)
    refund = RefundRequest("P" + "0" * 26, "R" + "0" * 26, 10, 100, "CNY", "x", "https://pay.example.test/n", now)
    call = codec.refund(refund, RequestContext(now, "n" * 32))
    assert isinstance(call, Call)
    transport = AiohttpTransport()
    answer = await transport.send(call.request, 3)
    # The channel completed the TLS handshake, verified our signature, and signed its answer: there is no such order.
    outcome = call.parse(answer, now)
    assert outcome.error_code not in ("RETURN_FAIL", "UNCLEAR", "SIGNERROR")
    assert call.request.client_certificate is not None
    assert transport._tls(call.request.client_certificate) is transport._tls(call.request.client_certificate)
    with pytest.raises(TransportUnclearError):
        await transport.send(replace(call.request, client_certificate=None), 3)
    await transport.aclose()
    await server.close()


async def test_the_key_is_not_written_to_disk(keys_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from paycenter_server.channels.transport import client_context

    keys = load_keys(keys_dir)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    material = ClientCertificate(
        keys.text("wechatpay", "apiclient_cert.pem").encode(), keys.text("wechatpay", "apiclient_key.pem").encode()
    )
    await asyncio.to_thread(client_context, material)
    assert list(tmp_path.iterdir()) == []
    assert "PRIVATE" not in repr(material)
