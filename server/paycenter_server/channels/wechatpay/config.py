"""The configuration of a WeChat Pay merchant: its fields and their check."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from paycenter_server.channels.addresses import is_gateway
from paycenter_server.channels.crypto import (
    CryptoError,
    RSAPrivateKey,
    RSAPublicKey,
    certificate_public_key,
    load_certificate,
    load_certificates,
    load_private_key,
    load_public_key,
)
from paycenter_server.channels.specs import ConfigField, FieldKind, Scope
from paycenter_server.domain.errors import Violation

GATEWAY = "https://api.mch.weixin.qq.com"

_YES_NO = (("", "No"), ("true", "Yes"))
# In the order in which a person has them at hand.
FIELDS = (
    ConfigField(
        "api_version", scope=Scope.ATTEMPT, label="API version", kind=FieldKind.SELECT, choices=(("v3", "v3"), ("v2", "v2")),
    ),
    ConfigField(
        "appid", scope=Scope.ATTEMPT, label="Application id", help="wx…, of the official account, the mini program or the app"
    ),
    ConfigField("mchid", label="Merchant number"),
    ConfigField("private_key", secret=True, label="Merchant's private key", kind=FieldKind.PEM, help="apiclient_key.pem"),
    ConfigField("merchant_serial_no", label="Serial number of the merchant's certificate", mode="v3"),
    ConfigField("api_v3_key", secret=True, label="APIv3 key", mode="v3"),
    ConfigField("public_key_id", label="Id of WeChat Pay's public key", help="PUB_KEY_ID_…", mode="v3"),
    ConfigField("public_key", label="WeChat Pay's public key", kind=FieldKind.PEM, help="pub_key.pem", mode="v3"),
    ConfigField(
        "use_platform_certificates", label="Platform certificates instead of the public key", kind=FieldKind.SELECT,
        choices=_YES_NO, mode="v3",
    ),
    ConfigField(
        "platform_certificates", label="Platform certificates", kind=FieldKind.PEM, help="Empty: they are fetched.", mode="v3",
        certificates=True,
    ),
    ConfigField("mch_key", secret=True, label="APIv2 key", mode="v2"),
    ConfigField(
        "merchant_certificate", label="Merchant's certificate", kind=FieldKind.PEM, help="apiclient_cert.pem", mode="v2",
        certificates=True,
    ),
    ConfigField(
        "sign_type", scope=Scope.CHANNEL, label="Signature", kind=FieldKind.SELECT,
        choices=(("", "MD5"), ("HMAC-SHA256", "HMAC-SHA256")), mode="v2",
    ),
    ConfigField(
        "use_codepay", scope=Scope.ATTEMPT, label="Bar codes by v3", kind=FieldKind.SELECT, choices=_YES_NO, mode="v3"
    ),
    ConfigField("gateway_url", label="Gateway address", help="Empty: the channel's own."),
)  # fmt: skip


def _usable(certificates: str) -> bool:
    """Whether the codec can be built with these certificates."""
    found = load_certificates(certificates)
    try:
        return bool([certificate_public_key(certificate) for certificate in found])
    except CryptoError:
        return False


def _pair(private: RSAPrivateKey, public: RSAPublicKey) -> bool:
    return private.public_key().public_numbers() == public.public_numbers()


class _Check:
    """Collects invalid fields. Values are not repeated, because some are secrets."""

    def __init__(self, config: Mapping[str, str]) -> None:
        self.config = config
        self.wrong: list[Violation] = []

    def need(self, name: str, pattern: str, description: str) -> None:
        if not re.fullmatch(pattern, self.config.get(name, "")):
            self.wrong.append(Violation(name, description))

    def common(self) -> None:
        self.need("appid", r"[0-9A-Za-z_-]{6,32}", "must be the application id (wx…), 6 to 32 characters")
        self.need("mchid", r"[0-9]{6,32}", "must be the merchant number, digits only")
        self.need("api_version", r"(v3|v2)?", "must be v3 or v2")
        if self.config.get("gateway_url") and not is_gateway(self.config["gateway_url"]):
            self.wrong.append(Violation("gateway_url", "must be an https address (http only on this machine)"))

    def private_key(self) -> RSAPrivateKey | None:
        try:
            return load_private_key(self.config.get("private_key", ""))
        except CryptoError:
            self.wrong.append(Violation("private_key", "must be the merchant's RSA private key (apiclient_key.pem)"))
            return None

    def mch_key(self) -> None:
        self.need("mch_key", r"[!-~]{32}", "must be the APIv2 key, exactly 32 characters")

    def v2(self) -> None:
        self.mch_key()
        self.need("sign_type", r"(MD5|HMAC-SHA256)?", "must be MD5 or HMAC-SHA256")
        # Refunds and reversals use mutual TLS.
        private = self.private_key()
        try:
            public = certificate_public_key(load_certificate(self.config.get("merchant_certificate", "")))
        except CryptoError:
            self.wrong.append(Violation("merchant_certificate", "must be the merchant's certificate (apiclient_cert.pem)"))
            return
        if private is not None and not _pair(private, public):
            self.wrong.append(Violation("merchant_certificate", "does not belong to the private key"))

    def v3(self) -> None:
        self.need("merchant_serial_no", r"[0-9A-Fa-f]{8,40}", "must be the serial number of the merchant certificate, hexadecimal")
        if len(self.config.get("api_v3_key", "").encode()) != 32:
            self.wrong.append(Violation("api_v3_key", "must be the APIv3 key, exactly 32 bytes"))
        private = self.private_key()
        if self.config.get("mch_key"):
            self.mch_key()
        public = bool(self.config.get("public_key") or self.config.get("public_key_id"))
        if public:
            self.need("public_key_id", r"PUB_KEY_ID_[0-9A-Za-z]{1,64}", "must be the id of WeChat's public key, PUB_KEY_ID_…")
            description = "must be WeChat's public key (pub_key.pem), not the merchant's certificate"
            try:
                theirs = load_public_key(self.config.get("public_key", ""))
                if private is not None and _pair(private, theirs):
                    self.wrong.append(Violation("public_key", f"belongs to the merchant's own private key; {description}"))
            except CryptoError:
                self.wrong.append(Violation("public_key", description))
        certificates = self.config.get("platform_certificates", "")
        if certificates and not _usable(certificates):
            self.wrong.append(Violation("platform_certificates", "must be one or more PEM certificates with RSA keys"))
        self.need("use_platform_certificates", r"(true|false)?", "must be true or false")
        if not public and not certificates and self.config.get("use_platform_certificates") != "true":
            self.wrong.append(Violation("public_key", "set WeChat's public key with its id, or use platform certificates"))


def is_v2(config: Mapping[str, str]) -> bool:
    """Whether the configuration selects API v2."""
    return config.get("api_version") == "v2"


def bar_is_v2(config: Mapping[str, str]) -> bool:
    """Whether bar codes use v2 micropay, which is the default, and not v3 codepay."""
    return config.get("use_codepay") != "true"


def check(config: Mapping[str, str]) -> Sequence[Violation]:
    """Every invalid field."""
    found = _Check(config)
    found.common()
    if is_v2(config):
        found.v2()
    else:
        found.v3()
    return found.wrong


def check_bar(config: Mapping[str, str]) -> Sequence[Violation]:
    """Every invalid field of a bar code channel."""
    found = _Check(config)
    found.common()
    found.need("use_codepay", r"(true|false)?", "must be true or false")
    if bar_is_v2(config):
        found.v2()
    else:
        found.v3()
    return found.wrong
