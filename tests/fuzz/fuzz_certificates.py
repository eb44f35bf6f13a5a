"""Keys and certificates, PEM and base64, one or a bundle; and the ciphertexts that channels send."""

from __future__ import annotations

import base64

import atheris  # type: ignore[import-not-found,unused-ignore]
from harness import fuzz

with atheris.instrument_imports(include=["paycenter_server.channels"]):
    from paycenter_server.channels import crypto

KEY = b"0123456789abcdef0123456789ABCDEF"


def target(data: bytes) -> None:
    bare = base64.b64encode(data)
    pem = b"-----BEGIN CERTIFICATE-----\n" + bare + b"\n-----END CERTIFICATE-----\n"
    for load in (crypto.load_certificate, crypto.load_public_key, crypto.load_private_key, crypto.b64decode):
        for material in (data, bare, data.decode("latin-1")):
            try:
                load(material)
            except crypto.CryptoError:
                pass
    for certificate in [*crypto.load_certificates(pem), *crypto.load_certificates(data)]:
        try:
            crypto.certificate_public_key(certificate)
        except crypto.CryptoError:
            pass
        crypto.certificate_serial(certificate)
    try:
        crypto.alipay_root_cert_sn(pem)
    except crypto.CryptoError:
        pass
    for decrypt in (crypto.aes_cbc_decrypt, crypto.aes_ecb_decrypt):
        try:
            decrypt(KEY, data)
        except crypto.CryptoError:
            pass
    crypto.aes_gcm_decrypt(KEY, data[:12], data[12:], b"certificate")


fuzz(target, (crypto.CryptoError,))
