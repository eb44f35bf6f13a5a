"""Keys and certificates of the simulated merchant and of the simulated channels, in files that SDKs can load.

Clients of the TLS listener trust `wechatpay/tls_cert.pem` and authenticate with the merchant's certificate, as `/secapi` requires.
Source: WeChat Pay APIv2, API certificate.

Layout of the folder: `wechatpay/` (merchant key and certificate, WeChat's public key, the platform certificate, and the two private
keys of the simulator's side), `alipay/` (application keys, Alipay's keys, the three certificates of certificate mode), `keys.json`
(ids and serials). `generate_keys` keeps what is there, so ids and keys survive restarts; private files are 0600.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
import ssl
import string
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from paycenter_server.channels.crypto import (
    RSAPrivateKey,
    RSAPublicKey,
    alipay_cert_sn,
    alipay_root_cert_sn,
    certificate_public_key,
    certificate_serial,
    load_certificate,
    load_public_key,
)
from paycenter_server.simulator.certificates import CertificateMaker, new_rsa_key, private_pem, public_pem, tls_certificate
from paycenter_server.simulator.inputs import read_json
from paycenter_server.simulator.merchant_keys import MERCHANT, MerchantKeys

__all__ = ["SimulatorKeys", "generate_keys", "load_keys", "public_settings", "server_context"]

_ALPHANUMERIC = string.ascii_letters + string.digits


@dataclass(frozen=True)
class SimulatorKeys:
    """The content of the folder. A key is parsed at its first use.

    settings is keys.json: `wechatpay` {appid, mchid, merchant_serial, apiv3_key, apiv2_key, public_key_id, platform_serial,
    platform_next_serial} and `alipay` {app_id, seller_id, aes_key, app_cert_sn, alipay_cert_sn, alipay_next_cert_sn,
    alipay_root_cert_sn}. aes_key is base64 of 16 bytes.
    The `next` certificates sign after a rotation.
    """

    directory: Path
    settings: dict[str, dict[str, str]]

    @cached_property
    def merchant(self) -> MerchantKeys:
        """The merchant's own keys, with those that it has made since."""
        return MerchantKeys(self.settings, self.merchant_public_key, self.app_public_key)

    def file(self, channel: str, name: str) -> Path:
        """Path of one file, such as `file("wechatpay", "apiclient_key.pem")`."""
        return self.directory / channel / name

    def text(self, channel: str, name: str) -> str:
        """Content of one file."""
        return self.file(channel, name).read_text(encoding="ascii")

    @property
    def wechatpay(self) -> dict[str, str]:
        """Ids of the simulated WeChat Pay merchant."""
        return self.settings["wechatpay"]

    @property
    def alipay(self) -> dict[str, str]:
        """Ids of the simulated Alipay application."""
        return self.settings["alipay"]

    @cached_property
    def merchant_public_key(self) -> RSAPublicKey:
        """Verifies the WeChat merchant's requests."""
        return certificate_public_key(load_certificate(self.text("wechatpay", "apiclient_cert.pem")))

    @cached_property
    def platform_key(self) -> RSAPrivateKey:
        """Signs for WeChat in platform-certificate mode."""
        return self._load_private("wechatpay", "platform_key.pem")

    @cached_property
    def public_key_private(self) -> RSAPrivateKey:
        """Signs for WeChat in public-key mode."""
        return self._load_private("wechatpay", "pub_key_private.pem")

    @cached_property
    def app_public_key(self) -> RSAPublicKey:
        """Verifies the Alipay application's requests, in both modes."""
        return load_public_key(self.text("alipay", "app_public_key.pem"))

    @cached_property
    def alipay_key(self) -> RSAPrivateKey:
        """Signs for Alipay, in both modes."""
        return self._load_private("alipay", "alipay_private_key.pem")

    @cached_property
    def platform_next_key(self) -> RSAPrivateKey:
        """Signs for WeChat in platform-certificate mode after a rotation."""
        return self._load_private("wechatpay", "platform_key_next.pem")

    @cached_property
    def alipay_next_key(self) -> RSAPrivateKey:
        """Signs for Alipay in certificate mode after a rotation."""
        return self._load_private("alipay", "alipay_private_key_next.pem")

    def _load_private(self, channel: str, name: str) -> RSAPrivateKey:
        # This program generated the key, so the validation is skipped. It takes 60 ms per key.
        data = self.file(channel, name).read_bytes()
        key = serialization.load_pem_private_key(data, password=None, unsafe_skip_rsa_key_validation=True)
        if not isinstance(key, RSAPrivateKey):
            raise ValueError(f"{name} is not an RSA key")
        return key


def load_keys(directory: Path) -> SimulatorKeys:
    """The keys of a folder made by generate_keys; FileNotFoundError if there are none, ValueError if they are invalid."""
    settings = _read_settings(directory / "keys.json")
    return SimulatorKeys(directory, settings)


def generate_keys(directory: Path) -> SimulatorKeys:
    """Create the missing files of the folder and return the keys. Existing files are not changed.

    Several processes may do it at once: one creates, the others wait.
    """
    for name in ("", "wechatpay", "alipay"):
        (directory / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(directory):
        settings_file = directory / "keys.json"
        settings: dict[str, dict[str, str]] = {}
        if settings_file.exists():
            settings = _read_settings(settings_file)
        _wechatpay_ids(settings.setdefault("wechatpay", {}))
        _alipay_ids(settings.setdefault("alipay", {}))
        # Before the certificates, which hold ids: a process that is killed in between leaves certificates that fit.
        _write_settings(settings_file, settings)
        _wechatpay_files(_Folder(directory / "wechatpay"), settings["wechatpay"])
        _alipay_files(_Folder(directory / "alipay"), settings["alipay"])
        _write_settings(settings_file, settings)
    return SimulatorKeys(directory, settings)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Holds the lock of the folder; the kernel releases it when the process ends."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_settings(file: Path, settings: dict[str, dict[str, str]]) -> None:
    wanted = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    if not file.exists() or file.read_text(encoding="utf-8") != wanted:
        _write(file, wanted.encode(), private=True)


def _read_settings(file: Path) -> dict[str, dict[str, str]]:
    """ValueError if the file is invalid."""
    try:
        document = read_json(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file.name} is not JSON: {error}") from error
    parts = document.items() if isinstance(document, dict) else [("", None)]
    if not all(isinstance(part, dict) and all(isinstance(value, str) for value in part.values()) for _, part in parts):
        raise ValueError(f"{file.name} must be an object of channels, each with string values")
    settings: dict[str, dict[str, str]] = document
    return settings


class _Folder:
    """A folder of files that are created once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def private_key(self, name: str) -> RSAPrivateKey:
        file = self.path / name
        if not file.exists():
            _write(file, private_pem(new_rsa_key()), private=True)
        key = serialization.load_pem_private_key(file.read_bytes(), password=None, unsafe_skip_rsa_key_validation=True)
        if not isinstance(key, RSAPrivateKey):
            raise ValueError(f"{file} is not an RSA key")
        return key

    def has(self, *names: str) -> bool:
        return all((self.path / name).exists() for name in names)

    def put(self, name: str, data: bytes, *, private: bool = False) -> None:
        if not (self.path / name).exists():
            _write(self.path / name, data, private=private)

    def certificate_serial(self, name: str) -> str:
        return certificate_serial(load_certificate((self.path / name).read_bytes()))


def _write(file: Path, data: bytes, *, private: bool) -> None:
    partial = file.with_name(file.name + ".part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if private else 0o644)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
    partial.replace(file)


def _digits(count: int) -> str:
    return "".join(secrets.choice(string.digits) for _ in range(count))


def _wechatpay_ids(settings: dict[str, str]) -> None:
    settings.setdefault("appid", "wx" + secrets.token_hex(8))
    settings.setdefault("mchid", "1" + _digits(9))
    settings.setdefault("apiv3_key", "".join(secrets.choice(_ALPHANUMERIC) for _ in range(32)))
    settings.setdefault("apiv2_key", "".join(secrets.choice(_ALPHANUMERIC) for _ in range(32)))
    settings.setdefault("public_key_id", "PUB_KEY_ID_01" + settings["mchid"] + _digits(20))


def _wechatpay_files(folder: _Folder, settings: dict[str, str]) -> None:
    merchant = folder.private_key("apiclient_key.pem")
    platform, next_key = folder.private_key("platform_key.pem"), folder.private_key("platform_key_next.pem")
    folder.put("pub_key.pem", public_pem(folder.private_key("pub_key_private.pem")))
    if not folder.has("apiclient_cert.pem", "platform_cert.pem", "platform_cert_next.pem"):
        authority = CertificateMaker("Tenpay.com Root CA", "Tenpay.com", "Tenpay.com CA Center")
        folder.put("apiclient_cert.pem", authority.issue(settings["mchid"], merchant, MERCHANT))
        folder.put("platform_cert.pem", authority.issue("Tenpay.com sign", platform))
        folder.put("platform_cert_next.pem", authority.issue("Tenpay.com sign", next_key))
    settings["merchant_serial"] = folder.certificate_serial("apiclient_cert.pem")
    settings["platform_serial"] = folder.certificate_serial("platform_cert.pem")
    settings["platform_next_serial"] = folder.certificate_serial("platform_cert_next.pem")


def _alipay_ids(settings: dict[str, str]) -> None:
    settings.setdefault("app_id", "2021" + _digits(12))
    settings.setdefault("seller_id", "2088" + _digits(12))
    settings.setdefault("aes_key", base64.b64encode(secrets.token_bytes(16)).decode())


def _alipay_files(folder: _Folder, settings: dict[str, str]) -> None:
    app = folder.private_key("app_private_key.pem")
    alipay, next_key = folder.private_key("alipay_private_key.pem"), folder.private_key("alipay_private_key_next.pem")
    folder.put("app_private_key_pkcs1.pem", private_pem(app, pkcs1=True), private=True)
    folder.put("app_public_key.pem", public_pem(app))
    folder.put("alipay_public_key.pem", public_pem(alipay))
    names = ("appCertPublicKey.crt", "alipayCertPublicKey_RSA2.crt", "alipayRootCert.crt", "alipayCertPublicKey_RSA2_next.crt")
    if not folder.has(*names):
        for name in names:  # the root's key is not stored, so the whole chain is created again
            (folder.path / name).unlink(missing_ok=True)
        authority = CertificateMaker("Ant Financial Certification Authority R1", "Certification Authority", "Ant Financial")
        folder.put(names[0], authority.issue(settings["app_id"], app, MERCHANT))
        folder.put(names[1], authority.issue("Alipay simulator", alipay, "Alipay simulator"))
        folder.put(names[3], authority.issue("Alipay simulator", next_key, "Alipay simulator"))
        # Like the real bundle, it has a certificate that is not RSA and not part of the root SN. SDKs split at the blank line.
        folder.put(names[2], authority.root_pem() + b"\n" + CertificateMaker.elliptic_root("Ant Financial EC Root"))
    settings["app_cert_sn"] = _alipay_sn(folder, names[0])
    settings["alipay_cert_sn"] = _alipay_sn(folder, names[1])
    settings["alipay_next_cert_sn"] = _alipay_sn(folder, names[3])
    settings["alipay_root_cert_sn"] = alipay_root_cert_sn((folder.path / names[2]).read_bytes())


def _alipay_sn(folder: _Folder, name: str) -> str:
    return alipay_cert_sn(load_certificate((folder.path / name).read_bytes()))


def public_settings(keys: SimulatorKeys) -> dict[str, dict[str, str]]:
    """Ids and serials, without the symmetric keys."""
    return {
        channel: {name: value for name, value in values.items() if not name.endswith("_key")}
        for channel, values in keys.settings.items()
    }


def server_context(keys: SimulatorKeys) -> ssl.SSLContext:
    """The TLS context of the server. Its certificate is created if the folder has none."""
    certificate, key = keys.file("wechatpay", "tls_cert.pem"), keys.file("wechatpay", "tls_key.pem")
    if not (certificate.exists() and key.exists()):
        made, pem = tls_certificate()
        with os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(pem)
        certificate.write_bytes(made)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    # The root of the merchant's certificate has no stored key, so the certificate itself is trusted.
    context.load_verify_locations(keys.file("wechatpay", "apiclient_cert.pem"))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
