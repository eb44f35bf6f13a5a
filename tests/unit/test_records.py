"""Records of calls without secrets."""

from __future__ import annotations

import re
import sys

import pytest
from paycenter_server.channels import records
from paycenter_server.channels.records import REMOVED, without_secrets


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"total":1,"body":"Tea"}', '{"total":1,"body":"Tea"}'),
        ('{"SIGN":"abc","total":1}', f'{{"SIGN":"{REMOVED}","total":1}}'),
        ('{"paySign": "a\\"b"}', f'{{"paySign": "{REMOVED}"}}'),
        ("<xml><sign>abc</sign></xml>", f"<xml><sign>{REMOVED}</sign></xml>"),
        ('{"auth_code":"28"}', f'{{"auth_code":"{REMOVED}"}}'),
    ],
)
def test_secrets_are_removed(text: str, expected: str) -> None:
    assert without_secrets(text) == expected


def test_no_letter_but_those_of_the_hints_makes_a_name() -> None:
    """`without_secrets` looks for the hints in lower case before it looks for names without regard to case."""
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, sys.maxunicode + 1)]))
    for letter in {letter for hint in records._HINTS for letter in hint}:
        assert {found.lower() for found in re.findall(letter, every, re.IGNORECASE)} == {letter}
    names = records._NAMES.split("|")
    assert [name for name in names if not any(hint in name.lower() for hint in records._HINTS)] == []
