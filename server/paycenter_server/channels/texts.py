"""Texts of channels' answers in a form that can be stored."""

from __future__ import annotations


def text(value: object) -> str:
    """A text; "" for anything else.

    What no database column accepts (NUL, unpaired surrogates) is replaced and not removed, because removal could turn another
    number into one of ours.
    """
    if not isinstance(value, str):
        return ""
    if value.isascii() and "\0" not in value:
        return value
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
