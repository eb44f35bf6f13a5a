"""Alipay: what is signed, in requests, answers and callbacks.

Source: Alipay Open API, "signature", "asynchronous notification verification"; the raw-substring rule as in the vendor's
own SignContentExtractor.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl

from paycenter_server.channels.crypto import RSAPublicKey, rsa_verify
from paycenter_server.channels.protocol import AnswerError, CallbackError

MAX_FIELDS = 200


def sign_content(
    fields: Mapping[str, str], *, drop: tuple[str, ...] = ("sign",), keep_empty: bool = False, charset: str = "utf-8"
) -> bytes:
    """`k=v` joined by `&`, sorted by key, raw values. A request drops `sign` and empty values; `sign_type` stays."""
    pairs = ((key, value) for key, value in sorted(fields.items()) if key not in drop and (keep_empty or value != ""))
    return "&".join(f"{key}={value}" for key, value in pairs).encode(charset)


def extract_signed(raw: str, node: str) -> str:
    """The exact substring of an answer that `sign` covers: the value of `node`, or of `error_response`.

    Braces count outside strings only, escapes are honoured, and a node that occurs again after its end is refused (a second
    one could carry other content than the one that was verified). A value that is a text (encrypted content) is taken
    with its quotes.
    """
    for name in (node, "error_response"):
        start = raw.find(f'"{name}"')
        if start >= 0:
            break
    else:
        raise AnswerError(f"the answer has no {node}")
    position = re.compile(r"\s*:\s*").match(raw, start + len(name) + 2)
    if position is None or position.end() >= len(raw):
        raise AnswerError(f"the answer's {name} has no value")
    begin = position.end()
    end = _end_of_value(raw, begin)
    if raw.find(f'"{name}"', end) >= 0:
        raise AnswerError(f"the answer holds {name} twice")
    return raw[begin:end]


def _end_of_value(raw: str, begin: int) -> int:
    if raw[begin] not in '{"':
        raise AnswerError("the answer's content is neither an object nor a text")
    depth, in_string, position, size = 0, False, begin, len(raw)
    while position < size:
        character = raw[position]
        if in_string:
            if character == "\\":
                position += 1
            elif character == '"':
                in_string = False
                if depth == 0:
                    return position + 1
        elif character == '"':
            in_string = True
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return position + 1
        position += 1
    raise AnswerError("the answer's content does not end")


def verify_answer(key: RSAPublicKey, signed: str, signature: str) -> bool:
    """Whether the substring is Alipay's; if not as it stands, then with `\\/` read as `/`, as the vendor's SDKs do."""
    if rsa_verify(key, signed.encode(), signature):
        return True
    return "\\/" in signed and rsa_verify(key, signed.replace("\\/", "/").encode(), signature)


def parse_form(body: bytes, charset: str = "utf-8") -> dict[str, str]:
    """A callback's form, decoded exactly once. CallbackError for a body that is no form, or a field given twice."""
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=True, encoding=charset, errors="strict",
            max_num_fields=MAX_FIELDS,
        )  # fmt: skip
    except (ValueError, LookupError) as error:
        raise CallbackError("the body is not a form") from error
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise CallbackError("the form holds a field twice")
    return fields


def verify_callback(key: RSAPublicKey, fields: Mapping[str, str], charset: str = "utf-8") -> bool:
    """rsaCheckV1 (without `sign_type`), else rsaCheckV2 (with it); empty fields take part as they came, in their charset."""
    signature = fields.get("sign", "")
    if not signature:
        return False
    for drop in (("sign", "sign_type"), ("sign",)):
        if rsa_verify(key, sign_content(fields, drop=drop, keep_empty=True, charset=charset), signature):
            return True
    return False
