"""The simulator's clock: real time plus an offset that people and scripts set.

It drives everything that happens later: expiry, refunds that finish, the ladders on which notifications are sent again. Signature
time stamps do not follow it, in either direction: the other side checks those against its own, real clock.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable

__all__ = ["CHINA", "Clock", "alipay_time", "parse_alipay_time", "rfc3339"]

CHINA = datetime.timezone(datetime.timedelta(hours=8))


class Clock:
    """Seconds since the epoch, shifted; `changed` is called after each shift."""

    def __init__(self) -> None:
        self.offset = 0.0
        self.changed: Callable[[], None] = lambda: None

    def now(self) -> float:
        """The simulated time."""
        return time.time() + self.offset

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
    return datetime.datetime.strptime(text, form).replace(tzinfo=CHINA).timestamp()
