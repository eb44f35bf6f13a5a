"""The simulator's clock: real time plus an offset that people and scripts set.

It drives everything that happens later: expiry, refunds that finish, the ladders on which notifications are sent again. Signature
time stamps do not follow it, in either direction: the other side checks those against its own, real clock.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable

__all__ = ["CHINA", "MOST_SHIFT", "Clock", "alipay_time", "parse_alipay_time", "parse_rfc3339", "rfc3339"]

CHINA = datetime.timezone(datetime.timedelta(hours=8))
MOST_SHIFT = 100 * 366 * 86400.0
"""Seconds by which the clock can be moved at once; where it may go is a second question."""
_EARLIEST = datetime.datetime(2000, 1, 1, tzinfo=CHINA).timestamp()
_LATEST = datetime.datetime(2100, 1, 1, tzinfo=CHINA).timestamp()


class Clock:
    """Seconds since the epoch, shifted; `changed` is called after each shift."""

    def __init__(self) -> None:
        self.offset = 0.0
        self.changed: Callable[[], None] = lambda: None

    def now(self) -> float:
        """The simulated time."""
        return time.time() + self.offset

    def checked(self, offset: float) -> float:
        """The offset, if it leaves the time between 2000 and 2100, so that every channel can write it; ValueError otherwise."""
        # nan compares with nothing
        if not _EARLIEST <= time.time() + offset <= _LATEST:
            raise ValueError("the clock must stay between 2000-01-01 and 2100-01-01, China time")
        return offset

    def shift(self, offset: float) -> None:
        """Set the offset from real time, in seconds."""
        self.offset = offset
        self.changed()


def rfc3339(moment: float) -> str:
    """WeChat v3's form, `2026-01-02T03:04:05+08:00`."""
    return datetime.datetime.fromtimestamp(int(moment), CHINA).isoformat()


def alipay_time(moment: float) -> str:
    """Alipay's form, `2026-01-02 03:04:05`, always at +08:00."""
    return datetime.datetime.fromtimestamp(int(moment), CHINA).strftime("%Y-%m-%d %H:%M:%S")


def parse_alipay_time(text: str) -> float:
    """The reverse; the older form without seconds is read too. ValueError otherwise."""
    form = "%Y-%m-%d %H:%M" if text.count(":") == 1 else "%Y-%m-%d %H:%M:%S"
    return _timestamp(datetime.datetime.strptime(text, form).replace(tzinfo=CHINA))


def parse_rfc3339(text: str) -> float:
    """The reverse of rfc3339. ValueError if it is anything else, or names no zone."""
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no zone")
    return _timestamp(moment)


def _timestamp(moment: datetime.datetime) -> float:
    try:
        return moment.timestamp()
    except OverflowError as error:
        raise ValueError("outside the calendar") from error
