"""An account at WeChat Pay: the configuration of a merchant, parsed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.x509 import Certificate

from paycenter_server.channels.crypto import (
    RSAPrivateKey,
    RSAPublicKey,
    certificate_pem,
    load_certificate,
    load_certificates,
    load_private_key,
    load_public_key,
    private_key_pem,
)
from paycenter_server.channels.protocol import ClientCertificate
from paycenter_server.channels.wechatpay.config import GATEWAY
from paycenter_server.channels.wechatpay.v2_xml import HMAC_SHA256


@dataclass(frozen=True)
class WechatAccount:
    """The values of every API version. `gateway_url` has no trailing slash."""

    appid: str
    mchid: str
    gateway_url: str

    @property
    def facts(self) -> Mapping[str, str]:
        """The values that the merchant's messages must have."""
        return {"appid": self.appid, "mchid": self.mchid}


@dataclass(frozen=True)
class V3Account(WechatAccount):
    """API v3. WeChat Pay's keys are a public key, platform certificates, or both. `mch_key` is empty if v2 is not used."""

    merchant_serial_no: str
    private_key: RSAPrivateKey = field(repr=False)
    api_v3_key: bytes = field(repr=False)
    mch_key: str = field(repr=False)
    public_key_id: str
    public_key: RSAPublicKey | None
    platform_certificates: tuple[Certificate, ...]
    use_platform_certificates: bool

    @classmethod
    def of(cls, config: Mapping[str, str]) -> V3Account:
        """Parse a configuration in which `check` found no violation."""
        key_id = config.get("public_key_id", "")
        return cls(
            appid=config["appid"],
            mchid=config["mchid"],
            gateway_url=(config.get("gateway_url") or GATEWAY).rstrip("/"),
            merchant_serial_no=config["merchant_serial_no"].upper(),
            private_key=load_private_key(config["private_key"], verified=True),
            api_v3_key=config["api_v3_key"].encode(),
            mch_key=config.get("mch_key", ""),
            public_key_id=key_id,
            public_key=load_public_key(config["public_key"]) if key_id else None,
            platform_certificates=tuple(load_certificates(config.get("platform_certificates", ""))),
            use_platform_certificates=config.get("use_platform_certificates") == "true",
        )


@dataclass(frozen=True)
class V2Account(WechatAccount):
    """API v2. `client_certificate` is for mutual TLS (refunds and reversals), None if it is not configured."""

    mch_key: str = field(repr=False)
    sign_type: str
    client_certificate: ClientCertificate | None = field(repr=False)

    @classmethod
    def of(cls, config: Mapping[str, str]) -> V2Account:
        """Parse a configuration in which `check` found no violation."""
        certificate = None
        if config.get("merchant_certificate") and config.get("private_key"):
            # Encoded again: OpenSSL accepts only well-formed PEM, but it may be pasted with other line breaks or no armour.
            certificate = ClientCertificate(
                certificate_pem(load_certificate(config["merchant_certificate"])),
                private_key_pem(load_private_key(config["private_key"], verified=True)),
            )
        return cls(
            appid=config["appid"],
            mchid=config["mchid"],
            gateway_url=(config.get("gateway_url") or GATEWAY).rstrip("/"),
            mch_key=config["mch_key"],
            sign_type=config.get("sign_type") or HMAC_SHA256,
            client_certificate=certificate,
        )
