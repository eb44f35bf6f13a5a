"""Where requests to channels may be sent."""

from __future__ import annotations

import pytest
from paycenter_server.channels.addresses import is_gateway, is_public_gateway, without_credentials

PRIVATE = [
    "https://10.1.2.3/", "https://192.168.1.1", "https://127.0.0.1:8900", "https://169.254.169.254/latest", "https://[::1]/",
    "https://[fe80::1]/", "https://[fd00::1]/gateway.do", "https://localhost/", "https://pay.localhost", "https://proxy.internal",
    "https://printer.local.", "https://intranet/", "https://0.0.0.0/", "https://[::ffff:10.0.0.1]/",
]  # fmt: skip
PUBLIC = [
    "https://api.mch.weixin.qq.com",
    "https://openapi.alipay.com/gateway.do",
    "https://8.8.8.8:8443/x",
    "https://[2400:3200::1]",
]
WITH_CREDENTIALS = ["https://user:secret@pay.example.com/", "https://user@pay.example.com/", "https://:secret@pay.example.com"]
NONE = ["http://api.mch.weixin.qq.com", "ftp://x.com", "https://", "https://x.com/?a=1", "https://x.com/#a", ""]


@pytest.mark.parametrize("url", PRIVATE)
def test_private_addresses_are_refused_in_production(url: str) -> None:
    assert is_gateway(url)
    assert not is_public_gateway(url)


@pytest.mark.parametrize("url", PUBLIC)
def test_public_addresses(url: str) -> None:
    assert is_gateway(url)
    assert is_public_gateway(url)


@pytest.mark.parametrize("url", WITH_CREDENTIALS)
def test_credentials_are_refused_and_never_shown(url: str) -> None:
    assert not is_gateway(url)
    assert not is_public_gateway(url)
    assert without_credentials(url).startswith("https://pay.example.com")


@pytest.mark.parametrize("url", NONE)
def test_invalid_gateways(url: str) -> None:
    assert not is_gateway(url)
    assert not is_public_gateway(url)


def test_an_address_without_credentials_is_shown_as_it_is() -> None:
    assert without_credentials("https://pay.example.com:8443/gateway.do") == "https://pay.example.com:8443/gateway.do"
