"""Records of channel calls for the event ledger, without secrets."""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

from paycenter_server.channels.protocol import CallRecord, HttpRequest

_MAX = 8192
_READ = 4 * _MAX
"""So much of a message is read, because URL-encoded text becomes shorter. An answer may have megabytes."""
REMOVED = "(removed)"
# `auth_code` is the payer's bar code. Signatures prove nothing later, and a key or a token must not be stored in clear text.
_NAMES = "sign|signature|auth_code|app_auth_token|auth_token|access_token|key|api_key|secret|private_key|paySign"
# Each of the names has one of these. They have no i and no s, to which other letters are equal without regard to case.
_HINTS = ("gn", "auth", "token", "key", "cret")
# A value ends with the text if the text was cut. As each of them matches in any case, no text is read once for each name in it.
_JSON = re.compile(rf'("(?:{_NAMES})"\s*:\s*)"(?:[^"\\]|\\.)*\\?("|$)', re.IGNORECASE | re.DOTALL)
_XML = re.compile(rf"(<({_NAMES})>)(?:(?!</\2>).)*", re.IGNORECASE | re.DOTALL)
_FORM = re.compile(rf"((?:^|[&?])(?:{_NAMES})=)[^&]*", re.IGNORECASE)


def call_record(api: str, request: HttpRequest, status: int, answer: bytes | str, milliseconds: int) -> CallRecord:
    """The record of a call. Headers are not part of it, because they hold signatures and tokens only."""
    read = answer[:_READ]
    text = read if isinstance(read, str) else read.decode("utf-8", "replace")
    body = request.body[:_READ].decode("utf-8", "replace")
    form = not body.lstrip().startswith(("{", "<"))
    url = without_secrets(request.url[:_READ], form=True)
    body, text = without_secrets(body, form=form), without_secrets(text)
    return CallRecord(api, request.method, url[:_MAX], body[:_MAX], status, text[:_MAX], milliseconds)


def without_secrets(text: str, *, form: bool = False) -> str:
    """A message without signatures, tokens, keys and bar codes. `form`: it is URL-encoded, and becomes readable text."""
    if form:
        # Before decoding, because a decoded value may hold "&". A value may hold JSON (Alipay, biz_content).
        text = "&".join(unquote_plus(part) for part in _FORM.sub(rf"\g<1>{REMOVED}", text).split("&"))
    lowered = text.lower()
    for hint in _HINTS:
        if hint in lowered:
            break
    else:
        return text  # the expressions cost ten times as much
    text = _JSON.sub(rf'\g<1>"{REMOVED}"', text)
    return _XML.sub(rf"\g<1>{REMOVED}", text)
