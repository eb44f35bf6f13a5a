"""The configuration of a WeChat Pay merchant: its fields, and every wrong one named."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from paycenter_server.channels.crypto import (
    CryptoError,
    certificate_public_key,
    load_certificates,
    load_private_key,
    load_public_key,
)
from paycenter_server.channels.protocol import ConfigField
from paycenter_server.domain.errors import Violation

GATEWAY = "https://api.mch.weixin.qq.com"

FIELDS = (
    ConfigField("appid"),
    ConfigField("mchid"),
    ConfigField("api_version"),
    ConfigField("private_key", secret=True),
    ConfigField("merchant_serial_no"),
    ConfigField("api_v3_key", secret=True),
    ConfigField("public_key_id"),
    ConfigField("public_key"),
    ConfigField("platform_certificates"),
    ConfigField("use_platform_certificates"),
    ConfigField("gateway_url"),
)


def gateway_violation(value: str) -> Violation | None:
    """A gateway is https, or http on this machine; the API's paths are put behind it."""
    if not value:
        return None
    try:
        parts = urlsplit(value)
        local = parts.hostname in ("127.0.0.1", "localhost", "::1")
        good = parts.scheme == "https" or (parts.scheme == "http" and local)
        if good and parts.hostname and parts.port != 0 and not parts.query and not parts.fragment:
            return None
    except ValueError:
        pass
    return Violation("gateway_url", "must be an https address (http only on this machine)")


def _usable(certificates: str) -> bool:
    """Whether the codec can be built with them."""
    found = load_certificates(certificates)
    try:
        return bool([certificate_public_key(certificate) for certificate in found])
    except CryptoError:
        return False


def check(config: Mapping[str, str]) -> Sequence[Violation]:
    """Every wrong field. Values are never repeated: some are secrets."""
    wrong: list[Violation] = []

    def need(name: str, pattern: str, description: str) -> None:
        if not re.fullmatch(pattern, config.get(name, "")):
            wrong.append(Violation(name, description))

    need("appid", r"[0-9A-Za-z_-]{6,32}", "must be the application id (wx…), 6 to 32 characters")
    need("mchid", r"[0-9]{6,32}", "must be the merchant number, digits only")
    need("api_version", r"(v3)?", "must be v3")
    need("merchant_serial_no", r"[0-9A-Fa-f]{8,40}", "must be the serial number of the merchant certificate, hexadecimal")
    if len(config.get("api_v3_key", "").encode()) != 32:
        wrong.append(Violation("api_v3_key", "must be the APIv3 key, exactly 32 bytes"))
    try:
        load_private_key(config.get("private_key", ""))
    except CryptoError:
        wrong.append(Violation("private_key", "must be the merchant's RSA private key (apiclient_key.pem)"))
    public = bool(config.get("public_key") or config.get("public_key_id"))
    if public:
        need("public_key_id", r"PUB_KEY_ID_[0-9A-Za-z]{1,64}", "must be the id of WeChat's public key, PUB_KEY_ID_…")
        try:
            load_public_key(config.get("public_key", ""))
        except CryptoError:
            wrong.append(Violation("public_key", "must be WeChat's public key (pub_key.pem), not the merchant's certificate"))
    certificates = config.get("platform_certificates", "")
    if certificates and not _usable(certificates):
        wrong.append(Violation("platform_certificates", "must be one or more PEM certificates with RSA keys"))
    need("use_platform_certificates", r"(true|false)?", "must be true or false")
    if not public and not certificates and config.get("use_platform_certificates") != "true":
        wrong.append(Violation("public_key", "set WeChat's public key with its id, or use platform certificates"))
    bad_gateway = gateway_violation(config.get("gateway_url", ""))
    if bad_gateway:
        wrong.append(bad_gateway)
    return wrong
