"""X.509 certificates of the simulated channels, such that every SDK derives the same serials from them.

Serials have no leading zero nibble (SDKs disagree on padding) and issuers carry all of C, O, OU, CN (python-alipay-sdk formats
exactly those four).
"""

from __future__ import annotations

import datetime
import ipaddress
import secrets

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

__all__ = ["CertificateMaker", "new_rsa_key", "private_pem", "public_pem", "tls_certificate"]

_VALID_DAYS = 3650


def new_rsa_key() -> rsa.RSAPrivateKey:
    """A fresh 2048-bit key, the size both channels use."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def private_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, *, pkcs1: bool = False) -> bytes:
    """PEM of a private key, PKCS#8 unless PKCS#1 is asked for."""
    form = serialization.PrivateFormat.TraditionalOpenSSL if pkcs1 else serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def public_pem(key: rsa.RSAPrivateKey) -> bytes:
    """PEM (SubjectPublicKeyInfo) of the key's public half."""
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _serial() -> int:
    # 160 bits and a first hex digit from 1 to 7, so that every library prints forty hex digits.
    return (secrets.randbelow(7) + 1) << 156 | secrets.randbits(156)


def _name(common_name: str, unit: str, organisation: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CN"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _builder(subject: x509.Name, issuer: x509.Name, *, authority: bool) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(_serial())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )


class CertificateMaker:
    """A root certificate that signs the certificates of one channel. Its private key is not stored."""

    def __init__(self, common_name: str, unit: str, organisation: str) -> None:
        self._key = new_rsa_key()
        self._unit, self._organisation = unit, organisation
        self._name = _name(common_name, unit, organisation)
        builder = _builder(self._name, self._name, authority=True).public_key(self._key.public_key())
        self._root = builder.sign(self._key, hashes.SHA256())

    def root_pem(self) -> bytes:
        """The self-signed root."""
        return self._root.public_bytes(serialization.Encoding.PEM)

    def issue(self, common_name: str, key: rsa.RSAPrivateKey, organisation: str = "") -> bytes:
        """PEM of a leaf for `key`, signed by the root. organisation: of the holder; by default that of
        the root. It allows a merchant to detect a certificate of the wrong side."""
        subject = _name(common_name, self._unit, organisation or self._organisation)
        builder = _builder(subject, self._name, authority=False).public_key(key.public_key())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    @staticmethod
    def elliptic_root(common_name: str) -> bytes:
        """PEM of a root that is not RSA. Clients must not include it in Alipay's root certificate SN."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(common_name, "Certification Authority", "Ant Financial")
        builder = _builder(name, name, authority=True).public_key(key.public_key())
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def tls_certificate() -> tuple[bytes, bytes]:
    """PEM of a self-signed certificate for localhost and 127.0.0.1, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Channel simulator")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private_pem(key)
