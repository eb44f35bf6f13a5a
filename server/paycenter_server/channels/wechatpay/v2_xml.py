"""WeChat Pay v2: flat XML and its signature.

Source: WeChat Pay v2, "Interface rules" and "Signature". Document types and entities are refused before anything is parsed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from xml.etree import ElementTree

from paycenter_server.channels.protocol import AnswerError
from paycenter_server.channels.texts import text as storable

MAX_FIELDS = 500
_DECLARATION = re.compile(r"<!\s*(DOCTYPE|ENTITY|ELEMENT|ATTLIST|NOTATION)", re.IGNORECASE)
MD5, HMAC_SHA256 = "MD5", "HMAC-SHA256"


def parse(body: bytes) -> dict[str, str]:
    """The fields of a message; AnswerError for anything but flat, plain UTF-8 XML."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AnswerError("the message is not UTF-8") from error
    if _DECLARATION.search(text) or "\0" in text:
        raise AnswerError("the message declares a document type or an entity, which is never part of WeChat's messages")
    flat = _Flat()
    parser = ElementTree.XMLParser(target=flat)  # noqa: S314 (declarations, the only danger, were refused above)
    try:
        parser.feed(text)
        parser.close()
    except (ElementTree.ParseError, ValueError) as error:
        raise AnswerError("the message is not XML") from error
    return flat.fields


class _Flat:
    """Collects the fields, and refuses a message as soon as it is not flat. No tree is built, because anybody can send one."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self._depth = 0
        self._parts: list[str] = []

    def start(self, tag: str, attributes: object) -> None:
        self._depth += 1
        self._parts = []
        if self._depth > 2 or tag in self.fields:
            raise AnswerError("the message is not flat, or holds a field twice")
        if len(self.fields) >= MAX_FIELDS:
            raise AnswerError("the message has too many fields")

    def data(self, data: str) -> None:
        self._parts.append(data)

    def end(self, tag: str) -> None:
        if self._depth == 2:
            self.fields[tag] = storable("".join(self._parts))
        self._depth -= 1
        self._parts = []


def build(fields: Mapping[str, str]) -> bytes:
    """A message. Values are CDATA, so that they contain no markup."""
    parts = ["<xml>"]
    for name, value in fields.items():
        safe = value.replace("]]>", "]]]]><![CDATA[>")
        parts.append(f"<{name}><![CDATA[{safe}]]></{name}>")
    return "".join([*parts, "</xml>"]).encode()


def sign(fields: Mapping[str, str], key: str, kind: str) -> str:
    """The signature over the sorted, non-empty fields except `sign`, and the key, in upper-case hexadecimal."""
    pairs = [f"{name}={value}" for name, value in sorted(fields.items()) if value != "" and name != "sign"]
    content = "&".join([*pairs, f"key={key}"]).encode()
    if kind == HMAC_SHA256:
        return hmac.new(key.encode(), content, hashlib.sha256).hexdigest().upper()
    return hashlib.md5(content, usedforsecurity=False).hexdigest().upper()


def verify(fields: Mapping[str, str], key: str, sign_type: str = "") -> bool:
    """Whether `sign` is valid: 64 characters are HMAC-SHA256, 32 are MD5. Unknown fields are included.

    `sign_type`: the only accepted method; empty accepts both.
    """
    given = fields.get("sign", "")
    kind = {64: HMAC_SHA256, 32: MD5}.get(len(given))
    if kind is None or not given.isascii() or sign_type not in ("", kind):
        return False
    return hmac.compare_digest(sign(fields, key, kind), given.upper())
