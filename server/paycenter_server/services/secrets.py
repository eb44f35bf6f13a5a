"""Secrets at rest: AES-256-GCM envelopes with a key id; the associated data ties each to its table, row and field."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping

from paycenter_server.channels.crypto import CryptoError, aes_gcm_decrypt, aes_gcm_encrypt, b64decode

_VERSION = "v1"


class SecretBox:
    """Master keys by id; the first seals, all open. A key is rotated by putting the new one first."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        if not keys or any(len(key) != 32 for key in keys.values()):
            raise ValueError("master keys must be 32 bytes each, and there must be one")
        self._keys = dict(keys)
        self._current = next(iter(self._keys))

    @classmethod
    def from_text(cls, text: str) -> SecretBox:
        """One base64 key a line, the current one first; the key id is derived from the key."""
        keys = [b64decode(line) for line in text.split() if line]
        return cls({hashlib.sha256(b"paycenter key id" + key).hexdigest()[:8]: key for key in keys})

    @property
    def key_ids(self) -> frozenset[str]:
        """The identifiers of the keys that this process has."""
        return frozenset(self._keys)

    def seal(self, clear: str, place: str) -> str:
        """An envelope for this place ("table:row:field")."""
        nonce = secrets.token_bytes(12)
        sealed = nonce + aes_gcm_encrypt(self._keys[self._current], nonce, clear.encode(), place.encode())
        return f"{_VERSION}:{self._current}:{base64.b64encode(sealed).decode()}"

    def open(self, envelope: str, place: str) -> str:
        """The clear text; CryptoError if it was sealed for another place or with a key that is gone."""
        version, _, rest = envelope.partition(":")
        key_id, _, sealed = rest.partition(":")
        key = self._keys.get(key_id)
        if version != _VERSION or key is None:
            raise CryptoError(f"no master key {key_id[:16]!r} to open this secret with; add it to the master key file")
        raw = b64decode(sealed)
        return aes_gcm_decrypt(key, raw[:12], raw[12:], place.encode()).decode()

    def sign(self, message: bytes, purpose: str) -> bytes:
        """A MAC of 16 bytes with the current key. A MAC for one purpose is not valid for another."""
        return _mac(self._keys[self._current], message, purpose)

    def signed(self, message: bytes, purpose: str, mac: bytes) -> bool:
        """Whether one of the keys has signed this message, each compared in constant time."""
        return any(hmac.compare_digest(_mac(key, message, purpose), mac) for key in self._keys.values())


def _mac(key: bytes, message: bytes, purpose: str) -> bytes:
    derived = hmac.new(key, b"paycenter " + purpose.encode(), hashlib.sha256).digest()
    return hmac.new(derived, message, hashlib.sha256).digest()[:16]


def new_secret() -> str:
    """256 random bits for a credential, URL-safe."""
    return secrets.token_urlsafe(32)


def new_notification_secret() -> str:
    """Standard Webhooks: `whsec_` and base64 of 32 random bytes."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def hash_secret(secret: str) -> bytes:
    """How a credential's secret is kept. It has 256 random bits, so a fast hash is as good as a slow one."""
    return hashlib.sha256(secret.encode()).digest()


def same_secret(secret: str, kept: bytes) -> bool:
    """Compared in constant time."""
    return hmac.compare_digest(hash_secret(secret), kept)
