"""Every invalid field of a channel's configuration is named, no value is repeated, and a valid configuration can be built."""

from __future__ import annotations

import base64
import re

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from paycenter_server.channels.alipay.config import check as check_alipay
from paycenter_server.channels.crypto import CryptoError, load_private_key, load_public_key
from paycenter_server.channels.mock import check as check_mock
from paycenter_server.channels.registry import Registry, installed
from paycenter_server.channels.wechatpay.config import check as check_wechat
from paycenter_server.channels.wechatpay.native import WechatNativeCodec
from paycenter_server.domain.errors import Violation
from paycenter_server.simulator.certificates import CertificateMaker, private_pem, public_pem
from unit.channel_support import ali_cert_config, ali_config, certificate, keys, sm2_root, wx_config

EC_ROOT = CertificateMaker.elliptic_root("EC").decode()
SM2_ROOT = sm2_root().decode()


def _names(violations: object) -> list[str]:
    assert isinstance(violations, list)
    return [violation.field for violation in violations]


def _bare(pem: bytes | str) -> str:
    text = pem if isinstance(pem, str) else pem.decode()
    return re.sub(r"-----[A-Z ]+-----|\s", "", text)


def _ec_private() -> str:
    return private_pem(ec.generate_private_key(ec.SECP256R1())).decode()


def _ed_private() -> str:
    return ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


GATEWAYS_WRONG = [
    "http://api.mch.weixin.qq.com", "ftp://a.test", "//a.test", "a.test", "https://", "https://a.test/?x=1", "https://[", "x",
    "https://a.test:99999", "https://a.test:x", "https://a.test/#x", "https:///path", "javascript:alert(1)", "http://127.0.0.2",
]  # fmt: skip
GATEWAYS_RIGHT = ["", "https://a.test", "https://a.test:8443", "http://127.0.0.1:9", "http://localhost:9", "http://[::1]:9"]

WECHAT_WRONG: list[tuple[str, list[str]]] = [
    ("appid", ["", "wx", "wx 123456", "x" * 33, "应用编号应用编号"]),
    ("mchid", ["", "12345", "19000000A1", "1" * 33]),
    ("api_version", ["v1", "V3", "3"]),
    ("merchant_serial_no", ["", "xyz", "5F1C72E2A8931B7G", "5F:1C:72:E2:A8:93", "a" * 41]),
    ("api_v3_key", ["", "short", "k" * 31, "k" * 33, "茶" * 32]),
    (
        "private_key",
        ["", "x", public_pem(keys().ours).decode(), certificate("ours").decode(), _ec_private(), _ed_private()],
    ),
    ("public_key_id", ["", "PUB_KEY_", "pub_key_id_1", "PUB_KEY_ID_", "PUB_KEY_ID_" + "1" * 65, "PUB_KEY_ID_ 1"]),
    ("public_key", ["", "x", certificate("wechat").decode(), private_pem(keys().ours).decode(), public_pem(keys().ours).decode()]),
    ("platform_certificates", ["x", public_pem(keys().wechat).decode(), EC_ROOT, certificate("platform").decode() + EC_ROOT]),
    ("use_platform_certificates", ["yes", "1", "True"]),
    ("gateway_url", GATEWAYS_WRONG),
]
ALIPAY_WRONG: list[tuple[str, list[str]]] = [
    ("app_id", ["", "abc", "1234567", "2021 0000 0000", "1" * 33]),
    ("seller_id", ["abc", "2088", "seller@example.com"]),
    ("mode", ["", "KEY", "cert", "public"]),
    ("private_key", ["", "x", public_pem(keys().ours).decode(), _ec_private()]),
    ("alipay_public_key", ["", "x", public_pem(keys().ours).decode(), certificate("alipay").decode(), _ec_private()]),
    ("gateway_url", GATEWAYS_WRONG),
]
CERTIFICATE_WRONG: list[tuple[str, list[str]]] = [
    ("app_cert", ["", "x", EC_ROOT, SM2_ROOT, certificate("alipay").decode(), public_pem(keys().ours).decode()]),
    ("alipay_cert", ["", "x", EC_ROOT, SM2_ROOT, public_pem(keys().alipay).decode()]),
    ("root_cert", ["", "x", EC_ROOT, SM2_ROOT]),
]


def _cases(rows: list[tuple[str, list[str]]]) -> list[object]:
    return [pytest.param(name, value, id=f"{name}-{index}") for name, values in rows for index, value in enumerate(values)]


def _only(violations: object, name: str, value: str) -> None:
    assert _names(violations) == [name]
    assert isinstance(violations, list)
    assert len(value) < 24 or value not in violations[0].description


@pytest.mark.parametrize(("name", "value"), _cases(WECHAT_WRONG))
def test_wechat_wrong_field(name: str, value: str) -> None:
    _only(check_wechat(wx_config(**{name: value})), name, value)


@pytest.mark.parametrize(("name", "value"), _cases(ALIPAY_WRONG))
def test_alipay_wrong_field(name: str, value: str) -> None:
    _only(check_alipay(ali_config(**{name: value})), name, value)


@pytest.mark.parametrize(("name", "value"), _cases(CERTIFICATE_WRONG))
def test_alipay_wrong_certificate(name: str, value: str) -> None:
    _only(check_alipay(ali_cert_config() | {name: value}), name, value)


@pytest.mark.parametrize("gateway", GATEWAYS_RIGHT)
def test_gateways(gateway: str) -> None:
    assert not check_wechat(wx_config(gateway_url=gateway))
    assert not check_alipay(ali_config(gateway_url=gateway))


def test_every_wrong_field_is_named_at_once() -> None:
    secret = "THIS-IS-A-SECRET-VALUE"
    wrong = dict.fromkeys(wx_config(), secret + "!") | {"platform_certificates": secret, "use_platform_certificates": secret}
    violations = check_wechat(wrong | {"api_version": secret})
    assert set(_names(violations)) == {*wrong, "api_version"}
    assert secret not in repr(violations)
    both = dict.fromkeys((*ali_config(), *ali_cert_config()), secret + "!")
    for mode, fields in (("key", {"alipay_public_key"}), ("certificate", {"app_cert", "alipay_cert", "root_cert"})):
        found = check_alipay(both | {"mode": mode})
        assert set(_names(found)) == {"app_id", "seller_id", "private_key", "gateway_url", *fields}
        assert secret not in repr(found)


def test_nothing_at_all() -> None:
    assert set(_names(check_wechat({}))) == {"appid", "mchid", "merchant_serial_no", "api_v3_key", "private_key", "public_key"}
    assert set(_names(check_alipay({}))) == {"app_id", "private_key", "mode"}
    assert check_mock({}) == []
    assert _names(check_mock({"behaviour": "x"})) == ["behaviour"]


def test_what_passes_can_be_built() -> None:
    without = {name: value for name, value in wx_config().items() if not name.startswith("public_key")}
    platform = certificate("platform").decode()
    for config in (wx_config(), without | {"use_platform_certificates": "true"}, without | {"platform_certificates": platform}):
        assert check_wechat(config) == []
        assert WechatNativeCodec(config).code == "wx_native"
    assert check_alipay(ali_config(seller_id="")) == []
    assert check_alipay(ali_cert_config()) == []


def test_the_own_key_instead_of_alipays_is_reported() -> None:
    violation = check_alipay(ali_config(alipay_public_key=public_pem(keys().ours).decode()))
    assert violation == [Violation("alipay_public_key", "is the application's own public key; Alipay shows another one")]


def test_keys_in_all_their_forms() -> None:
    numbers = keys().ours.private_numbers()
    for pem in (private_pem(keys().ours), private_pem(keys().ours, pkcs1=True)):
        for form in (pem.decode(), _bare(pem), pem.decode().replace("\n", "\r\n"), "\n " + pem.decode() + "\n"):
            for verified in (False, True):
                assert load_private_key(form, verified=verified).private_numbers() == numbers
    public = keys().ours.public_key()
    for kind in (PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1):
        made = public.public_bytes(Encoding.PEM, kind)
        for form in (made.decode(), _bare(made)):
            assert load_public_key(form).public_numbers() == public.public_numbers()


def test_a_key_whose_numbers_do_not_belong_together_is_refused() -> None:
    numbers = keys().ours.private_numbers()
    der = bytearray(keys().ours.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    at = der.find(numbers.dmp1.to_bytes(128, "big"))
    der[at + 127] ^= 2
    broken = base64.b64encode(der).decode()
    with pytest.raises(CryptoError):
        load_private_key(broken)
    for check, config in ((check_wechat, wx_config()), (check_alipay, ali_config())):
        assert _names(check({**config, "private_key": broken})) == ["private_key"]


def test_a_key_error_repeats_nothing() -> None:
    sealed = keys().ours.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")).decode()
    for material in (sealed, "SECRET-MATERIAL", _bare(sealed)[:100], "钥匙"):
        with pytest.raises(CryptoError) as caught:
            load_private_key(material)
        assert material[:20] not in str(caught.value)


def test_two_packages_with_the_same_code() -> None:
    spec = installed()["mock"]
    with pytest.raises(ValueError, match="two installed packages"):
        Registry([spec, spec])
