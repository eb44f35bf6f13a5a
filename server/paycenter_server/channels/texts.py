"""Texts of channels' answers, as they can be kept."""

from __future__ import annotations


def text(value: object) -> str:
    """A text, or "" for anything else.

    What no database column takes (NUL, unpaired surrogates) is replaced, not dropped: that could make another number ours.
    """
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode() if isinstance(value, str) else ""
