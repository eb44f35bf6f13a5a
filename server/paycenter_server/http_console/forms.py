"""Reading forms and queries: texts, amounts, times, uploaded keys. What is wrong becomes field violations, as in the use cases."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta, tzinfo
from enum import StrEnum
from typing import TypeVar

from aiohttp import web
from aiohttp.web_request import FileField

from paycenter_server.domain.errors import PayCenterError, Violation, invalid
from paycenter_server.domain.money import MAX_AMOUNT

E = TypeVar("E", bound=StrEnum)
Form = Mapping[str, str]
_AMOUNT = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,2}))?")


async def read_form(request: web.Request) -> dict[str, str]:
    """The fields of a form. An uploaded file named `NAME_file` fills the field `NAME`; one that is not text becomes base64.

    Lines end with a line feed, however the browser sends them.
    """
    values: dict[str, str] = {}
    files: dict[str, str] = {}
    for name, value in (await request.post()).items():
        if isinstance(value, FileField):
            content = value.file.read()
            if content:
                files[name.removesuffix("_file")] = _material(content)
        elif isinstance(value, str):
            values[name] = value.replace("\r\n", "\n")
    return {**values, **files}


def _material(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return base64.b64encode(content).decode()


def amount_of(field: str, text: str) -> int:
    """Minor units of an amount that was typed as `12.34`. INVALID_FIELD if it is none, or not from 0.01 to the most."""
    found = _AMOUNT.fullmatch(text.strip().replace(",", "").removeprefix("¥"))
    minor = int(found[1]) * 100 + int((found[2] or "").ljust(2, "0")) if found else 0
    if not 0 < minor <= MAX_AMOUNT:
        raise invalid([Violation(field, "must be an amount such as 12.34, with at most two decimals")])
    return minor


def rate_of(field: str, text: str) -> int:
    """Millionths of a percentage that was typed as `0.6`; 0 for nothing. INVALID_FIELD if it is none."""
    if not text.strip():
        return 0
    found = re.fullmatch(r"([0-9]{1,3})(?:\.([0-9]{1,4}))?", text.strip().removesuffix("%").strip())
    if not found:
        raise invalid([Violation(field, "must be a percentage such as 0.6, with at most four decimals")])
    return int(found[1]) * 10_000 + int((found[2] or "").ljust(4, "0"))


def choice(kind: type[E], text: str) -> E | None:
    """The member of an enum; None for any other text, which does not filter."""
    return kind(text) if text in {member.value for member in kind} else None


def need_confirmation(form: Form, field: str, expected: str) -> None:
    """INVALID_FIELD unless the number or the name of what is to be changed was typed."""
    if form.get(field, "").strip() != expected:
        raise invalid([Violation(field, "must be exactly the text that is shown")])


RANGES = {"today": 0, "7d": 7, "30d": 30, "90d": 90}
"""The choices of a time range: days before today, whose beginning is the start."""


Range = tuple[str, datetime | None, datetime | None]


def time_range(query: Mapping[str, str], now: datetime, zone: tzinfo, default: str = "30d") -> Range:
    """The choice, its start and its end. `all` and an unreadable one have none. Times of a query are in the viewer's zone."""
    chosen = query.get("range") or default
    if chosen == "custom":
        return chosen, _time(query.get("from", ""), zone), _time(query.get("to", ""), zone, end=True)
    if chosen in RANGES:
        today = now.astimezone(zone).date()
        return chosen, _midnight(today - timedelta(days=RANGES[chosen]), zone), None
    return "all", None, None


def _midnight(day: date, zone: tzinfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


def _time(text: str, zone: tzinfo, *, end: bool = False) -> datetime | None:
    """A date, or a date with a time, in the zone; the end of a date is the beginning of the next day. None if it is neither."""
    try:
        if "T" in text:
            return datetime.fromisoformat(text).replace(tzinfo=zone).astimezone(UTC)
        day = date.fromisoformat(text)
        return _midnight(day + timedelta(days=1) if end else day, zone)
    except (ValueError, OverflowError):
        return None


def end_of_day(text: str, zone: tzinfo) -> datetime | None:
    """The end of a date in the zone; None if the text is none."""
    return None if "T" in text else _time(text, zone, end=True)


def fields_of(error: PayCenterError) -> dict[str, str]:
    """What is wrong with each field. A field of a configuration is named without `config.`."""
    return {violation.field.removeprefix("config."): violation.description for violation in error.violations}
