"""Key material and certificates that cannot be used are refused with the module's own error."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from paycenter_server.channels.crypto import CryptoError, alipay_root_cert_sn, load_certificate, load_certificates
from paycenter_server.channels.times import parse_http_date
from unit.channel_support import certificate, keys


def pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("version", [1, 3, 5, 255])
def test_a_certificate_of_an_unknown_version(version: int) -> None:
    der = load_certificate(certificate("ours")).public_bytes(Encoding.DER)
    mark = bytes.fromhex("a003020102")
    assert der.count(mark) == 1
    odd = der.replace(mark, mark[:-1] + bytes([version]))
    with pytest.raises(CryptoError):
        load_certificate(odd)
    # Such a member does not invalidate a bundle.
    root = keys().authority.root_pem()
    assert len(load_certificates(pem(odd) + root)) == 1
    assert alipay_root_cert_sn(pem(odd) + root) == alipay_root_cert_sn(root)


@pytest.mark.parametrize(
    "text", ["", "x", "Sat, 01 Jan 2000 00:00:00 +99999999999999", "Sat, 99 Jan 2000 00:00:00 GMT", "1 2 3 4 5 6"]
)
def test_invalid_dates(text: str) -> None:
    assert parse_http_date(text) is None
