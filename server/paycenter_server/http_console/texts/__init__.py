"""The languages of the console. The English text is the key; a catalog (`zh.po`, gettext) has the other language's text of each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from babel.messages.pofile import read_po

LANGUAGES = {"en": "English", "zh": "中文"}
_ENTRY = re.compile(r"\s*([A-Za-z*]{1,8})(?:-[A-Za-z0-9-]{1,30})?\s*(?:;\s*q\s*=\s*([01](?:\.[0-9]{0,3})?)\s*)?")


@cache
def catalog(language: str) -> Mapping[str, str]:
    """The translations of a language by their English texts. English has none."""
    path = Path(__file__).with_name(f"{language}.po")
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        return {str(message.id): str(message.string) for message in read_po(file) if message.id}


def translated(language: str, text: str) -> str:
    """The text in the language. A text that has no translation, such as a sentence of a use case, stays English."""
    return catalog(language).get(text, text)


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
