"""The polling intervals while waiting for a result. The caller passes the time."""

from __future__ import annotations

import grpc

from paycenter.errors import PayCenterError, WaitTimeoutError

_FIRST, _GROWTH, _LONGEST = 0.1, 1.5, 5.0
_FIRST_SYNC, _LONGEST_SYNC = 10.0, 120.0
_LEAST_CALL = 1.0
_TRANSIENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.ABORTED)


class Pace:
    """Reads after 0.1 s, then at growing intervals up to 5 s. After 10, 30, 70 … s the channel is queried too (`sync`).

    A callback normally arrives within seconds. The query is for lost callbacks, and needs a call to the channel. All times are
    seconds of one monotonic clock.
    """

    def __init__(self, timeout: float, now: float) -> None:
        self._end = now + timeout
        self._delay = _FIRST
        self._sync_gap = _FIRST_SYNC
        self._next_sync = now + _FIRST_SYNC

    def sync(self, now: float) -> bool:
        """Whether this read should query the channel."""
        if now < self._next_sync:
            return False
        self._sync_gap = min(self._sync_gap * 2, _LONGEST_SYNC)
        self._next_sync = now + self._sync_gap
        return True

    def call_timeout(self, default: float, now: float) -> float:
        """The time-out of one read: until the end, but at least one second."""
        return max(_LEAST_CALL, min(default, self._end - now))

    def delay(self, now: float) -> float | None:
        """The seconds until the next read; None after the end."""
        left = self._end - now
        if left <= 0:
            return None
        delay, self._delay = self._delay, min(self._delay * _GROWTH, _LONGEST)
        return min(delay, left)


def is_transient(error: PayCenterError) -> bool:
    """Whether waiting continues after this error of one read."""
    return error.code in _TRANSIENT


def timed_out(what: str, timeout: float, last: object, error: PayCenterError | None) -> WaitTimeoutError:
    """The error at the end of the waiting time, with the result of the last read."""
    why = f"; the last answer was: {error}" if error is not None else ""
    return WaitTimeoutError(f"{what} was not decided within {timeout:g} s{why}. Wait again, or read it later.", last)
