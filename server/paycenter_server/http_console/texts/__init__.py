"""The languages of the console. The English text is the key; `chinese` has the Chinese one of each."""

from __future__ import annotations

import re

from paycenter_server.http_console.texts.chinese import CHINESE

LANGUAGES = {"en": "English", "zh": "中文"}
_ENTRY = re.compile(r"\s*([A-Za-z*]{1,8})(?:-[A-Za-z0-9-]{1,30})?\s*(?:;\s*q\s*=\s*([01](?:\.[0-9]{0,3})?)\s*)?")


def translated(language: str, text: str) -> str:
    """The text in the language. A text that has no translation, such as a sentence of a use case, stays English."""
    return CHINESE.get(text, text) if language == "zh" else text


def language_of(cookie: str, accepted: str) -> str:
    """The chosen language, else the first of those that the browser accepts (`Accept-Language`), else English."""
    if cookie in LANGUAGES:
        return cookie
    best, most = "en", 0.0
    for entry in accepted[:500].split(","):
        found = _ENTRY.fullmatch(entry)
        if found and found[1].lower() in LANGUAGES and float(found[2] or 1) > most:
            best, most = found[1].lower(), float(found[2] or 1)
    return best
