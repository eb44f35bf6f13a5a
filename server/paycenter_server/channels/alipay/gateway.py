"""Alipay's gateway: calls of APIs and verification of answers, in public-key mode and in certificate mode."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from paycenter_server.channels.alipay.accounts import AlipayAccount
from paycenter_server.channels.alipay.signature import extract_signed, sign_content, verify_answer
from paycenter_server.channels.crypto import (
    CryptoError,
    RSAPublicKey,
    aes_cbc_decrypt,
    aes_cbc_encrypt,
    alipay_cert_sn,
    b64decode,
    certificate_public_key,
    load_certificate,
    load_certificates,
    organisations,
    rsa_sign,
    signed_with_rsa,
)
from paycenter_server.channels.protocol import AnswerError, Call, HttpRequest, HttpResponse, RequestContext, UnknownKeyError
from paycenter_server.channels.texts import text
from paycenter_server.channels.times import alipay
from paycenter_server.version import USER_AGENT

CERT_DOWNLOAD = "alipay.open.app.alipaycert.download"
_SERIAL = re.compile(r"[0-9a-f]{32}")
_FORM = "application/x-www-form-urlencoded;charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """The content of an answer, and whether it is signed. An answer with an invalid signature raises instead."""

    content: Mapping[str, Any]
    signed: bool

    def text(self, name: str) -> str:
        """A field that is a text; empty if it is missing or not a text."""
        return text(self.content.get(name))

    @property
    def code(self) -> str:
        """The `code`; "10000" is success."""
        return self.text("code")

    @property
    def sub_code(self) -> str:
        """The `sub_code`, or the `code` if there is none."""
        return self.text("sub_code") or self.code

    @property
    def message(self) -> str:
        """The message for people."""
        return self.text("sub_msg") or self.text("msg")


class Gateway:
    """Signs requests and verifies answers of one application, with Alipay's keys by certificate SN ("" in key mode)."""

    def __init__(self, config: Mapping[str, str]) -> None:
        self.merchant = AlipayAccount.of(config)
        self._keys = dict(self.merchant.keys)

    @property
    def certificate_mode(self) -> bool:
        """Whether this is certificate mode, in which answers name the certificate that signed them."""
        return bool(self.merchant.certificate_fields)

    def signed_fields(
        self, method: str, content: Mapping[str, Any], moment: RequestContext, *, plain: bool = False, **urls: str
    ) -> dict[str, str]:
        """All parameters of a request, including `sign`. Empty ones are omitted, because the documents differ on signing them."""
        fields = {
            "app_id": self.merchant.app_id,
            "method": method,
            "format": "JSON",
            "charset": "utf-8",
            "sign_type": "RSA2",
            "timestamp": alipay(moment.now),
            "version": "1.0",
            **self.merchant.certificate_fields,
            **{name: url for name, url in urls.items() if url},
            "biz_content": json.dumps(content, ensure_ascii=False, separators=(",", ":")),
        }
        if self.merchant.encrypt_key and not plain:
            fields["encrypt_type"] = "AES"
            fields["biz_content"] = b64encode(aes_cbc_encrypt(self.merchant.encrypt_key, fields["biz_content"].encode())).decode()
        fields["sign"] = rsa_sign(self.merchant.private_key, sign_content(fields))
        return fields

    def address(self, fields: Mapping[str, str]) -> str:
        """The gateway's URL with these parameters as its query."""
        return f"{self.merchant.gateway_url}?{urlencode(fields, quote_via=quote)}"

    def request(
        self, method: str, content: Mapping[str, Any], moment: RequestContext, *, plain: bool = False, **urls: str
    ) -> HttpRequest:
        """A POST with the common parameters in the query and `biz_content` in the body. `plain`: without encryption."""
        fields = self.signed_fields(method, content, moment, plain=plain, **urls)
        body = urlencode({"biz_content": fields.pop("biz_content")}, quote_via=quote).encode()
        headers = (("Content-Type", _FORM), ("Accept", "application/json"), ("User-Agent", USER_AGENT))
        return HttpRequest("POST", self.address(fields), headers, body)

    def read(self, method: str, response: HttpResponse) -> Answer:
        """The verified content of an answer. AnswerError or UnknownKeyError if it cannot be verified.

        A success without a signature is refused. A failure without one is returned as unsigned.
        """
        if response.status != 200:
            raise AnswerError(f"HTTP status {response.status}")
        try:
            raw = response.body.decode("utf-8")
            envelope = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise AnswerError("the answer is not JSON in UTF-8") from error
        if not isinstance(envelope, dict):
            raise AnswerError("the answer is not a JSON object")
        signed = extract_signed(raw, method.replace(".", "_") + "_response")
        content = self._opened(signed)
        signature = envelope.get("sign")
        if not isinstance(signature, str) or not signature:
            if content.get("code") == "10000":
                raise AnswerError("a success without a signature")
            return Answer(content, signed=False)
        if not verify_answer(self._key_named(envelope.get("alipay_cert_sn")), signed, signature):
            raise AnswerError("the signature does not verify")
        return Answer(content, signed=True)

    def _opened(self, signed: str) -> Mapping[str, Any]:
        """The signed content, decrypted if content encryption is on."""
        try:
            content = json.loads(signed)
            if isinstance(content, str) and self.merchant.encrypt_key:
                content = json.loads(aes_cbc_decrypt(self.merchant.encrypt_key, b64decode(content)))
        except (ValueError, RecursionError) as error:
            raise AnswerError("the answer's content is not JSON, or does not decrypt") from error
        if not isinstance(content, dict):
            raise AnswerError("the answer's content is not a JSON object")
        return content

    def _key_named(self, serial: object) -> RSAPublicKey:
        name = serial if self.certificate_mode and isinstance(serial, str) else ""
        key = self._keys.get(name)
        if key is None:
            raise UnknownKeyError(name[:80])
        return key

    def callback_keys(self, serial: str | None) -> list[RSAPublicKey]:
        """The keys that may have signed a callback: the one that it names in `alipay_cert_sn`, else all trusted ones."""
        if self.certificate_mode and serial is None:
            return list(self._keys.values())
        return [self._key_named(serial)]

    # Alipay replaces its certificate from time to time. The new one is fetched by its SN.

    def fetch_certificate(self, serial: str, moment: RequestContext) -> Call[bool] | None:
        """`alipay.open.app.alipaycert.download`. The certificate is trusted only if it chains to the configured roots."""
        if not self.certificate_mode or not _SERIAL.fullmatch(serial):
            return None

        def parse(response: HttpResponse, now: datetime) -> bool:
            # The answer is signed with the certificate that it contains, so its chain is the proof.
            try:
                raw = response.body.decode("utf-8")
                content = self._opened(extract_signed(raw, CERT_DOWNLOAD.replace(".", "_") + "_response"))
                return self._trust(serial, b64decode(text(content.get("alipay_cert_content"))), now)
            except (ValueError, AnswerError):
                return False

        # The request is not encrypted, as in the vendor's SDKs. The answer may be encrypted or not.
        request = self.request(CERT_DOWNLOAD, {"alipay_cert_sn": serial}, moment, plain=True)
        return Call("alipay.certificate", request, parse, lambda why: False)

    def _trust(self, serial: str, material: bytes, now: datetime) -> bool:
        try:
            chain = load_certificates(material) or [load_certificate(material)]
            leaf = chain[0]
            # The certificates of all merchants chain to the same roots, so the organisation must be Alipay's too.
            if alipay_cert_sn(leaf) != serial or organisations(leaf) != self.merchant.organisations:
                return False
            # The vendor's bundle contains SM2 roots too. They are not readable, and cannot have signed RSA2.
            roots = [one for one in load_certificates(self.merchant.roots) if signed_with_rsa(one)]
            issuers = [*chain[1:], *roots]
            current: x509.Certificate | None = leaf
            for _ in range(5):
                if current is None or not current.not_valid_before_utc <= now <= current.not_valid_after_utc:
                    return False
                if current in roots:
                    self._keys[serial] = certificate_public_key(leaf)
                    return True
                current = next((one for one in issuers if _issued(one, current)), None)
        except CryptoError:
            pass
        return False


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Whether `issuer` signed `certificate` and is not marked as no CA. Alipay's intermediates have no such mark."""
    try:
        certificate.verify_directly_issued_by(issuer)
        return issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return True
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
