"""Alipay: the signed content of requests, answers and callbacks.

Source: Alipay Open API, "Signature" and "Asynchronous notification verification"; the raw substring of answers as in the vendor's
SignContentExtractor.
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
    """The signed text: raw `k=v` joined by `&`, sorted by key. In a request without `sign` and empty values, with `sign_type`."""
    pairs = ((key, value) for key, value in sorted(fields.items()) if key not in drop and (keep_empty or value != ""))
    return "&".join(f"{key}={value}" for key, value in pairs).encode(charset)


def extract_signed(raw: str, node: str) -> str:
    """The exact substring of an answer that `sign` covers: the value of `node`, or of `error_response`.

    Braces count outside strings only, and escapes are obeyed. A second node with the same name is refused, because it could have
    other content than the verified one. A value that is a text (encrypted content) includes its quotes.
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
    """Whether Alipay signed the substring, either unchanged or with `\\/` replaced by `/`, as in the vendor's SDKs."""
    if rsa_verify(key, signed.encode(), signature):
        return True
    return "\\/" in signed and rsa_verify(key, signed.replace("\\/", "/").encode(), signature)


def parse_form(body: bytes, charset: str = "utf-8") -> dict[str, str]:
    """The fields of a callback's form, decoded once. CallbackError if the body is not a form, or a field occurs twice."""
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
    """Verify as rsaCheckV1 (without `sign_type`), else as rsaCheckV2 (with it), including empty fields, in their charset."""
    signature = fields.get("sign", "")
    if not signature:
        return False
    for drop in (("sign", "sign_type"), ("sign",)):
        if rsa_verify(key, sign_content(fields, drop=drop, keep_empty=True, charset=charset), signature):
            return True
    return False
