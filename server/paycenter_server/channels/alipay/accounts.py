"""An account at Alipay: the configuration of an application, parsed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from paycenter_server.channels.alipay.config import GATEWAY
from paycenter_server.channels.crypto import (
    RSAPrivateKey,
    RSAPublicKey,
    alipay_cert_sn,
    alipay_root_cert_sn,
    b64decode,
    certificate_public_key,
    load_certificate,
    load_private_key,
    load_public_key,
    organisations,
)


@dataclass(frozen=True)
class AlipayAccount:
    """A parsed configuration.

    `keys` are Alipay's keys by certificate SN, "" in key mode. In certificate mode `certificate_fields` are in every request, and
    other certificates of Alipay must chain to `roots` (PEM) and have the organisations `organisations`. `encrypt_key` is empty if
    contents are not encrypted, `seller_id` if it is not configured.
    """

    app_id: str
    seller_id: str
    gateway_url: str
    private_key: RSAPrivateKey = field(repr=False)
    encrypt_key: bytes = field(repr=False)
    keys: Mapping[str, RSAPublicKey]
    certificate_fields: Mapping[str, str]
    roots: str
    organisations: tuple[str, ...]

    @classmethod
    def of(cls, config: Mapping[str, str]) -> AlipayAccount:
        """Parse a configuration in which `check` found no violation."""
        keys: dict[str, RSAPublicKey] = {}
        fields: dict[str, str] = {}
        roots = ""
        named: tuple[str, ...] = ()
        if config["mode"] == "certificate":
            theirs = load_certificate(config["alipay_cert"])
            keys[alipay_cert_sn(theirs)] = certificate_public_key(theirs)
            roots, named = config["root_cert"], organisations(theirs)
            fields = {
                "app_cert_sn": alipay_cert_sn(load_certificate(config["app_cert"])),
                "alipay_root_cert_sn": alipay_root_cert_sn(roots),
            }
        else:
            keys[""] = load_public_key(config["alipay_public_key"])
        return cls(
            app_id=config["app_id"],
            seller_id=config.get("seller_id", ""),
            gateway_url=config.get("gateway_url") or GATEWAY,
            private_key=load_private_key(config["private_key"], verified=True),
            encrypt_key=b64decode(config["encrypt_key"]) if config.get("encrypt_key") else b"",
            keys=keys,
            certificate_fields=fields,
            roots=roots,
            organisations=named,
        )

    @property
    def facts(self) -> Mapping[str, str]:
        """The values that the application's messages must have."""
        seller = {"seller_id": self.seller_id} if self.seller_id else {}
        return {"app_id": self.app_id, **seller}
