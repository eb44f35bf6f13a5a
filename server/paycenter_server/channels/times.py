"""Times in the channels' formats: always +08:00, independent of the server's time zone."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime

CHINA = timezone(timedelta(hours=8))
_ALIPAY = "%Y-%m-%d %H:%M:%S"
_WECHAT_V2 = "%Y%m%d%H%M%S"


def rfc3339(context: datetime) -> str:
    """A time in the format of WeChat Pay v3: `2026-01-02T03:04:05+08:00`."""
    return context.astimezone(CHINA).replace(microsecond=0).isoformat()


def parse_rfc3339(text: str) -> datetime | None:
    """The reverse of rfc3339; None for anything else, also for a time without a zone."""
    try:
        context = datetime.fromisoformat(text)
    except ValueError:
        return None
    return context if context.tzinfo else None


def alipay(context: datetime) -> str:
    """A time in the format of Alipay: `2026-01-02 03:04:05`, without a zone."""
    return context.astimezone(CHINA).strftime(_ALIPAY)


def parse_alipay(text: str) -> datetime | None:
    """The reverse of alipay; some answers add milliseconds. None for anything else."""
    try:
        return datetime.strptime(text[:19], _ALIPAY).replace(tzinfo=CHINA)
    except ValueError:
        return None


def wechat_v2(context: datetime) -> str:
    """A time in the format of WeChat Pay v2: `20260102030405`, without a zone."""
    return context.astimezone(CHINA).strftime(_WECHAT_V2)


def parse_wechat_v2(text: str) -> datetime | None:
    """The reverse of wechat_v2; None for anything else."""
    if len(text) != 14 or not (text.isascii() and text.isdigit()):
        return None
    try:
        return datetime.strptime(text, _WECHAT_V2).replace(tzinfo=CHINA)
    except ValueError:
        return None


def parse_http_date(text: str) -> datetime | None:
    """The time of a Date header; None for anything else."""
    try:
        context = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return context if context.tzinfo else None
