"""The limits of each key by themselves: what keeps a key from being claimed, and for how long."""

from __future__ import annotations

from uuid import uuid4

from paycenter_server.services.accounts_places import LONGEST_PAUSE, AccountPlaces
from support.system import FakeClock, PayCenterSystem


async def test_failing_calls_of_callers_do_not_postpone_the_trial(system: PayCenterSystem) -> None:
    """One API of an account fails for callers all the time. The jobs, which use others, try the account once in each pause."""
    clock, account = FakeClock(), uuid4()
    places = AccountPlaces(system.services.context.options, clock)
    for _ in range(system.services.context.options.account_breaker_failures):
        places.unanswered(account)
    assert places.is_open(account)
    trials = 0
    for _ in range(2 * int(LONGEST_PAUSE.total_seconds())):
        clock.advance(1)
        places.unanswered(account)
        if places.attempts.reserve([account], clock.now()):
            trials += 1
            places.attempts.release(account)
    assert trials, "no attempt of the account would ever be queried again"
