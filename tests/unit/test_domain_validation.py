"""Every rule of the validation, and the errors."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paycenter_server.domain.errors import PayCenterError, Reason, Violation, invalid
from paycenter_server.domain.money import MAX_AMOUNT
from paycenter_server.domain.validation import MAX_EXPIRY, Check

NOW = datetime(2026, 3, 4, tzinfo=UTC)


def wrong(rule: Callable[[Check], None]) -> bool:
    check = Check()
    rule(check)
    assert all(violation.field == "f" and violation.description for violation in check.violations)
    assert len(check.violations) <= 1
    return bool(check.violations)


@pytest.mark.parametrize(
    ("value", "maximum", "minimum", "bad"),
    [
        ("", 10, 0, False), ("", 10, 1, True), ("a", 10, 2, True), ("茶" * 10, 10, 1, False), ("茶" * 11, 10, 1, True),
        ("😀" * 10, 10, 1, False), ("a\nb", 10, 1, True), ("a\tb", 10, 1, True), ("a\0", 10, 1, True), ("\x7f", 10, 1, True),
        ("\x1f", 10, 1, True), ("\ud800", 10, 1, True), (" ", 10, 1, False), ("'\"<>&\\", 10, 1, False),
    ],
)  # fmt: skip
def test_text(value: str, maximum: int, minimum: int, bad: bool) -> None:
    assert wrong(lambda check: check.text("f", value, maximum, minimum=minimum)) is bad


@given(value=st.text(max_size=30))
def test_a_text_that_passes_can_be_stored(value: str) -> None:
    if not wrong(lambda check: check.text("f", value, 20)):
        assert len(value) <= 20
        assert "\0" not in value
        assert value.encode() is not None


@pytest.mark.parametrize(
    ("value", "bad"), [(0, True), (-1, True), (1, False), (MAX_AMOUNT, False), (MAX_AMOUNT + 1, True), (1 << 70, True)]
)
def test_amount(value: int, bad: bool) -> None:
    assert wrong(lambda check: check.amount("f", value)) is bad


@pytest.mark.parametrize(("value", "bad"), [("CNY", False), ("cny", True), ("", True), ("USD", True), ("CNY ", True)])
def test_currency(value: str, bad: bool) -> None:
    assert wrong(lambda check: check.currency("f", value)) is bad


@pytest.mark.parametrize(
    ("value", "bad"),
    [
        ("203.0.113.9", False), ("2001:db8::1", False), ("::1", False), ("", True), ("localhost", True), ("1.2.3", True),
        ("1.2.3.256", True), ("203.0.113.9:80", True), (" 203.0.113.9", True), ("10.0.0.0/8", True), ("x" * 5000, True),
    ],
)  # fmt: skip
def test_ip(value: str, bad: bool) -> None:
    assert wrong(lambda check: check.ip("f", value)) is bad


@pytest.mark.parametrize(
    ("ahead", "bad"),
    [
        (timedelta(0), True), (timedelta(seconds=-1), True), (timedelta(microseconds=1), False),
        (MAX_EXPIRY, False), (MAX_EXPIRY + timedelta(microseconds=1), True),
    ],
)  # fmt: skip
def test_future(ahead: timedelta, bad: bool) -> None:
    assert wrong(lambda check: check.future("f", NOW + ahead, NOW)) is bad


@pytest.mark.parametrize(
    ("value", "bad"),
    [
        ("", False), ("https://a.test", False), ("http://127.0.0.1:8080/x?y=1#z", False), ("https://[2001:db8::1]/", False),
        ("https://例子.测试/茶", False), ("ftp://a.test", True), ("//a.test", True), ("a.test", True), ("https://", True),
        ("https:///x", True), ("https://user:secret@a.test", True), ("https://user@a.test", True), ("https://a.test:99999", True),
        ("https://a.test:x", True), ("https://a.test:0", True), ("https://[", True), ("https://a.test/a b", True),
        ("https://a.test/\n", True), ("https://a.test/\x00", True), ("javascript:alert(1)", True), ("https://a.test/\u202e", True),
        ("https://a.test/" + "x" * 1100, True),
    ],
)  # fmt: skip
def test_url(value: str, bad: bool) -> None:
    assert wrong(lambda check: check.url("f", value)) is bad
    assert wrong(lambda check: check.url("f", value, required=True)) is (bad or not value)


@given(value=st.text(max_size=40).map(lambda text: "https://" + text))
def test_a_url_rule_never_raises(value: str) -> None:
    wrong(lambda check: check.url("f", value))


@pytest.mark.parametrize(
    ("value", "bad"),
    [
        ("shop", False),
        ("a-b_c9", False),
        ("x" * 64, False),
        ("", True),
        ("x" * 65, True),
        ("Shop", True),
        ("a b", True),
        ("a\n", True),
    ],
)
def test_app_key(value: str, bad: bool) -> None:
    assert wrong(lambda check: check.app_key("f", value)) is bad


@pytest.mark.parametrize(("value", "bad"), [(0, False), (1_000_000, False), (-1, True), (1_000_001, True)])
def test_ppm(value: int, bad: bool) -> None:
    assert wrong(lambda check: check.ppm("f", value)) is bad


def test_all_violations_are_reported_at_once() -> None:
    check = Check()
    check.done()
    check.text("subject", "", 32, minimum=1)
    check.amount("amount", 0)
    check.currency("currency", "EUR")
    check.ip("user_ip", "x")
    check.fail("extra", "is not known")
    with pytest.raises(PayCenterError) as caught:
        check.done()
    error = caught.value
    assert error.reason is Reason.INVALID_FIELD
    assert [violation.field for violation in error.violations] == ["subject", "amount", "currency", "user_ip", "extra"]
    assert error.metadata == {"fields": "subject, amount, currency, user_ip, extra"}
    for violation in error.violations:
        assert f"{violation.field}: {violation.description}" in error.message


def test_an_error_has_what_the_caller_needs() -> None:
    metadata = {"order": "O1"}
    error = PayCenterError(Reason.ATTEMPT_PENDING, "Wait.", metadata=metadata, retry_after=3.0)
    metadata["order"] = "changed"
    assert (str(error), error.message, error.reason, error.retry_after) == ("Wait.", "Wait.", Reason.ATTEMPT_PENDING, 3.0)
    assert (error.metadata, error.violations) == ({"order": "O1"}, ())
    assert invalid([Violation("a", "is wrong")]).message == "Correct these fields and call again: a: is wrong"


def test_reasons_are_their_names() -> None:
    assert all(reason.value == reason.name for reason in Reason)
