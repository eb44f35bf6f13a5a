"""Which addresses are public, by the IANA registries of special-purpose addresses, whatever Python's version says."""

from __future__ import annotations

import pytest
from paycenter_server.domain.addresses import is_public

PUBLIC = (
    "8.8.8.8", "1.1.1.1", "191.255.255.255", "192.0.1.1", "203.0.114.9", "2400:3200::1", "2606:4700:4700::1111", "2001:200::1",
    "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1", "2400:3200::1%eth0",
)  # fmt: skip
NOT_PUBLIC = (
    # IPv4
    "0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "198.18.0.1", "198.51.100.1", "203.0.113.9", "224.0.0.1", "240.0.0.1", "255.255.255.255",
    # 192.0.0.0/24: all of it, also what is reachable by anycast
    "192.0.0.0", "192.0.0.8", "192.0.0.9", "192.0.0.10", "192.0.0.170", "192.0.0.200", "192.0.0.255", "192.0.2.1",
    # IPv6
    "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fdff::1", "ff02::1", "2001:db8::1", "100::1", "64:ff9b:1::1",
    "fec0::1", "feff:ffff::1", "3fff::1", "3fff:fff:ffff::1", "5f00::1", "5f00:ffff::1", "2001::1", "2001:10::1",
    # IPv4 through IPv6
    "::ffff:127.0.0.1", "::ffff:192.0.0.8", "::10.0.0.1", "64:ff9b::10.0.0.1", "2002:7f00:1::1", "2002:c000:8::1",
)  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("text", ["", "localhost", "pay.example.com", "1.2.3", "[::1]", "0x7f000001", "2130706433"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError):
        is_public(text)
