"""WeChat Pay v3: signatures of requests, and verification of answers and callbacks.

Source: WeChat Pay v3, "Signature generation", "Signature verification", "Download platform certificates".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509

from paycenter_server.channels.crypto import (
    CryptoError,
    RSAPrivateKey,
    RSAPublicKey,
    aes_gcm_decrypt,
    b64decode,
    certificate_public_key,
    certificate_serial,
    load_certificate,
    rsa_sign,
    rsa_verify,
)
from paycenter_server.channels.protocol import AnswerError, UnknownKeyError

SCHEME = "WECHATPAY2-SHA256-RSA2048"
WINDOW_SECONDS = 300
REFRESH_AFTER = timedelta(hours=11)  # "Download platform certificates": at least every 12 hours


def request_message(method: str, target: str, timestamp: str, nonce: str, body: bytes) -> bytes:
    """The five lines that a request's signature covers. `target` is the path and query as they are sent."""
    return f"{method}\n{target}\n{timestamp}\n{nonce}\n".encode() + body + b"\n"


def answer_message(timestamp: str, nonce: str, body: bytes) -> bytes:
    """The three lines that an answer's or callback's signature covers."""
    return f"{timestamp}\n{nonce}\n".encode() + body + b"\n"


def authorization(
    key: RSAPrivateKey, mchid: str, serial: str, method: str, target: str, timestamp: str, nonce: str, body: bytes
) -> str:
    """The value of the Authorization header."""
    signature = rsa_sign(key, request_message(method, target, timestamp, nonce, body))
    return (
        f'{SCHEME} mchid="{mchid}",nonce_str="{nonce}",timestamp="{timestamp}",'
        f'serial_no="{serial}",signature="{signature}"'
    )  # fmt: skip


def decrypt_resource(key: bytes, resource: Mapping[str, Any]) -> bytes:
    """The plain text of a callback's `resource` or of an `encrypt_certificate`; CryptoError if it cannot be decrypted."""
    if resource.get("algorithm") != "AEAD_AES_256_GCM":
        raise CryptoError("the resource is not AEAD_AES_256_GCM")
    nonce, ciphertext = resource.get("nonce") or "", resource.get("ciphertext") or ""
    associated = resource.get("associated_data") or ""
    if not (isinstance(nonce, str) and isinstance(ciphertext, str) and isinstance(associated, str)):
        raise CryptoError("the resource's fields are not texts")
    try:
        return aes_gcm_decrypt(key, nonce.encode(), b64decode(ciphertext), associated.encode())
    except UnicodeEncodeError as error:
        raise CryptoError("the resource's fields are not texts") from error


class Verifier:
    """WeChat Pay's keys by serial: the public key and platform certificates in one map, with the unchanged header as the key.

    During the migration from one to the other, both kinds of signature are received. Certificates are trusted until they expire.
    """

    def __init__(self, keys: Mapping[str, RSAPublicKey], certificates: Mapping[str, x509.Certificate] | None = None) -> None:
        self._keys = dict(keys)
        self._until: dict[str, datetime] = {}
        self.refreshed: datetime | None = None
        self.add(certificates or {})

    def add(self, certificates: Mapping[str, x509.Certificate]) -> None:
        """Trust more certificates, by serial. CryptoError if one has no RSA key."""
        for serial, certificate in certificates.items():
            self._keys[serial] = certificate_public_key(certificate)
            self._until[serial] = certificate.not_valid_after_utc

    def usable(self, now: datetime) -> bool:
        """Whether there is a key that has not expired."""
        return any(serial not in self._until or now <= self._until[serial] for serial in self._keys)

    def verify(self, headers: Mapping[str, str], body: bytes, now: datetime) -> None:
        """AnswerError unless WeChat Pay has signed exactly these bytes within 5 minutes; UnknownKeyError for an unknown serial."""
        kind = headers.get("wechatpay-signature-type", SCHEME)
        timestamp, nonce = headers.get("wechatpay-timestamp", ""), headers.get("wechatpay-nonce", "")
        serial, signature = headers.get("wechatpay-serial", ""), headers.get("wechatpay-signature", "")
        if not (timestamp and nonce and serial and signature):
            raise AnswerError("not signed: a Wechatpay-Timestamp, -Nonce, -Serial or -Signature header is missing")
        if kind != SCHEME:
            raise AnswerError(f"signed with {kind[:40]!r}, which is not {SCHEME}")
        if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
            raise AnswerError("the Wechatpay-Timestamp is not a number of seconds")
        if not nonce.isascii():
            raise AnswerError("the Wechatpay-Nonce is not ASCII")
        if abs(now.timestamp() - int(timestamp)) > WINDOW_SECONDS:
            raise AnswerError("the signature is more than 5 minutes away from our clock")
        key = self._keys.get(serial)
        if key is None:
            raise UnknownKeyError(serial[:80])
        if serial in self._until and now > self._until[serial]:
            raise AnswerError("signed with a platform certificate that has expired")
        if not rsa_verify(key, answer_message(timestamp, nonce, body), signature):
            raise AnswerError("the signature does not verify")


def read_certificates(api_v3_key: bytes, body: bytes) -> dict[str, x509.Certificate]:
    """The certificates in an answer of /v3/certificates by serial; AnswerError if it cannot be read.

    The APIv3 key, which decrypts them, is the proof, because the answer is signed with one of them.
    """
    try:
        data = json.loads(body)["data"]
        found = {}
        for item in data:
            certificate = load_certificate(decrypt_resource(api_v3_key, item["encrypt_certificate"]))
            if certificate_serial(certificate).lstrip("0") != str(item["serial_no"]).upper().lstrip("0"):
                raise AnswerError("a platform certificate does not have the serial it is listed under")
            certificate_public_key(certificate)
            found[str(item["serial_no"])] = certificate
    except (CryptoError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AnswerError(f"the platform certificates cannot be read: {error}"[:200]) from error
    if not found:
        raise AnswerError("the answer holds no platform certificate")
    return found
