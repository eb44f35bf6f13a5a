"""The cryptography of the channels: RSA-SHA256, AES-GCM, AES-CBC, certificates.

Pure functions over bytes, without I/O and clock. Sources: WeChat Pay v3, "Signature generation" and "Callback decryption"; Alipay
Open API, "Signature" and "Certificate mode".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.x509.oid import NameOID

__all__ = [
    "CryptoError",
    "RSAPrivateKey",
    "RSAPublicKey",
    "aes_cbc_decrypt",
    "aes_cbc_encrypt",
    "aes_ecb_decrypt",
    "aes_gcm_decrypt",
    "aes_gcm_encrypt",
    "alipay_cert_sn",
    "alipay_root_cert_sn",
    "b64decode",
    "certificate_pem",
    "certificate_public_key",
    "certificate_serial",
    "load_certificate",
    "load_certificates",
    "load_private_key",
    "load_public_key",
    "organisations",
    "private_key_pem",
    "rsa_sign",
    "rsa_verify",
    "signed_with_rsa",
]

_PEM_MARK = re.compile(rb"-----(BEGIN|END) ([A-Z0-9 ]{1,64})-----")
_RSA_SIGNATURE_OID = "1.2.840.113549.1.1."
_ZERO_IV = bytes(16)
_PKCS1V15, _SHA256 = padding.PKCS1v15(), hashes.SHA256()


class CryptoError(ValueError):
    """Key material or ciphertext that cannot be used. The message does not contain the material."""


def b64decode(text: str | bytes) -> bytes:
    """Standard base64 with optional line breaks; anything else is a CryptoError."""
    raw = text.encode("ascii", "replace") if isinstance(text, str) else text
    try:
        # As base64.b64decode with `validate`, without its conversions.
        return binascii.a2b_base64(raw, strict_mode=True)
    except (binascii.Error, ValueError):
        pass
    try:
        return base64.b64decode(re.sub(rb"\s+", b"", raw), validate=True)
    except (binascii.Error, ValueError) as error:
        raise CryptoError("not valid base64") from error


def _pem_bodies(raw: bytes) -> Iterator[bytes]:
    """The text between each BEGIN and the END of the same name that is the next mark. It takes one pass."""
    begin: re.Match[bytes] | None = None
    for mark in _PEM_MARK.finditer(raw):
        if mark.group(1) == b"BEGIN":
            begin = mark
        elif begin is not None and begin.group(2) == mark.group(2):
            yield raw[begin.end() : mark.start()]
            begin = None


def _der(material: str | bytes) -> bytes:
    raw = material.encode() if isinstance(material, str) else material
    return b64decode(next(_pem_bodies(raw), raw))


def _armour(kind: str, der: bytes) -> bytes:
    return b"-----BEGIN %s-----\n%s-----END %s-----\n" % (kind.encode(), base64.encodebytes(der), kind.encode())


def load_private_key(material: str | bytes, *, verified: bool = False) -> RSAPrivateKey:
    """An RSA private key from PKCS#1 or PKCS#8, with or without PEM armour (Alipay's tools write all four).

    `verified`: it was loaded without this before, so its numbers are known to belong together. To verify them takes 20 to 40 ms.
    """
    der = _der(material)
    for kind in ("PRIVATE KEY", "RSA PRIVATE KEY"):
        try:
            key = serialization.load_pem_private_key(_armour(kind, der), password=None, unsafe_skip_rsa_key_validation=verified)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            continue
        if not isinstance(key, RSAPrivateKey):
            raise CryptoError("the private key is not an RSA key")
        return key
    raise CryptoError("not an RSA private key (PKCS#1 or PKCS#8, PEM or bare base64)")


def private_key_pem(key: RSAPrivateKey) -> bytes:
    """The key as PKCS#8 PEM, in the form that OpenSSL accepts."""
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """The certificate as PEM, in the form that OpenSSL accepts."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def load_public_key(material: str | bytes) -> RSAPublicKey:
    """An RSA public key from SubjectPublicKeyInfo or PKCS#1, with or without PEM armour."""
    der = _der(material)
    for kind in ("PUBLIC KEY", "RSA PUBLIC KEY"):
        try:
            key = serialization.load_pem_public_key(_armour(kind, der))
        except (ValueError, TypeError, UnsupportedAlgorithm):
            continue
        if not isinstance(key, RSAPublicKey):
            raise CryptoError("the public key is not an RSA key")
        return key
    raise CryptoError("not an RSA public key (PEM or bare base64)")


def load_certificate(material: str | bytes) -> x509.Certificate:
    """One X.509 certificate, PEM or bare base64."""
    return _certificate(_der(material))


def _certificate(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except (ValueError, x509.InvalidVersion) as error:
        raise CryptoError("not an X.509 certificate") from error


def load_certificates(bundle: str | bytes) -> list[x509.Certificate]:
    """All readable certificates of a PEM bundle.

    Alipay's root bundle contains one (SM2) that OpenSSL refuses. Such certificates are skipped, because they cannot sign RSA2.
    """
    return list(_each_certificate(bundle))


def _each_certificate(bundle: str | bytes) -> Iterator[x509.Certificate]:
    raw = bundle.encode() if isinstance(bundle, str) else bundle
    for body in _pem_bodies(raw):
        try:
            yield _certificate(b64decode(body))
        except CryptoError:
            continue


def certificate_serial(certificate: x509.Certificate) -> str:
    """The serial as upper-case hexadecimal, as in WeChat Pay's `serial_no` and `Wechatpay-Serial`."""
    return f"{certificate.serial_number:X}"


def certificate_public_key(certificate: x509.Certificate) -> RSAPublicKey:
    """The RSA key of the certificate."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:  # an SM2 certificate is readable, but its key is not
        raise CryptoError("the certificate's key cannot be read") from error
    if not isinstance(key, RSAPublicKey):
        raise CryptoError("the certificate does not hold an RSA key")
    return key


def organisations(certificate: x509.Certificate) -> tuple[str, ...]:
    """The organisations (O) in the subject of the certificate."""
    return tuple(str(one.value) for one in certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME))


def rsa_sign(key: RSAPrivateKey, message: bytes) -> str:
    """RSASSA-PKCS1-v1_5 with SHA-256, standard base64."""
    return base64.b64encode(key.sign(message, padding.PKCS1v15(), hashes.SHA256())).decode()


def rsa_verify(key: RSAPublicKey, message: bytes, signature: str) -> bool:
    """Whether `signature` (base64) is the key's signature over exactly these bytes; False for malformed base64."""
    try:
        key.verify(b64decode(signature), message, _PKCS1V15, _SHA256)
    except (InvalidSignature, CryptoError):
        return False
    return True


@lru_cache(maxsize=64)  # as many accounts as receive callbacks at the same time
def _aes_gcm(key: bytes) -> AESGCM:
    return AESGCM(key)


def aes_gcm_encrypt(key: bytes, nonce: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    """AES-GCM. The result ends with the 16-byte tag."""
    return AESGCM(key).encrypt(nonce, plaintext, associated_data or None)


def aes_gcm_decrypt(key: bytes, nonce: bytes, ciphertext: bytes, associated_data: bytes) -> bytes:
    """AES-GCM with the tag at the end (WeChat Pay v3, `resource` and `encrypt_certificate`)."""
    try:
        return _aes_gcm(key).decrypt(nonce, ciphertext, associated_data or None)
    except (InvalidTag, ValueError, OverflowError) as error:
        raise CryptoError("the ciphertext does not decrypt with this key") from error


def aes_cbc_encrypt(key: bytes, plaintext: bytes) -> bytes:
    """AES-CBC, zero IV, PKCS#7 (Alipay content encryption)."""
    padder = PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(_ZERO_IV)).encryptor()
    return encryptor.update(padder.update(plaintext) + padder.finalize()) + encryptor.finalize()


def aes_cbc_decrypt(key: bytes, ciphertext: bytes) -> bytes:
    """The reverse of aes_cbc_encrypt."""
    try:
        decryptor = Cipher(algorithms.AES(key), modes.CBC(_ZERO_IV)).decryptor()
        unpadder = PKCS7(128).unpadder()
        return unpadder.update(decryptor.update(ciphertext) + decryptor.finalize()) + unpadder.finalize()
    except ValueError as error:
        raise CryptoError("the ciphertext does not decrypt with this key") from error


def aes_ecb_decrypt(key: bytes, ciphertext: bytes) -> bytes:
    """AES-ECB, PKCS#7 (WeChat Pay v2, `req_info`)."""
    try:
        decryptor = Cipher(algorithms.AES(key), modes.ECB()).decryptor()  # noqa: S305 (the vendor defines it)
        unpadder = PKCS7(128).unpadder()
        return unpadder.update(decryptor.update(ciphertext) + decryptor.finalize()) + unpadder.finalize()
    except ValueError as error:
        raise CryptoError("the ciphertext does not decrypt with this key") from error


def alipay_cert_sn(certificate: x509.Certificate) -> str:
    """Alipay's certificate SN: md5 of the issuer (RFC 2253, reverse DER order) and the decimal serial, 32 hex digits."""
    text = certificate.issuer.rfc4514_string() + str(certificate.serial_number)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def alipay_root_cert_sn(bundle: str | bytes) -> str:
    """The SNs of the RSA-signed certificates of a root bundle, joined by `_`."""
    return "_".join(alipay_cert_sn(certificate) for certificate in _each_certificate(bundle) if signed_with_rsa(certificate))


def signed_with_rsa(certificate: x509.Certificate) -> bool:
    """Whether an RSA key signed it. For others (SM2) not even the hash algorithm is available."""
    return certificate.signature_algorithm_oid.dotted_string.startswith(_RSA_SIGNATURE_OID)
