"""How values are shown: amounts, times, states, sizes. What goes through `Formats.text` is in the language of the viewer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from urllib.parse import unquote
from zoneinfo import ZoneInfo

from markupsafe import Markup, escape

_MOST_MINUTES = 14 * 60
GOOD, WAIT, BAD, OFF, PART = "good", "wait", "bad", "off", "part"
"""The colours of states (console.css). A state is always shown by its text as well."""
STATES: Mapping[str, tuple[str, str]] = {
    "order:WAITING": (WAIT, "Not paid yet"),
    "order:SUCCESS": (GOOD, "Paid"),
    "order:REFUND": (PART, "Refunded"),
    "order:PARTLY": (PART, "Partly refunded"),
    "order:CLOSED": (OFF, "Closed"),
    "attempt:WAITING": (WAIT, "Waiting for the payer"),
    "attempt:UNKNOWN": (BAD, "Unclear, being queried"),
    "attempt:SUCCESS": (GOOD, "Paid"),
    "attempt:CLOSED": (OFF, "Closed"),
    "refund:WAITING": (WAIT, "In progress"),
    "refund:SUCCESS": (GOOD, "Refunded"),
    "refund:FAILURE": (BAD, "Refund failed"),
    "notification:WAITING": (WAIT, "Waiting to be sent"),
    "notification:SUCCESS": (GOOD, "Received"),
    "notification:FAILURE": (BAD, "Given up"),
    "notification:REQUEST_SUCCESS": (PART, "Answered, not confirmed"),
    "notification:REQUEST_FAILURE": (BAD, "No answer"),
    "notification:SUPERSEDED": (OFF, "Superseded"),
    "case:OPEN": (BAD, "Open"),
    "case:REFUNDING": (WAIT, "Being refunded"),
    "case:RESOLVED": (GOOD, "Resolved"),
    "approval:PENDING": (WAIT, "Waits for approval"),
    "approval:APPROVED": (GOOD, "Approved"),
    "approval:REFUSED": (OFF, "Refused"),
    "approval:EXPIRED": (OFF, "Expired"),
    "switch:on": (GOOD, "Enabled"),
    "switch:off": (OFF, "Disabled"),
}
CASE_KINDS: Mapping[str, str] = {
    "LATE_PAYMENT": "Payment after the close",
    "DUPLICATE_PAYMENT": "Paid twice",
    "WRONG_AMOUNT": "Wrong amount paid",
    "WRONG_CURRENCY": "Wrong currency paid",
    "UNKNOWN_ORDER": "Payment of an unknown number",
    "REFUND_MISMATCH": "A refund contradicts ours",
    "REFUND_ELSEWHERE": "Refunded outside PayCenter",
    "STALE_ATTEMPT": "Payment undecided for a day",
    "STALE_REFUND": "Refund undecided for a day",
    "NOTIFICATION_GIVEN_UP": "Notification given up",
    "BOOKS_DIFFER": "Amounts differ from the ledger",
}
"""Names of the kinds of cases, and of the events that open them."""


def amount(minor: int | None, currency: str = "CNY") -> str:
    """`1,234.50` with the sign of the currency in front. "" for None."""
    if minor is None:
        return ""
    sign = "-" if minor < 0 else ""
    whole, part = divmod(abs(minor), 100)
    return f"{sign}{'¥' if currency == 'CNY' else currency + ' '}{whole:,}.{part:02d}"


def plain_amount(minor: int) -> str:
    """`1234.50`, as a form takes it."""
    return f"{minor // 100}.{minor % 100:02d}"


def rate(ppm: int) -> str:
    """Millionths as a percentage without superfluous zeros."""
    return f"{ppm / 10_000:.4f}".rstrip("0").rstrip(".") + " %"


def percent(part: int, whole: int) -> str:
    """With one decimal; "" if there is no whole."""
    return f"{100 * part / whole:.1f} %" if whole else ""


def zone_of(cookie: str) -> tzinfo:
    """The zone that the browser told: `minutes east of UTC.name`. UTC for anything else.

    The name is used where this machine knows it, because the offset of another season may be another one.
    """
    minutes_text, _, name = unquote(cookie).partition(".")
    try:
        minutes = int(minutes_text)
    except ValueError:
        return UTC
    if not -_MOST_MINUTES <= minutes <= _MOST_MINUTES:
        return UTC
    if name and len(name) <= 64 and not name.startswith(("/", ".")) and ".." not in name:
        try:
            return ZoneInfo(name)
        except (OSError, ValueError):  # ZoneInfoNotFoundError is a KeyError
            pass
        except KeyError:
            pass
    return timezone(timedelta(minutes=minutes))


def zone_name(zone: tzinfo, now: datetime) -> str:
    """`UTC`, or `UTC+08:00`."""
    offset = now.astimezone(zone).strftime("%z")
    return "UTC" if offset == "+0000" else f"UTC{offset[:3]}:{offset[3:]}"


def show_time(when: datetime | None, zone: tzinfo) -> Markup:
    """A `<time>` in the viewer's zone, with UTC as its title. Empty for None."""
    if when is None:
        return Markup("")
    utc = when.astimezone(UTC)
    return Markup('<time datetime="{}" title="{} UTC">{}</time>').format(
        utc.strftime("%Y-%m-%dT%H:%M:%SZ"), utc.strftime("%Y-%m-%d %H:%M:%S"), when.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")
    )


def age(seconds: float) -> tuple[int, str]:
    """A number and the name of its unit, for "3 hours"."""
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= size:
            return int(seconds // size), unit
    return max(int(seconds), 0), "seconds"


def classes(*names: object) -> str:
    """The names that are not empty, as the value of a class attribute."""
    return " ".join(str(escape(name)) for name in names if name)
