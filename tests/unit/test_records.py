"""Records of calls without secrets."""

from __future__ import annotations

import re
import sys

import pytest
from paycenter_server.channels import records
from paycenter_server.channels.protocol import HttpRequest
from paycenter_server.channels.records import REMOVED, call_record, without_secrets


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"total":1,"body":"Tea"}', '{"total":1,"body":"Tea"}'),
        ('{"SIGN":"abc","total":1}', f'{{"SIGN":"{REMOVED}","total":1}}'),
        ('{"paySign": "a\\"b"}', f'{{"paySign": "{REMOVED}"}}'),
        ("<xml><sign>abc</sign></xml>", f"<xml><sign>{REMOVED}</sign></xml>"),
        ('{"auth_code":"28"}', f'{{"auth_code":"{REMOVED}"}}'),
        # What was cut before its end. Each text is read once, however often a name begins in it.
        ('{"a":1,"key": "ab\\"c', f'{{"a":1,"key": "{REMOVED}"'),
        ('{"key": "ab\\', f'{{"key": "{REMOVED}"'),
        ("<xml><sign><![CDATA[ab", f"<xml><sign>{REMOVED}"),
        ("<key><key><key>", f"<key>{REMOVED}"),
        ("app_id=1&sign=ab", f"app_id=1&sign={REMOVED}"),
    ],
)
def test_secrets_are_removed(text: str, expected: str) -> None:
    assert without_secrets(text, form="=" in text) == expected


def test_no_letter_but_those_of_the_hints_makes_a_name() -> None:
    """`without_secrets` looks for the hints in lower case before it looks for names without regard to case."""
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, sys.maxunicode + 1)]))
    for letter in {letter for hint in records._HINTS for letter in hint}:
        assert {found.lower() for found in re.findall(letter, every, re.IGNORECASE)} == {letter}
    names = records._NAMES.split("|")
    assert [name for name in names if not any(hint in name.lower() for hint in records._HINTS)] == []


class Large(bytes):
    """An answer that must not be read whole."""

    def decode(self, *arguments: object, **names: object) -> str:
        raise AssertionError("the whole answer was read")


def test_no_more_of_an_answer_is_read_than_can_be_kept() -> None:
    record = call_record("api", HttpRequest("POST", "https://pay.test/", (), b"{}"), 200, Large(b"<key>" * 1_000_000), 3)
    assert record.answer == f"<key>{REMOVED}"
