"""Retry schedules as tables. The caller passes the time and the jitter."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

_MINUTE = 60
_HOUR = 3600

# 15 s, 15 s, 30 s, 3 min, 30 min x3, 1 h as in the reference, then growing delays: 18 deliveries in 77 hours.
NOTIFICATION_DELAYS: tuple[int, ...] = (
    15, 15, 30, 3 * _MINUTE, 30 * _MINUTE, 30 * _MINUTE, 30 * _MINUTE, 1 * _HOUR,
    2 * _HOUR, 3 * _HOUR, 4 * _HOUR, 6 * _HOUR, 8 * _HOUR, 10 * _HOUR, 12 * _HOUR, 14 * _HOUR, 15 * _HOUR,
)  # fmt: skip
NOTIFICATION_MAX_TIMES = len(NOTIFICATION_DELAYS) + 1
NOTIFICATION_JITTER = 0.1

# The polling intervals that WeChat Pay recommends, then every half hour without end (rule 6).
ORDER_SYNC_DELAYS: tuple[int, ...] = (5, 30, 60, 180, 300, 600, 1800)
# WeChat Pay v3, "Query a refund": every minute, and less often after 5 minutes.
REFUND_SYNC_DELAYS: tuple[int, ...] = (10, 60, 60, 60, 60, 300, 600, 1800, 3600)
EXPIRE_RETRY_DELAYS: tuple[int, ...] = (10, 30, 60, 300, 900, 1800)

STALE_AFTER = timedelta(days=1)

# A request without a clear answer may be carried out by the channel for so long. A "not found" from before then decides nothing.
REQUEST_LIFE = timedelta(minutes=10)

# Final states are looked at again, because channels contradict themselves: five minutes, an hour and a day later.
VERIFY_DELAYS: Mapping[str, tuple[int, ...]] = {
    "pay_refund FAILURE": (5 * _MINUTE, _HOUR, 24 * _HOUR),
    "pay_attempt CLOSED": (5 * _MINUTE, _HOUR, 24 * _HOUR),
}
FAILED_REFUND, CLOSED_ATTEMPT = VERIFY_DELAYS
# A final state that is still being looked at so long after it became final is stale: its looks have no clear answer.
VERIFIED_AFTER = timedelta(seconds=max(delays[-1] for delays in VERIFY_DELAYS.values())) + STALE_AFTER

# Attempts with a shorter life are bar code payments: the payer waits at the point of sale.
SHORT_LIFE = timedelta(minutes=2)
POINT_OF_SALE_STEP = timedelta(seconds=4)


def notification_delay(notify_times: int, jitter: float, retry_after: float | None = None) -> timedelta | None:
    """The delay between delivery number `notify_times` (from 1) and the next one; None if it was the last.

    `jitter` is from 0 to 1 and only increases the delay. `retry_after` (seconds, from 429 or 503) is obeyed up to a day.
    """
    if notify_times > len(NOTIFICATION_DELAYS):
        return None
    seconds = NOTIFICATION_DELAYS[notify_times - 1] * (1 + NOTIFICATION_JITTER * jitter)
    if retry_after is not None:
        seconds = max(seconds, min(retry_after, 24 * _HOUR))
    return timedelta(seconds=seconds)


def widening(delays: tuple[int, ...], times: int) -> timedelta:
    """The delay after check number `times` (from 0). The last delay repeats without end."""
    return timedelta(seconds=delays[min(times, len(delays) - 1)])


def due_after(now: datetime, delays: tuple[int, ...], times: int) -> datetime:
    """The time of the next check."""
    return now + widening(delays, times)


def looks(kind: str, since: datetime) -> list[datetime]:
    """The times of all looks at a state that is final since `since`."""
    return [since + timedelta(seconds=delay) for delay in VERIFY_DELAYS[kind]]


def next_look(kind: str, since: datetime, now: datetime) -> datetime | None:
    """The time of the next look at a state that is final since `since`; None after the last one."""
    return next((when for when in looks(kind, since) if when > now), None)
