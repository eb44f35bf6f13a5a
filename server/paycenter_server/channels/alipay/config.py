"""The configuration of an Alipay application: its fields and their check."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from paycenter_server.channels.addresses import is_gateway
from paycenter_server.channels.crypto import (
    CryptoError,
    alipay_root_cert_sn,
    b64decode,
    certificate_public_key,
    load_certificate,
    load_private_key,
    load_public_key,
)
from paycenter_server.channels.specs import ConfigField, FieldKind, Scope
from paycenter_server.domain.errors import Violation

GATEWAY = "https://openapi.alipay.com/gateway.do"

# In the order in which a person has them at hand.
FIELDS = (
    ConfigField(
        "mode", scope=Scope.CHANNEL, label="Mode", kind=FieldKind.SELECT,
        choices=(("key", "Public key"), ("certificate", "Certificate")),
    ),
    ConfigField("app_id", label="Application id"),
    ConfigField("seller_id", label="Seller's user id", help="2088…; may be empty"),
    ConfigField("private_key", secret=True, label="Application's private key", kind=FieldKind.PEM),
    ConfigField(
        "alipay_public_key", label="Alipay's public key", kind=FieldKind.PEM,
        help="Not the application's: Alipay shows it after the upload.", mode="key",
    ),
    ConfigField(
        "app_cert", label="Application's certificate", kind=FieldKind.PEM, help="appCertPublicKey_….crt", mode="certificate",
        certificates=True,
    ),
    ConfigField(
        "alipay_cert", label="Alipay's certificate", kind=FieldKind.PEM, help="alipayCertPublicKey_RSA2.crt", mode="certificate",
        certificates=True,
    ),
    ConfigField(
        "root_cert", label="Alipay's root certificates", kind=FieldKind.PEM, help="alipayRootCert.crt", mode="certificate"
    ),
    ConfigField("encrypt_key", secret=True, label="Key for the encryption of content", help="AES, base64; may be empty"),
    ConfigField("gateway_url", label="Gateway address", help="Empty: the channel's own."),
)  # fmt: skip


def _certificate_wrong(material: str) -> bool:
    try:
        certificate_public_key(load_certificate(material))
    except CryptoError:
        return True
    return False


def check(config: Mapping[str, str]) -> Sequence[Violation]:
    """Every invalid field. Values are not repeated, because some are secrets."""
    wrong: list[Violation] = []
    if not re.fullmatch(r"[0-9]{8,32}", config.get("app_id", "")):
        wrong.append(Violation("app_id", "must be the application id, digits only"))
    if not re.fullmatch(r"([0-9]{8,32})?", config.get("seller_id", "")):
        wrong.append(Violation("seller_id", "must be the seller's user id (2088…), digits only"))
    private = None
    try:
        private = load_private_key(config.get("private_key", ""))
    except CryptoError:
        wrong.append(Violation("private_key", "must be the application's RSA private key"))
    mode = config.get("mode", "")
    if mode == "key":
        try:
            public = load_public_key(config.get("alipay_public_key", ""))
            if private is not None and private.public_key().public_numbers() == public.public_numbers():
                wrong.append(Violation("alipay_public_key", "is the application's own public key; Alipay shows another one"))
        except CryptoError:
            wrong.append(Violation("alipay_public_key", "must be Alipay's public key"))
    elif mode == "certificate":
        if _certificate_wrong(config.get("app_cert", "")):
            wrong.append(Violation("app_cert", "must be the application's certificate (appCertPublicKey)"))
        elif private is not None:
            own = certificate_public_key(load_certificate(config["app_cert"]))
            if own.public_numbers() != private.public_key().public_numbers():
                wrong.append(Violation("app_cert", "does not belong to the private key"))
        if _certificate_wrong(config.get("alipay_cert", "")):
            wrong.append(Violation("alipay_cert", "must be Alipay's certificate (alipayCertPublicKey_RSA2)"))
        try:
            roots = alipay_root_cert_sn(config.get("root_cert", ""))
        except CryptoError:
            roots = ""
        if not roots:
            wrong.append(Violation("root_cert", "must be Alipay's root certificates (alipayRootCert)"))
    else:
        wrong.append(Violation("mode", 'must be "key" or "certificate"'))
    try:
        if config.get("encrypt_key") and len(b64decode(config["encrypt_key"])) not in (16, 24, 32):
            raise CryptoError("length")
    except CryptoError:
        wrong.append(Violation("encrypt_key", "must be the content encryption key (AES), base64"))
    if config.get("gateway_url") and not is_gateway(config["gateway_url"]):
        wrong.append(Violation("gateway_url", "must be an https address (http only on this machine)"))
    return wrong
