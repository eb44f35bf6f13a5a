"""The merchant's own keys after a change in the channel's console.

A new key verifies requests beside those before it, as WeChat Pay's merchant certificates do while both are valid. Of the symmetric
keys the last one signs and encrypts what the channel sends. The keys of the folder stay the first ones. What was made is stored.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from paycenter_server.channels.crypto import (
    RSAPublicKey,
    alipay_cert_sn,
    certificate_public_key,
    certificate_serial,
    load_certificate,
)
from paycenter_server.simulator.certificates import CertificateMaker, new_rsa_key, private_pem
from paycenter_server.simulator.store import DocumentStore

__all__ = ["MerchantKeys"]

MERCHANT = "Simulated Merchant"
_KIND = "merchant keys"


class MerchantKeys:
    """The valid keys of the merchant at both families, by what the channel needs of them."""

    channels = ("wechatpay", "alipay")

    def __init__(self, settings: Mapping[str, Mapping[str, str]], wechatpay: RSAPublicKey, alipay: RSAPublicKey) -> None:
        """Those of the folder: settings is keys.json."""
        self._ids = settings
        self._first = wechatpay, alipay
        self.clear()

    def clear(self) -> None:
        """Only those of the folder."""
        ids = self._ids["wechatpay"]
        self._wechatpay = {ids["merchant_serial"]: self._first[0]}
        self._alipay = {self._ids["alipay"]["app_cert_sn"]: self._first[1]}
        self._secrets = {name: [ids[name]] for name in ("apiv3_key", "apiv2_key")}
        self._count = 0

    def load(self, store: DocumentStore) -> None:
        """Those of the folder, and those that are stored."""
        self.clear()
        for document in sorted(store.all(_KIND), key=lambda found: int(found["number"])):
            self._add(document)

    def change(self, channel: str, store: DocumentStore) -> dict[str, str]:
        """Make new keys, and store them. Returns the fields of PayCenter's configuration that change. ValueError for an unknown
        channel."""
        if channel not in self.channels:
            raise ValueError(f"channel must be one of {', '.join(self.channels)}")
        private, number = new_rsa_key(), self._count + 1
        holder = self._ids[channel]["mchid" if channel == "wechatpay" else "app_id"]
        certificate = self._authority.issue(holder, private, MERCHANT).decode()
        document: dict[str, Any] = {"number": number, "channel": channel, "certificate": certificate}
        config = {"private_key": private_pem(private).decode()}
        if channel == "wechatpay":
            document |= {name: secrets.token_hex(16) for name in self._secrets}
            config |= {
                "merchant_certificate": certificate, "merchant_serial_no": certificate_serial(load_certificate(certificate)),
                "api_v3_key": document["apiv3_key"], "mch_key": document["apiv2_key"],
            }  # fmt: skip
        else:
            config["app_cert"] = certificate
        store.put(_KIND, str(number), document)
        self._add(document)
        return config

    @cached_property
    def _authority(self) -> CertificateMaker:
        return CertificateMaker("Merchant Root CA", "Certification Authority", "Simulator")

    def _add(self, document: dict[str, Any]) -> None:
        certificate = load_certificate(str(document["certificate"]))
        self._count = max(self._count, int(document["number"]))
        if document["channel"] == "alipay":
            self._alipay[alipay_cert_sn(certificate)] = certificate_public_key(certificate)
            return
        self._wechatpay[certificate_serial(certificate)] = certificate_public_key(certificate)
        for name, values in self._secrets.items():
            values.append(str(document[name]))

    def wechatpay(self, serial: str) -> RSAPublicKey | None:
        """Verifies requests of WeChat Pay v3 that name this serial; None if no certificate has it."""
        return self._wechatpay.get(serial)

    def alipay(self) -> list[RSAPublicKey]:
        """Each of them may verify a request of the Alipay application."""
        return list(self._alipay.values())

    def knows_app_cert(self, number: str) -> bool:
        """Whether this is the SN of one of the application's certificates."""
        return number in self._alipay

    def secrets(self, name: str) -> list[str]:
        """The values of `apiv3_key` or `apiv2_key`, the last one first: it signs and encrypts."""
        return self._secrets[name][::-1]
