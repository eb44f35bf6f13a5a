"""The limits of the jobs' channel calls for each account; `services/places.py` says how they work.

The job that syncs attempts and the one that syncs refunds have their own places and tokens for each account, because channels limit
each of their APIs by itself, and so that a backlog of one job does not stop the other. They share the breaker of the account. The
channel gateway reports the outcome of every call, also of calls for callers, which these limits do not hold up.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from datetime import timedelta
from types import TracebackType
from uuid import UUID

import structlog

from paycenter_server.services.context import Clock, Options
from paycenter_server.services.places import Breakers, Limits, Places

log = structlog.get_logger(__name__)

# The gateway allows more calls of an account at the same time than both jobs have places for (256).
TOTAL_PLACES = 128
SLOW_PLACES = 64
FIRST_PLACES = 8
FAST_SECONDS = 1.0
FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(seconds=60)


class AccountPlaces:
    """The places of each account for both jobs, and its breaker. A process has one."""

    def __init__(self, options: Options, clock: Clock) -> None:
        limits = Limits(
            total=TOTAL_PLACES, slow=SLOW_PLACES, each=options.account_places, first=FIRST_PLACES, fast_seconds=FAST_SECONDS,
            failures=options.account_breaker_failures, first_pause=FIRST_PAUSE, longest_pause=LONGEST_PAUSE,
            rate=options.account_calls_per_second, burst=options.account_calls_burst,
        )  # fmt: skip
        self._clock = clock
        self._breakers = Breakers[UUID](limits)
        self.attempts = Places[UUID](limits, self._breakers)
        self.refunds = Places[UUID](limits, self._breakers)

    def is_open(self, account_id: UUID) -> bool:
        """Whether the breaker of an account is open."""
        return self._breakers.is_open(account_id)

    def answered(self, account_id: UUID, seconds: float) -> None:
        """A call was answered clearly after `seconds`. Closes the breaker."""
        was_open = self._breakers.answered(account_id)
        if was_open:
            log.info("channel_account_answers_again", account=str(account_id))
        for places in (self.attempts, self.refunds):
            places.answered(account_id, seconds, was_open=was_open)

    def unanswered(self, account_id: UUID) -> None:
        """A call had no answer, a 5xx, or one that cannot be read. Behind an open breaker only those of jobs are trials."""
        if self._breakers.unanswered(account_id, self._clock.now(), trial=_row.get() is not None):
            log.warning("channel_account_does_not_answer", account=str(account_id))
        for places in (self.attempts, self.refunds):
            places.unanswered(account_id)


_row: ContextVar[RowCalls | None] = ContextVar("paycenter_row_calls", default=None)


class RowCalls:
    """A place that is in use: a context in which a job works on one row. It counts the calls, and releases the place at its end.

    The place brought the token of the first call. Each further call takes one, without waiting, so the lease of the row does not
    depend on the rate; the next claims wait for these tokens. A row whose work failed keeps its token also if there was no call.
    """

    def __init__(self, places: Places[UUID], account_id: UUID, clock: Clock) -> None:
        self._places = places
        self._account_id = account_id
        self._clock = clock
        self._calls = 0
        self._failed = False
        self._token: Token[RowCalls | None] | None = None

    def __enter__(self) -> RowCalls:
        self._token = _row.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._token is not None:
            _row.reset(self._token)
        if self._calls or self._failed:
            self._places.release(self._account_id)
        else:
            self._places.give_back(self._account_id)

    def failed(self) -> None:
        """The work has raised an exception. What fails without a call would otherwise be claimed as fast as the database allows, as
        all rows of an account do whose key is missing."""
        self._failed = True

    def _count(self) -> None:
        self._calls += 1
        if self._calls > 1:
            self._places.spend(self._account_id, self._clock.now())


def count_call() -> None:
    """Count a channel call of this task, if a job makes it."""
    if (row := _row.get()) is not None:
        row._count()
