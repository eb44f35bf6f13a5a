"""Limits against overload: calls in progress of all callers and of each app, and the calls of an app in a second.

A call that waits for a channel (or for a payer to confirm) uses no place, because it costs nothing here: a channel that hangs must
not make the server refuse other calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

import structlog

from paycenter_server.domain.callers import Caller
from paycenter_server.services import errors

log = structlog.get_logger(__name__)
RETRY_SECONDS = 0.2
REFUSALS_AT_ONCE = 100
"""Refusals of an app in a second that are answered at once, and as many more after a pause."""
LATE_SECONDS = 1.0
"""Further refusals are answered after so long."""
MOST_LATE = 4096
"""Refusals that wait, of all callers."""
MOST_LATE_UNKNOWN = 256
"""Of them, those of callers whose credentials were never verified: each needs memory, and who does not wait for answers is not
slowed down."""
OPERATORS, UNKNOWN = "operators", "unknown"
"""Callers whose refusals are counted together: all operators, and all whose credentials were never verified."""
_MOST_APPS = 10_000
_LOG_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """`calls`: in progress in this process. `app_calls`: of them for one app, and for all operators together. `app_rate`: calls of
    an app in a second, up to twice as many at once; 0 for no limit."""

    calls: int = 256
    app_calls: int = 128
    app_rate: float = 0.0

    @property
    def unverified_calls(self) -> int:
        """Of the calls in progress those whose credentials were never verified, so that strangers leave places for the others."""
        return max(1, self.calls // 2)


@dataclass(slots=True)
class _Tokens:
    """How often something is allowed: so many are left at a time, and as many come back in a second as `take` is told."""

    left: float
    at: float

    def there(self, rate: float, most: float) -> bool:
        """Whether there is one. `most`: as many there are at most."""
        now = _now()
        self.left, self.at = min(most, self.left + (now - self.at) * rate), now
        return self.left >= 1

    def take(self, rate: float, most: float) -> bool:
        """Whether there is one, which is taken."""
        if not self.there(rate, most):
            return False
        self.left -= 1
        return True


@dataclass(slots=True)
class _App:
    """What an app uses, or all operators together: its calls in progress, those that it may still begin, and its refusals that are
    answered at once."""

    tokens: _Tokens
    refusals: _Tokens
    calls: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """`seconds`: after how many it is answered. `many`: there were more before it than are answered at once."""

    seconds: float
    many: bool


class Place:
    """The place of a call in progress. It is given back while the call waits outside the server.

    The work may outlive its caller: then the call ends while it waits. It may also wait for several answers at once.
    """

    __slots__ = ("_admission", "_app", "_ended", "_unverified", "_waits")

    def __init__(self, admission: Admission, *, verified: bool) -> None:
        self._admission = admission
        self._app: _App | None = None
        self._unverified = not verified
        admission._unverified += self._unverified
        self._ended = False
        self._waits = 0

    def pause(self) -> None:
        """Give it back for a while. Another call may take it."""
        self._waits += 1
        if self._waits == 1 and not self._ended:
            self._admission._add(self._app, -1)

    def resume(self) -> None:
        """Take it again, also beyond the limit: a call that has begun is never refused."""
        self._waits -= 1
        if self._waits == 0 and not self._ended:
            self._admission._add(self._app, 1)

    @contextmanager
    def waiting_for_turn(self) -> Iterator[None]:
        """The time in which the call waits for its turn (`Turns`): it counts as one of its app, and leaves its place in the process
        to others."""
        self._admission._calls -= 1
        try:
            yield
        finally:
            self._admission._calls += 1

    def end(self, _: object = None) -> None:
        """Give it back for good, if it is not given back already. Work that outlives its caller uses none."""
        if not self._ended:
            self._ended = True
            if self._unverified:
                self._verify()
            if self._waits == 0:
                self._admission._add(self._app, -1)

    def _verify(self) -> None:
        """Count it no longer as one of a caller who is not known."""
        self._admission._unverified -= self._unverified
        self._unverified = False


class Pausable(Protocol):
    """What a call holds, and gives back while it waits outside the server."""

    def pause(self) -> None:
        """It begins to wait."""
        ...

    def resume(self) -> None:
        """It goes on."""
        ...


place: ContextVar[Pausable | None] = ContextVar("paycenter_place", default=None)
"""The place of the call that this task handles, or its turn; None in jobs."""


@contextmanager
def waiting_outside() -> Iterator[None]:
    """The time in which the call of this task waits for a channel or a payer."""
    taken = place.get()
    if taken is None:
        yield
        return
    taken.pause()
    try:
        yield
    finally:
        taken.resume()


class Admission:
    """Decides at once whether a call is begun."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._none_refused_below = limits.unverified_calls  # with so few calls neither limit of all callers is reached
        self._calls = 0
        self._unverified = 0
        self._apps: dict[UUID, _App] = {}
        self._operators = _App(_Tokens(0, 0), _Tokens(0, 0))
        self._others: dict[str, _Tokens] = {}
        self._late = 0
        self._late_unknown = 0
        self._refused = 0
        self._logged = float("-inf")

    @property
    def calls(self) -> int:
        """The calls in progress."""
        return self._calls

    def check(self, caller: Caller | None, *, verified: bool) -> None:
        """TOO_MANY_CALLS if a call whose headers have arrived could not be begun now. `caller`: None if it is not known by now.
        `verified`: its credential was verified before."""
        if self._calls >= self._none_refused_below:
            self._check(verified=verified)
        if caller is not None:
            self._user(caller.app_id)

    def begin(self, *, verified: bool = True) -> Place:
        """The place of a call whose message has arrived. TOO_MANY_CALLS if there is none, before anything is read to find out who
        calls."""
        if self._calls >= self._none_refused_below:
            self._check(verified=verified)
        self._calls += 1
        return Place(self, verified=verified)

    def charge(self, taken: Place, app_id: UUID | None) -> None:
        """Count the call as one of this app (None: of the operators), whose credential is verified. TOO_MANY_CALLS if the app may
        begin none; nothing has been done then."""
        if taken._unverified:
            taken._verify()
        user = self._user(app_id)
        user.tokens.left -= 1
        taken._app = user
        user.calls += 1

    def _check(self, *, verified: bool) -> None:
        if self._calls >= self._limits.calls or (not verified and self._unverified >= self._limits.unverified_calls):
            raise errors.too_many_calls("this server", RETRY_SECONDS)

    def _user(self, app_id: UUID | None) -> _App:
        """The app, or (None) the operators, who have no limit in a second. TOO_MANY_CALLS if no call of it may be begun."""
        user = self._operators if app_id is None else self._apps.get(app_id) or self._known(app_id)
        if user.calls >= self._limits.app_calls:
            raise errors.too_many_calls("the operators" if app_id is None else "this app", RETRY_SECONDS)
        rate = self._limits.app_rate
        if rate and app_id is not None and not user.tokens.there(rate, 2 * rate):
            raise errors.too_many_calls("this app", max(0.05, (1 - user.tokens.left) / rate))
        return user

    @contextmanager
    def refusal(self, caller: UUID | str, *, counted: bool = True) -> Iterator[Refusal]:
        """A call that is refused, for as long as it is. `caller`: the id of the app, OPERATORS or UNKNOWN. `counted`: the log says
        how many there are; otherwise only where they are many.

        Mostly it is answered at once. A refusal costs half as much as a create, so a caller that repeats its calls at once, as
        often as they are refused, would use the server's time all the same: such a caller is made to wait.
        """
        many = not self._refusals_of(caller).take(REFUSALS_AT_ONCE, REFUSALS_AT_ONCE)
        unknown = caller == UNKNOWN
        late = many and self._late < MOST_LATE and not (unknown and self._late_unknown >= MOST_LATE_UNKNOWN)
        self._late += late
        self._late_unknown += late and unknown
        if counted or many:
            self._note_refusal()
        try:
            yield Refusal(LATE_SECONDS if late else 0.0, many)
        finally:
            self._late -= late
            self._late_unknown -= late and unknown

    def _refusals_of(self, caller: UUID | str) -> _Tokens:
        if isinstance(caller, UUID):
            return (self._apps.get(caller) or self._known(caller)).refusals
        return self._others.setdefault(caller, _Tokens(REFUSALS_AT_ONCE, _now()))

    def _note_refusal(self) -> None:
        """Log how many calls were refused, once in some seconds: a line for each would be work that the server has no time for."""
        self._refused += 1
        now = _now()
        if now - self._logged >= _LOG_SECONDS:
            log.warning("calls_refused", refused=self._refused, in_progress=self._calls, limit=self._limits.calls)
            self._refused, self._logged = 0, now

    def _known(self, app_id: UUID) -> _App:
        if len(self._apps) >= _MOST_APPS:
            self._apps = {key: app for key, app in self._apps.items() if app.calls}
        now = _now()
        return self._apps.setdefault(app_id, _App(_Tokens(2 * self._limits.app_rate, now), _Tokens(REFUSALS_AT_ONCE, now)))

    def _add(self, app: _App | None, number: int) -> None:
        self._calls += number
        if app is not None:
            app.calls += number


def _now() -> float:
    return asyncio.get_running_loop().time()
