"""The forms of the channel families: the fields of their configurations in the order in which a person has them at hand.

Which field belongs to the account and which to the way to pay is said by the channel's own description (`channels/specs.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from paycenter_server.channels.specs import ChannelSpec, Scope


@dataclass(frozen=True, slots=True)
class Item:
    """A field of a form. `kind`: text, pem (pasted or uploaded) or select. `when`: the modes that need it, "" for all."""

    name: str
    label: str
    kind: str = "text"
    help: str = ""
    when: str = ""
    choices: Sequence[tuple[str, str]] = ()
    secret: bool = False


MODE: Mapping[str, str] = {"wechatpay": "api_version", "alipay": "mode"}
"""The field that says which other fields a family needs."""
_BEHAVIOURS = ("failure", "timeout", "lost", "late", "late_after_close", "never")
_YES_NO = (("", "No"), ("true", "Yes"))
FAMILIES: Mapping[str, Sequence[Item]] = {
    "wechatpay": (
        Item("api_version", "API version", "select", choices=(("v3", "v3"), ("v2", "v2"))),
        Item("appid", "Application id", help="wx…, of the official account, the mini program or the app"),
        Item("mchid", "Merchant number"),
        Item("private_key", "Merchant's private key", "pem", "apiclient_key.pem"),
        Item("merchant_serial_no", "Serial number of the merchant's certificate", when="v3"),
        Item("api_v3_key", "APIv3 key", when="v3"),
        Item("public_key_id", "Id of WeChat Pay's public key", help="PUB_KEY_ID_…", when="v3"),
        Item("public_key", "WeChat Pay's public key", "pem", "pub_key.pem", when="v3"),
        Item("use_platform_certificates", "Platform certificates instead of the public key", "select", choices=_YES_NO, when="v3"),
        Item("platform_certificates", "Platform certificates", "pem", "Empty: they are fetched.", when="v3"),
        Item("mch_key", "APIv2 key", when="v2"),
        Item("merchant_certificate", "Merchant's certificate", "pem", "apiclient_cert.pem", when="v2"),
        Item("sign_type", "Signature", "select", choices=(("", "MD5"), ("HMAC-SHA256", "HMAC-SHA256")), when="v2"),
        Item("use_codepay", "Bar codes by v3", "select", choices=_YES_NO, when="v3"),
        Item("gateway_url", "Gateway address", help="Empty: the channel's own."),
    ),
    "alipay": (
        Item("mode", "Mode", "select", choices=(("key", "Public key"), ("certificate", "Certificate"))),
        Item("app_id", "Application id"),
        Item("seller_id", "Seller's user id", help="2088…; may be empty"),
        Item("private_key", "Application's private key", "pem"),
        Item("alipay_public_key", "Alipay's public key", "pem", "Not the application's: Alipay shows it after the upload.", "key"),
        Item("app_cert", "Application's certificate", "pem", "appCertPublicKey_….crt", "certificate"),
        Item("alipay_cert", "Alipay's certificate", "pem", "alipayCertPublicKey_RSA2.crt", "certificate"),
        Item("root_cert", "Alipay's root certificates", "pem", "alipayRootCert.crt", "certificate"),
        Item("encrypt_key", "Key for the encryption of content", help="AES, base64; may be empty"),
        Item("gateway_url", "Gateway address", help="Empty: the channel's own."),
    ),
    "mock": (
        Item(
            "behaviour", "Behaviour", "select",
            choices=(("", "Pays at once"), *((name, name) for name in _BEHAVIOURS)),
        ),
    ),
}  # fmt: skip


def items_of(spec: ChannelSpec, *scopes: Scope) -> list[Item]:
    """The fields of a channel's configuration that belong to these scopes; all if none is given."""
    fields = {field.name: field for field in spec.config_fields if not scopes or field.scope in scopes}
    known = [replace(item, secret=fields[item.name].secret) for item in FAMILIES.get(spec.family, ()) if item.name in fields]
    names = {item.name for item in known}
    # A field that has no place above, of another package for example, is a line of text.
    return known + [Item(name, name, secret=field.secret) for name, field in fields.items() if name not in names]
